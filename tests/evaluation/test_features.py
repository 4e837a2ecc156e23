"""Every extractor runs offline here on a small model of its own architecture, saved to a folder."""

import json
from itertools import pairwise

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from ldm.config import DataConfig
from ldm.core.errors import UserError
from ldm.core.fingerprint import weight_hash
from ldm.core.share import Share
from ldm.data.drawn import DrawnFlowers
from ldm.data.pixels import pixels_of, to_pixels
from ldm.data.source import open_source
from ldm.evaluation.features.clip_score import ClipScore
from ldm.evaluation.features.extractor import Extractor
from ldm.evaluation.features.inception import FIDInception
from ldm.evaluation.features.names import load_extractor
from ldm.evaluation.features.network import (
    load_feature_network,
    random_feature_network,
    save_feature_network,
)
from ldm.evaluation.features.references import reference_features
from ldm.evaluation.features.training import train_features, views
from ldm.evaluation.frechet import frechet_distance, moments
from tests.damage import DAMAGES


@pytest.fixture(scope="module")
def images():
    """40 drawn flowers, uint8 (40, 3, 48, 48)."""
    source = open_source(DataConfig(source="drawn", size=40, resolution=48))
    return pixels_of(source, 48)[0]


@pytest.fixture(scope="module")
def untrained():
    return Extractor("untrained", random_feature_network(32), 32)


def test_dinov2_and_clip_folders_give_what_the_models_give(images, tmp_path):
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        Dinov2Config,
        Dinov2Model,
    )

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    dino = Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14)).eval()
    clip = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**small, image_size=28, patch_size=14, projection_dim=24)
    ).eval()
    dino.save_pretrained(tmp_path / "dino")
    clip.save_pretrained(tmp_path / "clip")
    batch = images[:3]
    own = load_extractor(f"clip:{tmp_path / 'clip'}")
    assert own.resolution == 28 and own(batch).shape == (3, 24)
    x = torch.nn.functional.interpolate(
        batch / 255, size=(224, 224), mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = dino((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).pooler_output
    found = load_extractor(f"dinov2:{tmp_path / 'dino'}")
    torch.testing.assert_close(found(batch), expected)
    assert found.weights == weight_hash(dino) and found.weights in found.label


def test_resizing_is_pillows_antialiased_bicubic(untrained):
    seen = {}

    def look(network, x):
        seen["x"] = x
        return x.flatten(1)

    looking = Extractor("looking", untrained.network, 32, project=look)
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    looking(torch.from_numpy(picture).permute(2, 0, 1)[None])
    expected = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    found = ((seen["x"][0].permute(1, 2, 0) * 0.5 + 0.5) * 255).numpy()
    assert np.abs(found - expected).max() < 1.0  # Pillow rounds after each axis


def test_features_do_not_depend_on_how_images_are_handed_over(images, untrained):
    whole = untrained.extract(images)
    assert whole.shape == (40, 128)
    assert torch.equal(untrained.extract(iter(images)), whole)
    torch.testing.assert_close(untrained(images[:5]), whole[:5], rtol=1e-4, atol=1e-5)


def test_fid_inception_pools_as_the_tensorflow_graph_does(images, tmp_path):
    torch.manual_seed(0)
    network = FIDInception().eval()
    x = torch.rand(1, 192, 9, 9)
    block = network.Mixed_5b
    neighbours = torch.nn.functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
    mean = torch.nn.functional.avg_pool2d(x, 3, 1, 1) / neighbours  # of those inside the picture
    pooled = block.branch_pool(mean)
    torch.testing.assert_close(block(x)[:, -pooled.shape[1] :], pooled)
    y = torch.rand(1, 2048, 5, 5)
    last = network.Mixed_7c
    pooled = last.branch_pool(torch.nn.functional.max_pool2d(y, 3, 1, 1))
    torch.testing.assert_close(last(y)[:, -pooled.shape[1] :], pooled)

    torch.save(network.state_dict(), tmp_path / "inception.pth")
    extractor = load_extractor(f"inception:{tmp_path / 'inception.pth'}")
    assert extractor(images[:2]).shape == (2, 2048) and extractor.resolution == 299


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    """A folder in open_clip's format."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16,
                       "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder = tmp_path_factory.mktemp("clip")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    about = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    return folder


def test_clip_score_is_the_cosine_of_open_clips_own_embeddings(small_clip, images):
    score = ClipScore(str(small_clip))
    prompts = ["a red flower", "a blue bird", "a red flower"]
    model = open_clip.create_model(f"local-dir:{small_clip}").eval()
    x = torch.nn.functional.interpolate(
        images[:3] / 255, size=(32, 32), mode="bicubic", antialias=True
    ).clamp(0, 1)
    with torch.no_grad():
        seen = model.encode_image((x - 0.5) / 0.25, normalize=True)
        read = model.encode_text(open_clip.tokenize(prompts), normalize=True)
    expected = 100 * (seen * read).sum(1).clamp(min=0)
    torch.testing.assert_close(score(images[:3], prompts), expected, rtol=1e-4, atol=1e-3)
    assert load_extractor(f"open_clip:{small_clip}").extract(images).shape == (40, 16)


@pytest.mark.parametrize(
    "spec", ["resnet", "trained:nowhere", "dinov2:nowhere/at-all", "open_clip:nowhere/at-all"]
)
def test_features_that_are_not_there_end_in_a_sentence(spec, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"features|CLIP"):
        load_extractor(spec)


def test_views_are_crops_of_the_image_and_keyed(images):
    x = images[:6].float() / 127.5 - 1
    first = views(x, torch.Generator().manual_seed(0))
    assert torch.equal(first, views(x, torch.Generator().manual_seed(0)))
    assert first.shape == x.shape and not torch.allclose(first, x)
    flat = torch.full((6, 3, 16, 16), 0.3)
    torch.testing.assert_close(views(flat, torch.Generator()), flat)


def test_training_features_is_repeatable_saves_and_learns(tmp_path):
    source = open_source(DataConfig(source="drawn", size=150, resolution=32))
    options = {"data_name": "drawn", "resolution": 32, "batch_size": 32, "progress": False}
    before = torch.random.get_rng_state()
    network = train_features(source, tmp_path / "a", steps=25, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    few, again = (train_features(source, tmp_path / n, steps=2, **options) for n in "bc")
    assert weight_hash(few) == weight_hash(again) != weight_hash(network)
    loaded, name = load_feature_network(tmp_path / "a")
    assert weight_hash(loaded) == weight_hash(network) and "drawn, 25 steps" in name
    facts = json.loads((tmp_path / "a" / "features.json").read_text())
    assert facts["label_accuracy"] > 0.4  # of seven colours, the commonest 18 %
    assert load_extractor(f"trained:{tmp_path / 'a'}").weights == weight_hash(network)


def blurred(image, strength):
    return image.filter(ImageFilter.GaussianBlur(strength))


def noisy(image, strength):
    noise = np.random.default_rng(0).normal(0, 20 * strength, (48, 48, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("damage", [blurred, noisy], ids=["blur", "noise"])
def test_frechet_distance_rises_with_damage(damage, images, untrained):
    real = moments(untrained.extract(images))
    pictures = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in images]

    def at(strength):
        damaged = torch.stack([to_pixels(damage(p, strength), 48) for p in pictures])
        return frechet_distance(moments(untrained.extract(damaged)), real)

    curve = [at(strength) for strength in (0, 0.5, 1, 1.5, 2, 3)]
    assert all(a < b for a, b in pairwise(curve)), curve


@pytest.mark.parametrize("side", [40, 72, 100])
def test_any_resolution_has_features(side):
    assert random_feature_network(side)(torch.zeros(2, 3, side, side)).shape == (2, 128)


def test_frechet_distance_rises_as_modes_are_dropped(images, untrained):
    source = open_source(DataConfig(source="drawn", size=240, resolution=32))
    features = untrained.extract(pixels_of(source, 32)[0])
    labels = torch.tensor([source.label(i) for i in range(len(source))])
    real = moments(features)
    curve = [frechet_distance(moments(features[labels < kept]), real) for kept in (7, 5, 3, 2, 1)]
    assert all(a < b for a, b in pairwise(curve)), curve


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["features.json", "features.safetensors"])
def test_trained_features_that_are_damaged_are_refused(tmp_path, damage, file):
    save_feature_network(random_feature_network(16), tmp_path, {"data": "nothing", "steps": 0})
    load_feature_network(tmp_path)
    DAMAGES[damage](tmp_path / file)
    with pytest.raises(UserError, match=str(tmp_path)):
        load_feature_network(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_reference_is_made_again(tmp_path, damage, capsys):
    source = DrawnFlowers(6, 16)
    extractor = Extractor("random", random_feature_network(16), None)
    first = reference_features(extractor, source, 16, tmp_path, Share())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    DAMAGES[damage](path)
    again = reference_features(extractor, source, 16, tmp_path, Share())
    assert torch.equal(again, first) and path.read_bytes() == content
    assert ("damaged" in capsys.readouterr().out) == (damage != "deleted")
