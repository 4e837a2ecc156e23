"""What code copied from diffusers says in a call is done as there, or gets a sentence."""

import logging
import math

import numpy as np
import pytest
import torch
from conftest import SD_BETAS, generator, quiet, stock_pipeline, tiny_pipeline
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback

from ldm.core.errors import UserError
from pipelines.text_to_image import TextToImagePipeline

CALL = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
LONG = "a red flower in a vase " * 20


def pair(scheduler, kind="class"):
    """A stock pipeline and ours, of the same parts."""
    stock = stock_pipeline(scheduler, kind)
    return stock, quiet(TextToImagePipeline.from_pipe(stock))


def both(pipes, *args, **call):
    return [p(*args, generator=generator(3), **CALL | call).images for p in pipes]


@pytest.fixture(scope="module")
def pipes():
    return pair(DDIMScheduler(**SD_BETAS, timestep_spacing="trailing", clip_sample=False))


def close(theirs, ours):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_prompts_that_come_encoded_are_taken_as_in_diffusers(pipes):
    encoded = [
        p.encode_prompt(["daisy", "rose"], "cpu", 1, True, negative_prompt=["rose", ""])
        for p in pipes
    ]
    names = ("prompt_embeds", "negative_prompt_embeds")
    calls = [dict(zip(names, each, strict=True)) for each in encoded]
    for key in names:
        close(calls[0][key], calls[1][key])
    close(*both(pipes, **calls[0], num_images_per_prompt=2))
    plain = both(pipes[1:], ["daisy", "rose"], negative_prompt=["rose", ""])[0]
    close(both(pipes[1:], **calls[1])[0], plain)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(**SD_BETAS, clip_sample=False),
        DPMSolverMultistepScheduler(**SD_BETAS),
        EulerDiscreteScheduler(**SD_BETAS),
    ],
)
def test_timesteps_are_those_of_diffusers(scheduler):
    pipes = pair(scheduler)
    for labels in ([999, 850, 500, 120, 3], [700, 20]):
        close(*both(pipes, "daisy", timesteps=labels, num_inference_steps=None))


def test_clip_skip_leaves_out_the_last_layers_but_not_the_norm(pipe):
    encoder = pipe.text_encoder
    ids = pipe.conditioner.tokens(["a red flower"])
    states = encoder(ids, output_hidden_states=True).hidden_states
    for skip in (0, 1):
        found, negative = pipe.encode_prompt("a red flower", clip_skip=skip)
        torch.testing.assert_close(found, encoder.final_layer_norm(states[-(skip + 1)]))
        torch.testing.assert_close(negative, pipe.encode_prompt("")[0])  # as in diffusers
    with pytest.raises(UserError, match="clip_skip=2, and this model's text encoder has 1 layers"):
        pipe("x", clip_skip=2)


def test_callbacks_change_what_they_ask_for_as_in_diffusers(pipes):
    def cutoff(pipeline, step, timestep, kwargs):
        if step == int(pipeline.num_timesteps * 0.5):
            pipeline._guidance_scale = 0.0
            kwargs["prompt_embeds"] = kwargs["prompt_embeds"].chunk(2)[-1]
        return kwargs

    names = ["latents", "prompt_embeds"]
    for watch in (
        {"callback_on_step_end": cutoff, "callback_on_step_end_tensor_inputs": names},
        {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.5)},
    ):
        theirs, ours = both(pipes, "daisy", **watch)
        close(theirs, ours)
        assert (ours - both(pipes[1:], "daisy")[0]).abs().max() > 1e-3

    def swap(pipeline, step, timestep, kwargs):
        return {"prompt_embeds": kwargs["prompt_embeds"].flip(0)} if step == 1 else {}

    close(*both(pipes, "daisy", callback_on_step_end=swap,
                callback_on_step_end_tensor_inputs=["prompt_embeds"]))  # fmt: skip


@pytest.mark.parametrize("returned", [torch.zeros(3), {"latents": 1}, {"prompt_embeds": "x"}])
def test_what_a_callback_may_not_return_gets_a_sentence(pipe, returned):
    with pytest.raises(UserError, match="callback_on_step_end returned"):
        pipe("a rose", callback_on_step_end=lambda *_: returned)


def test_a_tuple_comes_where_no_dict_is_wanted(pipe):
    call = {"seed": 0, "num_inference_steps": 1, "output_type": "np"}
    images, flags = pipe("a rose", return_dict=False, **call)
    result = pipe("a rose", **call)
    assert np.array_equal(images, result.images) and flags is result.nsfw_content_detected is None


def test_a_scheduler_is_taken_from_another_ones_config(pipes):
    stock, ours = pipes
    before = stock.scheduler, ours.spec
    for pipe in pipes:
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    close(*both(pipes, "daisy", num_inference_steps=7))
    assert ours.spec.sampler == "dpmpp_2m"
    stock.scheduler, ours.spec = before


def test_memory_hints_and_moves_of_diffusers_are_understood():
    pipe = tiny_pipeline("class")
    pipe.enable_attention_slicing("max"), pipe.enable_vae_slicing()
    pipe.enable_xformers_memory_efficient_attention()
    pipe.enable_vae_tiling(), pipe.disable_vae_tiling()
    pipe.safety_checker = None
    assert pipe.to("cpu", torch.float16).dtype == torch.float16
    assert pipe.to(torch_dtype=torch.float32, silence_dtype_warnings=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("load_lora_weights", "load and fuse it in diffusers"),
        ("enable_model_cpu_offload", "half precision"),
        ("load_ip_adapter", "image encoder"),
        ("load_textual_inversion", r"save_pretrained\(\) there"),
        ("fuse_qkv_projections", "load the same folder with diffusers"),
    ],
)
def test_what_only_diffusers_has_gets_a_sentence(pipe, name, sentence):
    with pytest.raises(UserError, match=f"{name} is not in TextToImagePipeline: .*{sentence}"):
        getattr(pipe, name)("x")
    assert not hasattr(pipe, name)
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        pipe.no_such_thing  # noqa: B018


@pytest.mark.parametrize("empty", ["cross_attention_kwargs", "sigmas", "ip_adapter_image"])
def test_arguments_that_ask_for_nothing_are_passed_over(pipe, empty):
    call = {"num_inference_steps": 1, "seed": 0, "output_type": "latent"}
    assert torch.equal(pipe("x", **{empty: None}, **call).images, pipe("x", **call).images)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"guidance_scale": NAN}, "guidance_scale=nan is not a number"),
        ({"guidance_scale": -INF}, "guidance_scale=-inf is not a number"),
        ({"guidance_scale": "7"}, "guidance_scale='7' is not a number"),
        ({"guidance_scale": 1e38}, "no numbers"),
        ({"guidance_rescale": NAN}, "guidance_rescale=nan is not a number from 0 to 1"),
        ({"guidance_rescale": 1.5}, "guidance_rescale=1.5"),
        ({"guidance_interval": (NAN, 1)}, "guidance_interval"),
        ({"guidance_interval": ("a", 1)}, "guidance_interval"),
        ({"guidance_interval": 3}, "guidance_interval"),
        ({"pag_scale": INF}, "pag_scale=inf"),
        ({"pag_scale": -1}, "pag_scale=-1 is not a number of at least 0"),
        ({"eta": NAN}, "eta=nan"),
        ({"eta": 2}, "eta=2 is not a number from 0 to 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 is not a whole number"),
        ({"num_inference_steps": 10**9}, "num_inference_steps=1000000000 is not a whole"),
        ({"num_inference_steps": -3}, "-3 sampling steps"),
        ({"height": 0}, "0 x 16"),
        ({"width": 16.5}, "width=16.5 is not a whole number"),
        ({"height": -16}, "-16 x 16"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"num_images_per_prompt": 1.5}, "num_images_per_prompt=1.5"),
        ({"seed": 1.5}, "seed=1.5 is not a whole number"),
        ({"seed": "1"}, "seed='1' is not a whole number"),
        ({"seed": 2**64}, "seed 18446744073709551616 is not one of torch's"),
        ({"seed": -(2**63) - 1}, "is not one of torch's"),
        ({"seed": [1.5]}, "seed=1.5"),
        ({"generator": np.random.default_rng()}, "generator is a Generator: pass torch.Generator"),
        ({"latents": np.zeros((1, 4, 8, 8))}, "latents are a ndarray"),
        ({"latents": torch.full((1, 4, 8, 8), NAN)}, "latents hold NaN"),
        ({"prompt": 3}, "prompt is a int: pass a text"),
        ({"prompt": ["a", 3]}, "prompt holds a int"),
        ({"prompt_embeds": torch.zeros(1, 3, 32)}, "pass prompt or prompt_embeds, not both"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 3, 5)}, r"tensors \(B, L, 32\)"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 3, 32)}, "pass negative_prompt_embeds"),
        ({"clip_skip": -1}, "clip_skip=-1"),
        ({"timesteps": [1, 5]}, "timesteps must descend, from at most 999"),
        ({"timesteps": 5}, "timesteps=5 is not a list of numbers"),
        ({"sigmas": [3.0, 0.0]}, "takes no sigmas: pass timesteps"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "takes no cross_attention_kwargs: it scales"),
        ({"callback_on_step_end_tensor_inputs": ["x"]}, "has 'x', which is not one of latents"),
        ({"callback_on_step_end_tensor_inputs": 5}, "has 5, which is not one of latents"),
        ({"promt": "a"}, "takes no 'promt'; the nearest is 'prompt'"),
        ({"sampler": ["ddim"]}, "is not one of ddpm, ddim"),
        ({"callback_on_step_end": "x"}, "pass a function, or None"),
    ],
)
def test_a_number_that_is_none_and_other_nonsense_gets_a_sentence(pipe, arguments, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        pipe(**{"prompt": "a rose", "num_inference_steps": 2} | arguments)
    assert "\n" not in str(caught.value)


def test_numpys_numbers_are_numbers(pipe):
    call = {"output_type": "latent", "guidance_scale": np.float32(2), "num_inference_steps": 2}
    expected = pipe(["x", "y"], seed=5, **call).images
    for seed in (np.int64(5), np.array(5), torch.tensor(5), np.array([5, 6]), range(5, 7)):
        assert torch.equal(pipe(["x", "y"], seed=seed, **call).images, expected)


def test_a_cut_text_is_told_once_negative_ones_too(caplog):
    pipe = tiny_pipeline()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pipe([LONG] * 3, negative_prompt=LONG + "!", num_inference_steps=1)
    told = [r.getMessage() for r in caplog.records if "tokens count" in r.getMessage()]
    assert len(told) == 2 and LONG + "!" in told[1]


@pytest.mark.parametrize("text", ["a \ud83d rose", "a \x00rose", "\udc80", "\ufeffa rose"])
def test_what_is_no_text_in_a_prompt_is_harmless(pipe, text):
    call = {"seed": 0, "num_inference_steps": 1, "output_type": "latent"}
    clean = "".join(c for c in text if c.isprintable())
    clean = clean.encode("utf-8", "ignore").decode()
    assert torch.equal(pipe(text, **call).images, pipe(clean, **call).images)


def test_no_layer_of_an_encoder_without_layers_is_left_out():
    pipe = tiny_pipeline("class")
    told = {"num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    plain = pipe("rose", **told).images
    assert torch.equal(pipe("rose", clip_skip=0, cross_attention_kwargs={}, **told).images, plain)
    with pytest.raises(UserError, match="text encoder has 0 layers"):
        pipe("rose", clip_skip=1, **told)
