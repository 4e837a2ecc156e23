"""The pipeline's calls mean what diffusers' mean, and an image does not depend on its batch."""

import math

import numpy as np
import pytest
import torch
from conftest import SD_BETAS, generator, model, quiet, stock_pipeline, tiny_parts, tiny_pipeline
from diffusers import DDIMScheduler, StableDiffusionPAGPipeline

from ldm.core.errors import UserError
from pipelines.calls.defaults import StockDefaults
from pipelines.text_to_image import TextToImagePipeline

PROMPTS = ["a red flower", "a blue one", "", "petals", "a rose", "two daisies", "x", "a red flower"]


def latents(pipe, *args, **kwargs):
    return pipe(*args, output_type="latent", **kwargs).images


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp_2m"])
def test_an_image_is_the_same_in_a_batch_of_1_and_of_8(pipe, sampler):
    batch = pipe(PROMPTS, seed=7, sampler=sampler, output_type="pt").images
    for i in (0, 3, 7):
        alone = pipe(PROMPTS[i], seed=7 + i, sampler=sampler, output_type="pt").images
        torch.testing.assert_close(alone[0], batch[i], rtol=0, atol=1e-4)
    assert (batch[0] - batch[7]).abs().max() > 0.01  # the same prompt, another seed


def test_a_list_of_generators_and_seeds_say_the_same(pipe):
    seeded = latents(pipe, PROMPTS[:3], seed=5)
    assert torch.equal(latents(pipe, PROMPTS[:3], seed=[5, 6, 7]), seeded)
    each = [generator(5 + i) for i in range(3)]
    assert torch.equal(latents(pipe, PROMPTS[:3], generator=each), seeded)
    assert not torch.equal(latents(pipe, PROMPTS[:3]), latents(pipe, PROMPTS[:3]))


def test_images_per_prompt_come_in_a_row_as_in_diffusers(pipe):
    rows = latents(pipe, PROMPTS[:2], num_images_per_prompt=2, seed=0)
    listed = latents(pipe, [p for p in PROMPTS[:2] for _ in range(2)], seed=0)
    assert torch.equal(rows, listed)


def test_guidance_of_1_or_less_runs_one_pass(pipe):
    batches = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    try:
        latents(pipe, "a rose", guidance_scale=1.0, num_inference_steps=2)
        latents(pipe, "a rose", guidance_scale=2.0, num_inference_steps=2)
    finally:
        hook.remove()
    assert batches == [1, 1, 2, 2]


def test_guidance_acts_between_the_levels_of_the_models_folder_or_of_the_call(tmp_path):
    pipe = tiny_pipeline()
    pipe.defaults = StockDefaults(5, 3.0, (0.0, 2.0))
    pipe.save_pretrained(tmp_path)
    again = quiet(TextToImagePipeline.from_pretrained(tmp_path))
    found = latents(again, "a rose", seed=0)
    assert torch.equal(found, latents(again, "a rose", seed=0, guidance_interval=(0, 2)))
    everywhere = latents(again, "a rose", seed=0, guidance_interval=(0, math.inf))
    torch.testing.assert_close(everywhere, latents(tiny_pipeline(), "a rose", seed=0))
    assert (found - everywhere).abs().max() > 1e-3
    nowhere = latents(again, "a rose", seed=0, guidance_interval=(0, 0))
    torch.testing.assert_close(nowhere, latents(again, "a rose", seed=0, guidance_scale=1.0))


def test_prompts_and_negative_prompts_matter(pipe):
    plain = latents(pipe, "a rose", seed=0)
    for other in ({"negative_prompt": "a daisy"}, {"guidance_scale": 1.0}):
        assert (latents(pipe, "a rose", seed=0, **other) - plain).abs().max() > 1e-3
    assert (latents(pipe, "a daisy", seed=0) - plain).abs().max() > 1e-3
    both = latents(pipe, ["a rose", "a rose"], negative_prompt=["", "a daisy"], seed=[0, 0])
    torch.testing.assert_close(both[0], plain[0], rtol=0, atol=1e-5)
    expected = latents(pipe, "a rose", negative_prompt="a daisy", seed=0)
    torch.testing.assert_close(both[1], expected[0], rtol=0, atol=1e-5)


def test_height_and_width_are_pixels(pipe):
    images = pipe("a rose", height=32, width=24, seed=0).images
    assert images[0].size == (24, 32) and len(images) == 1
    assert pipe("a rose", seed=0).images[0].size == (16, 16)


def test_output_types_are_the_same_picture(pipe):
    pil, array, tensor = (
        pipe("a rose", seed=0, output_type=kind).images for kind in ("pil", "np", "pt")
    )
    assert tensor.shape == (1, 3, 16, 16) and array.shape == (1, 16, 16, 3)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pil[0]), (array[0] * 255).round())
    assert np.array_equal(np.asarray(pipe("a rose", seed=0)[0][0]), np.asarray(pil[0]))


def test_decoding_in_slices_is_decoding(pipe, monkeypatch):
    z = torch.randn(5, 4, 8, 8, generator=generator(0))
    with torch.no_grad():
        whole = pipe.decode(z)
        monkeypatch.setattr("autoencoder.codec.SLICE", 2 * 16 * 16)
        calls = []
        decode = pipe.vae.decode
        monkeypatch.setattr(pipe.vae, "decode", lambda z: calls.append(len(z)) or decode(z))
        torch.testing.assert_close(pipe.decode(z), whole, rtol=0, atol=1e-5)
    assert calls == [2, 2, 1]


def test_latents_are_unscaled_by_factor_and_shift():
    vae, unet, conditioner = tiny_parts()
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    pipe = TextToImagePipeline(model(vae, unet, conditioner, tiny_pipeline().spec))
    z = torch.randn(1, 4, 8, 8, generator=generator(0))
    with torch.no_grad():
        expected = (vae.decode(z).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(pipe.decode((z - 0.25) * 0.5), expected, rtol=0, atol=1e-5)


def test_the_callback_sees_each_step_and_may_change_the_latents(pipe):
    seen = []

    def watch(pipeline, step, timestep, kwargs):
        seen.append((step, float(timestep), kwargs["latents"].clone()))
        return {}

    end = latents(pipe, "a rose", seed=0, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3, 4]
    assert [t for _, t, _ in seen] == [999, 799, 599, 399, 199]
    assert torch.equal(seen[-1][2], end)

    def reset(pipeline, step, timestep, kwargs):
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 2 else {}

    changed = latents(pipe, "a rose", seed=0, callback_on_step_end=reset)
    again = latents(pipe, "a rose", seed=1, callback_on_step_end=reset)
    assert torch.equal(changed, again) and not torch.equal(changed, end)


def test_a_callback_can_interrupt(pipe):
    steps = []

    def stop(pipeline, step, timestep, kwargs):
        steps.append(step)
        pipeline._interrupt = step == 1
        return kwargs

    latents(pipe, "a rose", callback_on_step_end=stop)
    assert steps == [0, 1]
    latents(pipe, "a rose")
    assert not pipe.interrupt


def test_given_latents_replace_the_draw(pipe):
    noise = torch.randn(1, 4, 8, 8, generator=generator(3))
    assert torch.equal(latents(pipe, "a rose", latents=noise), latents(pipe, "a rose", seed=3))


def test_eta_adds_noise_to_ddim_only_as_in_diffusers(pipe, caplog):
    a, b = (latents(pipe, "a rose", seed=s, eta=1.0) for s in (0, 0))
    assert torch.equal(a, b) and not torch.equal(a, latents(pipe, "a rose", seed=0))
    heun = latents(pipe, "a rose", seed=0, sampler="heun")
    assert torch.equal(latents(pipe, "a rose", seed=0, eta=1.0, sampler="heun"), heun)
    assert "sampler heun takes no notice of it" in caplog.text


def test_noise_of_a_brownian_motion_is_an_images_own_and_changes_little_with_the_steps(pipe):
    def sample(prompt="a rose", steps=20, **options):
        call = {"sampler": "dpmpp_2m_sde", "guidance_scale": 1.0, **options}
        return latents(pipe, prompt, num_inference_steps=steps, **call)

    def apart(**options):
        few, many = (sample(steps=n, seed=5, **options) for n in (6, 12))
        return float((few - many).norm())

    assert apart(brownian=True) < 0.5 * apart()
    both = sample(["a rose", "a rose"], 2, seed=5, brownian=True)
    alone = sample(steps=2, seed=6, brownian=True)
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="take euler_ancestral"):
        sample(steps=2, sampler="langevin", brownian=True)


def test_float32_arithmetic_around_a_bfloat16_network_drifts_less_than_stock():
    exact, pipe = tiny_pipeline(), tiny_pipeline().to(torch.bfloat16)
    stock = stock_pipeline(DDIMScheduler(**SD_BETAS, timestep_spacing="trailing"), "joint")
    stock.scheduler.register_to_config(prediction_type="v_prediction")
    call = {"num_inference_steps": 20, "guidance_scale": 3.0, "output_type": "latent"}
    noise = torch.randn(4, 4, 8, 8, generator=generator(0)).bfloat16()
    dtypes = []
    pipe.unet.register_forward_pre_hook(lambda _, args: dtypes.append(args[0].dtype))

    truth = exact(["a rose"] * 4, latents=noise, **call).images
    stock_exact = stock(["a rose"] * 4, latents=noise.float(), **call).images
    torch.testing.assert_close(stock_exact, truth, rtol=0, atol=1e-4)
    ours = pipe(["a rose"] * 4, latents=noise, **call).images
    theirs = stock.to(torch.bfloat16)(["a rose"] * 4, latents=noise, **call).images
    assert set(dtypes) == {torch.bfloat16} and ours.dtype == torch.float32
    assert (ours - truth).std() < 0.5 * (theirs - truth).std()
    assert pipe("a rose", seed=0).images[0].size == (16, 16)


def test_perturbed_attention_guidance_is_diffusers(pipe):
    stock = stock_pipeline(DDIMScheduler(**SD_BETAS, timestep_spacing="trailing"), "joint")
    stock.scheduler.register_to_config(prediction_type="v_prediction")
    theirs = quiet(
        StableDiffusionPAGPipeline(
            **stock.components, requires_safety_checker=False, pag_applied_layers="mid"
        )
    )
    for scale in (1.0, 3.0):  # without and with classifier-free guidance
        call = {"num_inference_steps": 5, "guidance_scale": scale, "pag_scale": 4.0}
        call |= {"output_type": "pt"}
        expected = theirs("a rose", generator=generator(0), **call).images
        torch.testing.assert_close(
            pipe("a rose", generator=generator(0), **call).images, expected, rtol=0, atol=1e-4
        )
        without = pipe("a rose", generator=generator(0), **call | {"pag_scale": 0.0}).images
        assert (without - expected).abs().max() > 1e-3


def test_sampling_leaves_training_mode_and_processors_as_they_were(pipe):
    pipe.unet.train()
    before = dict(pipe.unet.attn_processors)
    latents(pipe, "a rose")
    assert pipe.unet.training and pipe.unet.attn_processors == before
    pipe.unet.eval()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompt": []}, "empty list"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2 prompts"),
        ({"prompt": "a", "height": 31}, "31 x 16, and must be multiples of 2"),
        ({"prompt": "a", "output_type": "jpg"}, "'jpg' is not one of pil, np, pt, latent"),
        ({"prompt": "a", "sampler": "plms"}, "'plms' is not one of ddpm"),
        ({"prompt": "a", "num_inference_steps": 0}, "0 sampling steps"),
        ({"prompt": "a", "guidance_interval": (4, 0)}, r"interval \[4, 0\] is not two values"),
        ({"prompt": "a", "num_inference_steps": 1001}, "1001 sampling steps"),
        ({"prompt": "a", "seed": [1, 2]}, "2 seeds or generators for 1 images"),
        ({"prompt": "a", "seed": 1, "generator": generator(0)}, "not both"),
        ({"prompt": "a", "latents": torch.zeros(2, 4, 8, 8)}, r"latents are \(2, 4, 8, 8\)"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(pipe, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        pipe(**arguments)
