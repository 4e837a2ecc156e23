"""What is loaded is whole, in the variant there is, and what cannot be gets a sentence."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import SD_BETAS, generator, quiet, stock_pipeline, tiny_parts, tiny_pipeline
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from autoencoder.model import load_autoencoder
from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig
from ldm.core.errors import UserError
from ldm.models.weights import load_part
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.text_to_image import TextToImagePipeline

CLASS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def anothers(folder):
    """As somebody else's folder is: nothing says which files belong together."""
    (folder / "ldm.json").unlink()
    index = json.loads((folder / "model_index.json").read_text())
    del index["_defaults"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_pipeline("joint").save_pretrained(folder)
    return anothers(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Another, whose tokenizer is sooner loaded."""
    folder = tmp_path_factory.mktemp("small")
    tiny_pipeline("class").save_pretrained(folder)
    return anothers(folder)


def edited(source, target, change):
    """A copy of a part's folder, its tensors changed."""
    shutil.copytree(source, target)
    (file,) = target.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata={"format": "pt"})
    return target


def renamed(key, other):
    return lambda tensors: tensors.update({other: tensors.pop(key)})


def spoilt(key, value):
    def change(tensors):
        tensors[key].flatten()[3] = value

    return change


TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NORM = "text_model.final_layer_norm.weight"
FC1 = "text_model.encoder.layers.{}.mlp.fc1.weight"


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 10**9},
        {"block_out_channels": [10**9, 10**9]},
        {"norm_num_groups": 0},
        {"act_fn": ["a", "list"]},
    ],
)
def test_a_config_that_no_network_can_have_is_a_sentence(small, tmp_path, change):
    folder = tmp_path / "unet"
    shutil.copytree(small / "unet", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match="unet"):
        load_part(UNet2DConditionModel, folder)


def test_weights_that_are_a_pipe_are_not_waited_for(small, tmp_path):
    folder = tmp_path / "unet"
    shutil.copytree(small / "unet", folder)
    (file,) = folder.glob("*.safetensors")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="holds no weights"):
        load_part(UNet2DConditionModel, folder)


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("unet", lambda t: t.pop("conv_out.weight"), r"not whole, it lacks conv_out\.weight$"),
        ("unet", renamed(f"{TO_Q}.weight", f"{TO_Q}.base_layer.weight"), "LoRA that is not fused"),
        ("unet", lambda t: t.update(x=torch.ones(1)), r"other tensors .* above all x$"),
        ("unet", lambda t: t.update({"conv_out.weight": torch.ones(4, 3)}), r"conv_out\.weight"),
        ("unet", spoilt("conv_in.weight", torch.nan), r"not finite: conv_in\.weight$"),
        ("vae", lambda t: t.pop("decoder.conv_out.bias"), r"lacks decoder\.conv_out\.bias$"),
        ("vae", spoilt("quant_conv.bias", torch.inf), r"not finite: quant_conv\.bias$"),
        ("text_encoder", lambda t: t.pop(NORM), r"lacks final_layer_norm\.weight$"),
        ("text_encoder", lambda t: t.update({NORM: torch.ones(7)}), "another shape .* final_layer"),
        ("text_encoder", renamed(FC1.format(0), FC1.format(7)), "lacks encoder.layers.0.mlp.fc1"),
        ("text_encoder", lambda t: t.update({FC1.format(7): torch.ones(2)}), "layers.7.mlp.fc1"),
    ],
)
def test_a_part_that_is_not_whole_is_refused_naming_the_tensor(
    whole, tmp_path, part, change, sentence
):
    folder = edited(whole / part, tmp_path / "part", change)
    with pytest.raises(UserError, match=sentence) as caught:
        load_part(CLASS[part], folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def flat(tensors):
    for key in list(tensors):
        tensors[key.removeprefix("text_model.")] = tensors.pop(key)


def with_the_rest_of_clip(tensors):
    tensors["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    tensors |= {k: torch.ones(2) for k in ("vision_model.a", "logit_scale")}
    tensors["text_projection.weight"] = torch.ones(2, 2)


def as_vaes_were_saved_before(tensors):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for key in list(tensors):
        for new, old in names.items():
            if f".attentions.0.{new}." in key:
                tensors[key.replace(new, old)] = tensors.pop(key)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_encoder", flat),
        ("text_encoder", with_the_rest_of_clip),
        ("vae", as_vaes_were_saved_before),
        ("unet", lambda t: t.update({TO_Q.replace("to_q", "to_qkv.weight"): torch.ones(2)})),
    ],
)
def test_the_dialects_of_public_folders_are_whole(whole, tmp_path, part, change):
    folder = edited(whole / part, tmp_path / "part", change)
    ours, theirs = (load_part(CLASS[part], f).state_dict() for f in (whole / part, folder))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_way_to_load_a_part_asks_whether_it_is_whole(small, tmp_path):
    shutil.copytree(small, tmp_path / "p")
    for part, key in (("text_encoder", NORM), ("vae", "decoder.conv_in.bias")):
        shutil.rmtree(tmp_path / "p" / part)
        edited(small / part, tmp_path / "p" / part, lambda tensors, key=key: tensors.pop(key))
    for load in (
        lambda: TextToImagePipeline.from_pretrained(tmp_path / "p"),
        lambda: load_autoencoder(tmp_path / "p"),
        lambda: build_conditioner(ConditioningConfig("clip", path=str(tmp_path / "p"))),
    ):
        with pytest.raises(UserError, match="is not whole, it lacks"):
            load()


@pytest.fixture(scope="module")
def half(small, tmp_path_factory):
    """A pipeline of which there is only the fp16 variant."""
    folder = tmp_path_factory.mktemp("half") / "p"
    shutil.copytree(small, folder)
    for file in folder.glob("*/*.safetensors"):
        tensors = {k: v.half() for k, v in load_file(file).items()}
        name = file.name.replace(".safetensors", ".fp16.safetensors")
        save_file(tensors, file.with_name(name), metadata={"format": "pt"})
        file.unlink()
    return folder


def test_where_there_is_only_a_variant_it_is_found(small, half):
    pipe = TextToImagePipeline.from_pretrained(half)
    for part in CLASS:
        ours = getattr(pipe, part).state_dict()
        theirs = load_part(CLASS[part], small / part).state_dict()
        assert all(torch.equal(ours[key], theirs[key].half().float()) for key in ours), part
    assert TextToImagePipeline.from_pretrained(half, torch_dtype=torch.float16).dtype == torch.half
    assert load_autoencoder(half).dtype == torch.float32
    encoder = build_conditioner(ConditioningConfig("clip", path=str(half))).encoder
    assert torch.equal(encoder.final_layer_norm.weight, pipe.text_encoder.final_layer_norm.weight)


def test_a_variant_is_taken_where_a_part_has_it_and_refused_where_none_has(small, half, tmp_path):
    shutil.copytree(small, tmp_path / "p")
    shutil.copy(next((half / "unet").glob("*.safetensors")), tmp_path / "p" / "unet")
    for variant, exact in ((None, True), ("fp16", False)):
        pipe = TextToImagePipeline.from_pretrained(tmp_path / "p", variant=variant)
        weight = pipe.unet.conv_in.weight
        assert torch.equal(weight, weight.half().float()) is not exact
    with pytest.raises(UserError, match="no variant 'bf16'; it has fp16, the plain one"):
        TextToImagePipeline.from_pretrained(tmp_path / "p", variant="bf16")
    with pytest.raises(UserError, match="no variant 'fp16'; it has the plain one"):
        load_autoencoder(small, "fp16")


def test_pickled_weights_and_single_files_are_refused_with_the_way_out(small, tmp_path):
    shutil.copytree(small, tmp_path / "p")
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (tmp_path / "p" / part).glob("*.safetensors")
        file.rename(file.with_suffix(".bin"))
    for load in (
        TextToImagePipeline.from_pretrained,
        load_autoencoder,
        lambda place: build_conditioner(ConditioningConfig("clip", path=str(place))),
    ):
        with pytest.raises(UserError, match=r"\.bin, which can run code when it is read"):
            load(tmp_path / "p")
        (tmp_path / "model.ckpt").touch()
        for name in (tmp_path / "model.ckpt", "no/such.safetensors"):
            with pytest.raises(UserError, match="from_single_file"):
                load(name)
    with pytest.raises(UserError, match="from_single_file"):
        TextToImagePipeline.from_single_file("sd15.safetensors")


def test_sharded_weights_are_read(small, tmp_path):
    vae = load_part(AutoencoderKL, small / "vae")
    vae.save_pretrained(tmp_path, max_shard_size="50KB", variant="fp16")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = load_part(AutoencoderKL, tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in vae.state_dict().items())


def test_words_of_several_vectors_are_read_as_stock_reads_them(tmp_path):
    """As load_textual_inversion leaves them, and save_pretrained writes them."""
    vae, unet, conditioner = tiny_parts("joint")
    stock = quiet(
        StableDiffusionPipeline(
            vae, unet=unet, tokenizer=conditioner.tokenizer, text_encoder=conditioner.encoder,
            scheduler=DDIMScheduler(**SD_BETAS), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )
    )  # fmt: skip
    vectors = torch.randn(3, 32, generator=generator(0))
    stock.load_textual_inversion({"<rose>": vectors}, token="<rose>")
    stock.load_textual_inversion({"<one>": vectors[0]}, token="<one>")
    stock.save_pretrained(tmp_path)
    ours = quiet(TextToImagePipeline.from_pretrained(tmp_path))
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    images = {}
    for prompt in ("a <rose> in a vase", "<one> and <rose>", "a rose"):
        images[prompt], theirs = (
            pipe(prompt, negative_prompt="<rose>", generator=generator(1), **call).images
            for pipe in (ours, stock)
        )
        assert np.abs(images[prompt] - theirs).max() < 2e-4, prompt
    assert len(ours.conditioner.tokens(["<rose>"]).unique()) == 5


def test_another_sampler_is_taken_at_loading(tmp_path):
    stock_pipeline(PNDMScheduler(**SD_BETAS)).save_pretrained(tmp_path)
    ours = quiet(TextToImagePipeline.from_pretrained(tmp_path, sampler="euler"))
    stock = quiet(StableDiffusionPipeline.from_pretrained(tmp_path))
    stock.scheduler = EulerDiscreteScheduler.from_config(stock.scheduler.config)
    call = {"num_inference_steps": 7, "output_type": "np"}
    theirs, images = (p("rose", generator=generator(0), **call).images for p in (stock, ours))
    assert np.abs(theirs - images).max() < 2e-4
    assert ours.spec.sampler == "euler"


def test_parts_given_by_name_are_taken(small):
    vae = load_autoencoder(small)
    scheduler = EulerDiscreteScheduler(**SD_BETAS)
    pipe = TextToImagePipeline.from_pretrained(
        str(small), vae=vae, scheduler=scheduler, safety_checker=None, low_cpu_mem_usage=True
    )
    assert pipe.vae is vae and pipe.spec.sampler == "euler"
    assert pipe.spec.prediction_name == "epsilon"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"safety_checker": object()}, "takes no safety_checker: there is no safety filter"),
        ({"device_map": "auto"}, 'takes no device_map: pass device="cuda"'),
        ({"use_safetensors": False}, "takes no use_safetensors: nothing else is read"),
        ({"varient": "fp16"}, "takes no 'varient'; the nearest is"),
        ({"torch_dtype": "half"}, "dtype='half' is none of torch's"),
        ({"scheduler": "euler"}, "scheduler is a str: pass one of diffusers' schedulers"),
        ({"device": "gpu"}, "the pipeline cannot be moved"),
    ],
)
def test_what_loading_cannot_do_gets_a_sentence(small, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        TextToImagePipeline.from_pretrained(small, **arguments)


def test_pipelines_are_made_from_each_other_and_from_stock_ones(small):
    ours = TextToImagePipeline.from_pretrained(small)
    other = ImageToImagePipeline.from_pipe(ours)
    assert other.unet is ours.unet and other.spec is ours.spec
    stock = StableDiffusionPipeline.from_pretrained(small)
    third = TextToImagePipeline.from_pipe(stock)
    assert third.vae is stock.vae and third.spec == ours.spec
    with pytest.raises(UserError, match="it has no vae"):
        TextToImagePipeline.from_pipe({})
