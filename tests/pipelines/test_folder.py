"""Stock folders are read as stock reads them, and exports sample alike without this package."""

import json
import subprocess
import sys
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
import torch
from conftest import SD_BETAS, generator, model, stock_pipeline, tiny_parts, tiny_pipeline
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextModel

from ldm.core.errors import UserError
from ldm.diffusion.guidance import EVERYWHERE
from ldm.diffusion.samplers import SAMPLERS
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import export_refusal
from pipelines.calls.defaults import STOCK_DEFAULTS
from pipelines.runs.record import run_folder
from pipelines.text_to_image import TextToImagePipeline


def both(folder, steps, **call):
    """The stock pipeline's images and ours, (B, H, W, 3) in [0, 1]."""
    call |= {"num_inference_steps": steps, "output_type": "np"}
    images = []
    for cls in (StableDiffusionPipeline, TextToImagePipeline):
        pipe = cls.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        images.append(pipe("daisy", generator=generator(3), **call).images)
    return images


@pytest.mark.parametrize(
    ("scheduler", "spacing", "prediction"),
    [
        (DDIMScheduler, "leading", "epsilon"),
        (DDIMScheduler, "trailing", "v_prediction"),
        (DDPMScheduler, "leading", "v_prediction"),
        (EulerDiscreteScheduler, "linspace", "epsilon"),
        (EulerDiscreteScheduler, "leading", "v_prediction"),
        (HeunDiscreteScheduler, "trailing", "epsilon"),
        (DPMSolverMultistepScheduler, "linspace", "epsilon"),
        (DPMSolverMultistepScheduler, "leading", "v_prediction"),
    ],
)
def test_a_stock_folder_samples_as_stock_does(tmp_path, scheduler, spacing, prediction):
    kwargs = {"timestep_spacing": spacing, "prediction_type": prediction, **SD_BETAS}
    stock_pipeline(scheduler(**kwargs)).save_pretrained(tmp_path)
    theirs, ours = both(tmp_path, 10, guidance_scale=4.0, negative_prompt="rose")
    assert np.abs(theirs - ours).max() < 2e-4
    assert theirs.std() > 0.02


def test_pndm_is_met_within_an_8_bit_level_on_average(tmp_path):
    scheduler = PNDMScheduler(
        **SD_BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False
    )
    stock_pipeline(scheduler).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="PNDM is sampled with its nearest"):
        theirs, ours = both(tmp_path, 50)
    assert np.abs(theirs - ours).mean() < 1 / 255


def test_stock_pipelines_rewriting_of_old_configs_is_followed(tmp_path):
    stock_pipeline(DDIMScheduler(**SD_BETAS)).save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    old = json.loads(path.read_text())
    assert old.pop("steps_offset") == 1 and old.pop("clip_sample") is False
    path.write_text(json.dumps(old))
    theirs, ours = both(tmp_path, 7)
    assert np.abs(theirs - ours).max() < 2e-4


POOLED = {
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
}
EXPORTS = {
    "joint": ("joint", {}),
    "class": ("class", {"sampler": "dpmpp_2m"}),
    "none": ("none", {"sampler": "ddpm"}),
    "flow": ("joint", {"schedule": "flow", "prediction": "flow"}),
    "pooled": ("joint", {"unet": POOLED}),
}
PROMPT = {"joint": "a red flower", "class": "oxeye daisy", "none": ""}


def test_exports_sample_alike_in_stock_diffusers_without_this_package(tmp_path):
    ours = {}
    for name, (kind, spec) in EXPORTS.items():
        pipe = tiny_pipeline(kind, **spec)
        pipe.save_pretrained(tmp_path / name)
        call = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "np"}
        ours[name] = pipe(PROMPT[kind], generator=generator(0), **call).images
        again = TextToImagePipeline.from_pretrained(tmp_path / name)
        again.set_progress_bar_config(disable=True)
        loaded = again(PROMPT[kind], generator=generator(0), **call).images
        assert np.abs(loaded - ours[name]).max() < 1e-5
        assert again.defaults.num_inference_steps == 5 and again.defaults.guidance_scale == 3.0
    prompts = {name: PROMPT[kind] for name, (kind, _) in EXPORTS.items()}
    script = f"""
        import importlib.abc, sys
        class Absent(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("ldm", "autoencoder", "pipelines"):
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        for name in ("ldm", "autoencoder", "pipelines"):
            try:
                __import__(name)
            except ModuleNotFoundError:
                continue
            raise SystemExit(name + " is importable")
        import numpy, torch
        from diffusers import DiffusionPipeline
        for name, prompt in {prompts!r}.items():
            pipe = DiffusionPipeline.from_pretrained({str(tmp_path)!r} + "/" + name)
            images = pipe(
                prompt, generator=torch.Generator().manual_seed(0), num_inference_steps=10,
                guidance_scale=3.0, output_type="np",
            ).images
            numpy.save({str(tmp_path)!r} + "/" + name + ".npy", images)
    """
    subprocess.run([sys.executable, "-c", dedent(script)], cwd=tmp_path, check=True)
    for name, images in ours.items():
        difference = np.abs(np.load(tmp_path / f"{name}.npy") - images)
        assert difference.max() < 1e-4, name  # and so far less than 1/255 on average


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own, in stock samplers
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_export_of_a_flow_runs_in_stock_diffusers_or_is_refused(tmp_path, sampler):
    pipe = tiny_pipeline("class", schedule="flow", prediction="flow", sampler=sampler)
    if refusal := export_refusal(pipe.spec):
        assert sampler not in ("ddim", "euler", "dpmpp_2m")
        with pytest.raises(UserError) as caught:
            pipe.save_pretrained(tmp_path)
        assert str(caught.value) == refusal
        pipe.save_pretrained(tmp_path, stock=False)
        assert TextToImagePipeline.from_pretrained(tmp_path).spec == pipe.spec
        return
    pipe.save_pretrained(tmp_path)
    theirs, ours = both(tmp_path, 7, guidance_scale=3.0)
    assert np.abs(theirs - ours).max() < 1e-3


@pytest.mark.filterwarnings("ignore")
def test_an_export_has_what_transformers_4_looks_for_and_5_reads_it_alike(tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in weights)
    encoder, report = CLIPTextModel.from_pretrained(
        tmp_path / "text_encoder", output_loading_info=True
    )
    assert not any(report.values())
    for key, tensor in pipe.text_encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], tensor), key

    folder = tmp_path / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(vocabulary) == 49408 and len(merges) == 1 + 48894
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("a red flower", "naïve 東京 🌼 it's", ""):
        assert tokenizer(text).input_ids == pipe.tokenizer(text).input_ids


def test_an_exported_class_tokenizer_names_no_class_of_transformers_5(tmp_path):
    tiny_pipeline("class").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_scheduler_config_survives_reading_and_writing(tmp_path):
    scheduler = EulerDiscreteScheduler(**SD_BETAS, prediction_type="v_prediction")
    stock_pipeline(scheduler).save_pretrained(tmp_path / "stock")
    pipe = TextToImagePipeline.from_pretrained(tmp_path / "stock")
    assert pipe.defaults == STOCK_DEFAULTS
    pipe.save_pretrained(tmp_path / "again")
    first, second = (
        json.loads((tmp_path / name / "scheduler" / "scheduler_config.json").read_text())
        for name in ("stock", "again")
    )
    assert {k: v for k, v in second.items() if k != "steps_offset"} == {
        k: v for k, v in first.items() if k != "steps_offset"
    }


def test_half_precision_variants_are_saved_and_loaded_by_name(tmp_path):
    pipe = tiny_pipeline().to(torch.bfloat16)
    pipe.save_pretrained(tmp_path, variant="bf16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.bf16.safetensors").is_file()
    again = TextToImagePipeline.from_pretrained(tmp_path, variant="bf16", dtype=torch.bfloat16)
    for module in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(pipe, module).state_dict(), getattr(again, module).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.dtype == torch.bfloat16 and again.vae.dtype == torch.bfloat16


def test_a_run_folder_is_read_through_its_pipeline_folder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "run" / "pipeline")
    assert TextToImagePipeline.from_pretrained(tmp_path / "run").spec.sampler == "ddim"


def test_only_a_runs_own_pipeline_folder_stands_for_the_run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert run_folder(tmp_path / "pipeline") == run_folder(tmp_path) == tmp_path
    with pytest.raises(UserError, match="no run folder"):
        run_folder(tmp_path / "another_export")


def test_clipping_is_not_exported_because_stock_pipelines_turn_it_off(tmp_path):
    pipe = tiny_pipeline()
    pipe.spec = Spec.from_diffusers({**pipe.spec.to_diffusers(), "clip_sample": True})
    with pytest.raises(UserError, match="neither clip latents"):
        pipe.save_pretrained(tmp_path)


def test_misfits_are_refused_at_load_with_a_sentence(tmp_path):
    vae, unet, conditioner = tiny_parts()
    _, _, classes = tiny_parts("class")
    wide = tiny_parts()[2]
    wide.tokenizer.model_max_length = 77
    spec = tiny_pipeline().spec
    wide.encoder.config.hidden_size = 48
    with pytest.raises(UserError, match="is 48 wide and the U-Net attends to 32"):
        TextToImagePipeline(model(vae, unet, replace(conditioner, encoder=wide.encoder), spec))
    with pytest.raises(UserError, match="49408 tokens and the text encoder knows 4"):
        TextToImagePipeline(model(vae, unet, replace(conditioner, encoder=classes.encoder), spec))
    with pytest.raises(UserError, match="77 tokens long and the text encoder reads 32"):
        TextToImagePipeline(model(vae, unet, replace(wide, encoder=conditioner.encoder), spec))
    unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(UserError, match=r"no prompt .addition_embed_type=text_time"):
        TextToImagePipeline(model(vae, unet, conditioner, spec))
    unet.register_to_config(addition_embed_type="text")
    TextToImagePipeline(model(vae, unet, conditioner, spec))
    unet.register_to_config(in_channels=9)
    with pytest.raises(UserError, match="9 channels and the autoencoder has 4; it is an inpaint"):
        TextToImagePipeline(model(vae, unet, conditioner, spec))


@pytest.mark.parametrize("interval", [None, [], [4, 0], ["a", 1], [None, 1]])
def test_what_a_folder_says_of_its_guidance_is_read_or_refused(tmp_path, interval):
    tiny_pipeline("none").save_pretrained(tmp_path)
    path = tmp_path / "ldm.json"
    said = json.loads(path.read_text(), parse_constant=pytest.fail)  # JSON has no Infinity
    assert said.pop("guidance_interval") == [0.0, None]
    path.write_text(json.dumps(said))
    assert TextToImagePipeline.from_pretrained(tmp_path).defaults.guidance_interval == EVERYWHERE
    path.write_text(json.dumps(said | {"guidance_interval": interval}))
    with pytest.raises(UserError, match=r"ldm\.json cannot be read"):
        TextToImagePipeline.from_pretrained(tmp_path)


def test_a_folder_that_is_no_pipeline_gets_a_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no model_index"):
        TextToImagePipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no-such/model cannot be loaded"):
        TextToImagePipeline.from_pretrained("no-such/model")
    scheduler = DDIMScheduler(**SD_BETAS, timestep_spacing="fibonacci")
    stock_pipeline(scheduler).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="timestep_spacing='fibonacci'"):
        TextToImagePipeline.from_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["_class_name"] = StableDiffusionXLPipeline.__name__
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is a StableDiffusionXLPipeline"):
        TextToImagePipeline.from_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index["_class_name"] = "StableDiffusionPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with (
        pytest.warns(UserWarning, match="on the grid of ddim, because .*'fibonacci'"),
        pytest.raises(UserError, match="unet holds no weights"),
    ):
        TextToImagePipeline.from_pretrained(tmp_path, sampler="ddim")
