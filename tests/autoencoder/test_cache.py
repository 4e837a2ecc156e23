"""The latent cache: the same latents as encoding pixels would give, for one key and no other."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
from datasets import Dataset
from diffusers import AutoencoderKL
from PIL import Image

import autoencoder.cache as cache_module
import autoencoder.codec as codec_module
from autoencoder.cache import LatentCache
from autoencoder.codec import KLCodec
from autoencoder.latents import standardize
from autoencoder.model import build_autoencoder
from ldm.config import load_config
from ldm.core import files, keyed
from ldm.core.errors import UserError
from ldm.core.share import ALONE
from ldm.core.sums import read_sealed
from ldm.data import quarantine
from ldm.data.pictures.bad import BadImage
from ldm.data.pixels import to_pixels
from ldm.store.shards import RESIDENT_BYTES, SEAL, Store, TensorColumn, open_shards
from tests.autoencoder.conftest import KeptFlowers
from tests.damage import DAMAGES

SETTINGS = ["data.resolution=32", "data.workers=0"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD", 16)


def build(vae, source, folder, *more: str, **options) -> LatentCache:
    config = load_config(None, [*SETTINGS, *more])
    return LatentCache.build(KLCodec(vae), source, config, folder, 0, "cpu", ALONE, **options)


def pixels(source, index: int, flip: bool) -> torch.Tensor:
    raw = to_pixels(source.image(index), 32, "center", flip)
    return raw[None].float() / 127.5 - 1


def test_samples_are_what_encoding_the_pixels_would_give(vae, source, folder):
    cache = build(vae, source, folder)
    indices, flips = [0, 17, 39, 5], [False, True, True, False]
    noise = torch.randn(4, *cache.shape, generator=torch.manual_seed(0))
    got = cache.sample(indices, [0] * 4, flips, noise)
    mean, std = (s.float()[:, None, None] for s in cache.statistics)
    for row, (index, flip) in enumerate(zip(indices, flips, strict=True)):
        posterior = vae.encode(pixels(source, index, flip)).latent_dist
        sample = posterior.mean + posterior.std * noise[row]
        torch.testing.assert_close(got[row], ((sample - mean) / std)[0], atol=1e-5, rtol=1e-5)
        assert cache.name(index) == source.name(index)
        assert cache.captions(index) == source.captions(index)


def test_what_follows_does_not_depend_on_whether_the_cache_was_there(vae, source, folder):
    drawn, statistics = [], []
    for _ in range(2):  # encoded, then found
        torch.manual_seed(0)
        statistics.append(build(vae, source, folder).statistics)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))
    (folder / "statistics.json").unlink()
    again = build(vae, source, folder).statistics
    assert all(torch.equal(a, b) for a, b in zip(again, statistics[0], strict=True))


def test_the_exported_autoencoder_has_latents_of_mean_0_and_std_1(vae, source, folder, tmp_path):
    cache = build(vae, source, folder)
    standardize(vae, *cache.statistics).save_pretrained(tmp_path / "vae")
    stock = AutoencoderKL.from_pretrained(tmp_path / "vae")
    images = [pixels(source, i, flip) for i in range(len(source)) for flip in (False, True)]
    posterior = stock.encode(torch.cat(images)).latent_dist
    mean = posterior.mean.mean((0, 2, 3))
    variance = posterior.mean.var((0, 2, 3), correction=0) + posterior.var.mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance.sqrt(), torch.ones(4), atol=1e-4, rtol=0)


def test_statistics_are_of_samples_not_of_means(vae, source, folder):
    cache = build(vae, source, folder)
    indices = list(range(len(source))) * 20
    flips = [i % 2 == 0 for i in range(len(source))] * 10 + [i % 2 for i in range(len(source))] * 10
    noise = torch.randn(len(indices), *cache.shape, generator=torch.manual_seed(0))
    samples = cache.sample(indices, [0] * len(indices), flips, noise)
    torch.testing.assert_close(samples.mean((0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(samples.std((0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)


def test_a_validation_set_is_standardised_by_the_training_set(vae, source, folder, tmp_path):
    train = build(vae, source, folder)
    other = build(vae, source, tmp_path / "other", "data.flip=false", statistics=train.statistics)
    assert other.statistics is train.statistics
    noise = torch.randn(1, *train.shape, generator=torch.manual_seed(0))
    same = train.sample([3], [0], [False], noise)
    assert torch.equal(other.sample([3], [0], [False], noise), same)


def test_without_standardising_the_vaes_own_scale_and_shift_hold(vae, source, folder):
    vae.register_to_config(scaling_factor=0.25, shift_factor=0.5)
    cache = build(vae, source, folder, "autoencoder.standardize=false")
    got = cache.sample([2], [0], [False], torch.zeros(1, *cache.shape))
    expected = (vae.encode(pixels(source, 2, False)).latent_dist.mean - 0.5) * 0.25
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_an_interrupted_encoding_goes_on_where_it_stopped(vae, source, folder, monkeypatch):
    whole = build(vae, source, folder.with_name("whole"))
    encoded = []
    real = codec_module.encode_moments

    def counted(*args):
        if len(encoded) == 1:
            raise KeyboardInterrupt
        encoded.append(len(args[1]))
        return real(*args)

    monkeypatch.setattr(codec_module, "encode_moments", counted)
    with pytest.raises(KeyboardInterrupt):
        build(vae, source, folder)
    assert sorted(p.name for p in folder.glob("*.arrow")) == ["00000.arrow"]
    left_over = folder / f".writing_{files._HOST}_{2**22 + 1}_0"  # of a process that was killed
    left_over.mkdir()
    (left_over / "00001.arrow").write_bytes(b"half a file")

    encoded.clear()
    monkeypatch.setattr(codec_module, "encode_moments", lambda *a: encoded.append(1) or real(*a))
    cache = build(vae, source, folder)
    assert len(encoded) == 2  # the two shards that were missing, each in one batch
    assert not list(folder.glob(".*"))
    noise = torch.randn(40, *cache.shape, generator=torch.manual_seed(0))
    rows = list(range(40)), [0] * 40, [True] * 40
    assert torch.equal(cache.sample(*rows, noise), whole.sample(*rows, noise))

    encoded.clear()
    build(vae, source, folder)
    assert not encoded  # nothing is done twice


def contents(cache) -> tuple:
    """All that training sees of it."""
    noise = torch.randn(40, *cache.shape, generator=torch.manual_seed(0))
    latents = cache.sample(list(range(40)), [0] * 40, [True] * 40, noise)
    return latents.tolist(), cache.statistics.figures(), cache.quarantine


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An autoencoder, its cache, and what is in it."""
    torch.manual_seed(0)
    vae = build_autoencoder({"block_out_channels": [8, 8, 8], "norm_num_groups": 4})
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "SHARD", 16)
        return vae, folder, contents(build(vae, KeptFlowers(40, 32), folder))


@pytest.fixture
def copied(built, folder):
    shutil.copytree(built[1], folder)
    return built


SHARD_DAMAGES = [(name, "00001.arrow") for name in DAMAGES]
JSON_DAMAGES = [(name, file) for name in DAMAGES for file in ("key.json", "statistics.json")]


@pytest.mark.parametrize(
    ("damage", "name"), [*SHARD_DAMAGES, *JSON_DAMAGES, ("deleted", "quarantine.jsonl")]
)
def test_a_damaged_file_is_noticed_and_made_again(copied, source, folder, capsys, damage, name):
    vae, whole, expected = copied
    DAMAGES[damage](folder / name)
    assert contents(build(vae, source, folder)) == expected
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }
    said = f"{name} is damaged: made again" in capsys.readouterr().out
    assert said == (damage != "deleted" and name in ("00001.arrow", "key.json"))


@pytest.mark.parametrize("by", ["another of its rows", "one of another key", "a folder"])
def test_a_shard_that_was_replaced_is_made_again(copied, source, folder, capsys, by):
    vae, _, expected = copied
    shard = folder / "00001.arrow"
    if by == "another of its rows":
        shutil.copy(folder / "00000.arrow", shard)
    elif by == "a folder":
        shard.unlink()
        shard.mkdir()
    else:
        rows = [{"name": "x", "reason": None, "moments": [0.0] * 1024}] * 16
        features = Dataset.from_file(str(shard)).features
        columns = {k: [row[k] for row in rows] for k in features}
        Store(folder, {"autoencoder": "another"}).write(shard, columns, features)
    assert contents(build(vae, source, folder)) == expected
    assert "00001.arrow is damaged: made again" in capsys.readouterr().out


def as_older_versions_left_it(folder) -> None:
    """Without a sum in any file."""
    for path in folder.glob("*.arrow"):
        os.truncate(path, path.stat().st_size - SEAL)
    for path in folder.glob("*.json"):
        value = read_sealed(path)
        path.write_text(json.dumps({k: v for k, v in value.items() if k != "of"}))


def test_a_cache_of_an_older_version_is_taken_on_and_sealed(copied, source, folder, monkeypatch):
    vae, whole, expected = copied
    as_older_versions_left_it(folder)
    monkeypatch.setattr(codec_module, "encode_moments", None)  # nothing is encoded
    assert contents(build(vae, source, folder)) == expected
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }


def test_what_an_older_version_left_damaged_is_made_again(copied, source, folder, capsys):
    vae, _, expected = copied
    as_older_versions_left_it(folder)
    DAMAGES["cut"](folder / "00001.arrow")
    DAMAGES["empty"](folder / "00002.arrow")
    assert contents(build(vae, source, folder)) == expected
    assert "00001.arrow is damaged: made again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.flip=false"], "flip was True and is False"),
        (["data.resolution=16"], "resolution was 32 and is 16"),
        (["autoencoder.cache_dtype=float16"], "dtype was 'float32' and is 'float16'"),
        (["data.crop=random"], "crop was 'center' and is 'random, seed 0'"),
    ],
)
def test_a_stale_key_rebuilds_and_says_which_part_changed(vae, source, folder, capsys, more, said):
    build(vae, source, folder)
    assert "stale" not in capsys.readouterr().out
    cache = build(vae, source, folder, *more)
    assert said in capsys.readouterr().out
    side = 4 if "data.resolution=16" in more else 8
    assert len(cache) == 40 and cache.shape == (4, side, side)


def test_other_weights_or_other_images_rebuild_the_cache(vae, source, folder, capsys):
    build(vae, source, folder)
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] += 1e-3
    build(vae, source, folder)
    assert "autoencoder was" in capsys.readouterr().out
    source.fingerprint = "other captions"
    build(vae, source, folder)
    assert "stale" not in capsys.readouterr().out
    source.image_fingerprint = "other images"
    build(vae, source, folder)
    assert "images was" in capsys.readouterr().out


def test_what_gives_no_finite_latents_is_quarantined_by_name(vae, source, folder, monkeypatch):
    monkeypatch.setattr(quarantine, "TOLERATED", 0.1)
    real, fetch = codec_module.encode_moments, type(source).image

    def poisoned(model, x):
        moments = real(model, x)
        if len(x) == 16:
            moments[3, 0, 0, 0] = float("nan")
        return moments

    def broken(self, i):
        if i == 20:
            raise BadImage(self.name(20), "it is broken")
        return fetch(self, i)

    monkeypatch.setattr(codec_module, "encode_moments", poisoned)
    monkeypatch.setattr(type(source), "image", broken)
    cache = build(vae, source, folder, "data.flip=false")
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    named = {json.loads(line)["name"]: json.loads(line)["reason"] for line in lines}
    assert named == {
        source.name(3): "its latents are not finite in float32",
        source.name(20): "it is broken",
    }
    assert len(cache) == 38
    assert [cache.name(i) for i in (2, 3, 18, 19)] == [source.name(i) for i in (2, 4, 19, 21)]
    assert all(torch.isfinite(s).all() for s in cache.statistics)


def test_float16_that_overflows_is_quarantined_and_many_stop_the_run(vae, source, folder):
    with torch.no_grad():
        vae.quant_conv.bias[1] = 1e5
    with pytest.raises(UserError, match=r"40 of 40 .* no latents.*cache_dtype=float32"):
        build(vae, source, folder, "autoencoder.cache_dtype=float16")


def test_random_crops_are_cached_as_views(vae, source, folder):
    class Wide(type(source)):
        def image(self, i):
            flower, wide = super().image(i), Image.new("RGB", (64, 32))
            wide.paste(flower, (0, 0))
            wide.paste(flower.transpose(Image.Transpose.ROTATE_90), (32, 0))
            return wide

    wide = Wide(8, 32)
    cache = build(vae, wide, folder, "data.crop=random", "autoencoder.views=3")
    assert cache.views == 3
    zero = torch.zeros(3, *cache.shape)
    views = cache.sample([4, 4, 4], [0, 1, 2], [False] * 3, zero)
    mean, std = (s.float()[:, None, None] for s in cache.statistics)
    for view in range(3):
        crop = to_pixels(
            wide.image(4), 32, "random", False, keyed.generator(0, "cached crop", 4, view)
        )
        expected = vae.encode(crop[None].float() / 127.5 - 1).latent_dist.mean
        torch.testing.assert_close(views[view], ((expected - mean) / std)[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(views[0], views[1])


def test_memory_mapped_rows_are_the_resident_ones(vae, source, folder):
    cache = build(vae, source, folder)
    shards = open_shards(sorted(folder.glob("*.arrow")))
    shape = (1, 2, 8, 8, 8)
    resident = TensorColumn(shards, "moments", shape, RESIDENT_BYTES)
    mapped = TensorColumn(shards, "moments", shape, 0)
    assert len(resident.blocks()) == 1 and len(mapped.blocks()) == 3
    rows = [39, 0, 16, 15, 16]
    assert torch.equal(resident.gather(rows), mapped.gather(rows))
    assert len(mapped) == len(cache) == 40


def test_the_files_are_those_of_datasets(vae, source, folder):
    build(vae, source, folder)
    rows = Dataset.from_file(str(folder / "00002.arrow"))
    assert rows["name"] == [source.name(i) for i in range(32, 40)]
    assert rows.features["moments"].length == 2 * 8 * 8 * 8


def test_an_unknown_dtype_is_refused(vae, source, folder):
    with pytest.raises(UserError, match="not one of float32, float16"):
        build(vae, source, folder, "autoencoder.cache_dtype=bfloat16")
    assert dataclasses.asdict(load_config(None))["autoencoder"]["cache_dtype"] == "float32"
