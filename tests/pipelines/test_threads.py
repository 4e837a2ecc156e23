"""A pipeline is safe to share: overlapping calls are what they are alone, and leave nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import generator, tiny_pipeline
from diffusers import AutoencoderKL

from ldm.models.attention import IdentityAttentionProcessor
from pipelines import ImageToImagePipeline

LONG = "a red flower in a vase " * 20
CALLS = [
    ("a red flower", {"seed": 1}),
    ("a yellow flower", {"seed": 2, "pag_scale": 3.0}),
    ("", {"seed": 3, "guidance_scale": 1.0}),
    (["a rose", LONG], {"generator": generator(4), "negative_prompt": "petals"}),
    ("two daisies", {"seed": 5, "sampler": "ddpm", "num_images_per_prompt": 2}),
    (LONG, {"seed": 6, "clip_skip": 1}),
]


def latents(pipe, prompt, **call):
    call = {"num_inference_steps": 2, "output_type": "latent"} | call
    if "generator" in call:
        call["generator"] = call["generator"].clone_state()
    return pipe(prompt, **call).images


def state(pipe):
    """All that a call could leave behind: processors by identity, modes, hooks."""
    modules = [m for part in (pipe.unet, pipe.vae, pipe.text_encoder) for m in part.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    processors = [id(p) for p in pipe.unet.attn_processors.values()]
    return processors, [m.training for m in modules], hooks, [sorted(vars(m)) for m in modules]


def test_calls_in_four_threads_are_bit_for_bit_what_they_are_alone(pipe):
    before = state(pipe)
    alone = [latents(pipe, prompt, **call) for prompt, call in CALLS]
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(latents, pipe, prompt, **call) for prompt, call in CALLS * 2]
        together = [task.result() for task in tasks]
    for k, images in enumerate(together):
        assert torch.equal(images, alone[k % len(CALLS)]), CALLS[k % len(CALLS)]
    assert state(pipe) == before


def test_a_call_that_begins_within_anothers_weak_network_sees_the_strong_one(pipe, monkeypatch):
    """The order that did the harm, held by events."""
    alone = latents(pipe, "a yellow flower", seed=2)
    within, done = threading.Event(), threading.Event()
    real = IdentityAttentionProcessor.__call__

    def weak(self, *args, **kwargs):
        within.set()
        assert done.wait(60)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(IdentityAttentionProcessor, "__call__", weak)
    with ThreadPoolExecutor(1) as pool:
        outer = pool.submit(latents, pipe, "a red flower", seed=1, pag_scale=3.0)
        assert within.wait(60)
        inner = latents(pipe, "a yellow flower", seed=2)
        done.set()
        outer.result()
    assert torch.equal(inner, alone)
    assert torch.equal(latents(pipe, "a yellow flower", seed=2), alone)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_is_raised_inside_nothing_stays(error):
    pipe = tiny_pipeline()
    pipe.unet.train(), pipe.text_encoder.train()
    before = state(pipe)

    def fail(pipeline, step, timestep, kwargs):
        pipeline._interrupt = True
        raise error("stop")

    with pytest.raises(error):
        latents(pipe, "a rose", pag_scale=2.0, callback_on_step_end=fail)
    handle = pipe.vae.decoder.register_forward_hook(lambda *_: fail(pipe, 0, 0, {}))
    with pytest.raises(error):
        pipe("a rose", num_inference_steps=1)
    handle.remove()
    assert state(pipe) == before and not pipe.interrupt and not pipe._running


def test_a_callback_may_call_a_pipeline_of_the_same_parts(pipe):
    other = type(pipe)(pipe.model, pipe.defaults)
    other.set_progress_bar_config(disable=True)
    alone = [latents(p, "a rose", seed=1, pag_scale=2.0) for p in (pipe, other)]
    inner = []

    def again(pipeline, step, timestep, kwargs):
        inner.append(latents(other if step else pipe, "a rose", seed=1, pag_scale=2.0))
        assert pipeline.num_timesteps == 2  # still of the outer call
        return kwargs

    outer = latents(pipe, "a rose", seed=1, pag_scale=2.0, callback_on_step_end=again)
    assert all(torch.equal(images, alone[0]) for images in (outer, *inner, alone[1]))


def test_interrupting_one_call_leaves_another_running(pipe):
    barrier = threading.Barrier(2, timeout=60)
    seen = {True: [], False: []}

    def watch(stops):
        def callback(pipeline, step, timestep, kwargs):
            if step < 2:
                barrier.wait()
            seen[stops].append(step)
            pipeline._interrupt = stops and step == 1
            return kwargs

        return callback

    with ThreadPoolExecutor(2) as pool:
        for stops in (True, False):
            pool.submit(
                latents, pipe, "a rose", num_inference_steps=5, callback_on_step_end=watch(stops)
            )
    assert seen == {True: [0, 1], False: [0, 1, 2, 3, 4]}


def test_a_button_stops_every_call_that_runs(pipe):
    begun, steps = threading.Event(), []

    def slow(pipeline, step, timestep, kwargs):
        steps.append(step)
        begun.set()
        assert stopped.wait(60)
        return kwargs

    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(latents, pipe, "a rose", callback_on_step_end=slow)
        assert begun.wait(60)
        pipe._interrupt = True  # from another thread, as user interfaces do
        stopped.set()
        call.result()
    assert steps == [0] and not pipe.interrupt


def test_prompts_of_all_lengths_are_tokenised_in_threads_as_alone(pipe):
    texts = [LONG, "a", "a red flower", ""]
    alone = [pipe.conditioner.tokens([text]) for text in texts]

    def work(k):
        for _ in range(50):
            assert pipe.conditioner.truncated(texts[k]) == (k == 0)
            assert torch.equal(pipe.conditioner.tokens([texts[k]]), alone[k])

    with ThreadPoolExecutor(4) as pool:
        for task in [pool.submit(work, k) for k in range(4)]:
            task.result()


def test_tiling_is_exact_and_the_pipelines_own(monkeypatch):
    pipe, z = tiny_pipeline(), torch.randn(2, 4, 8, 8, generator=generator(0))
    other = ImageToImagePipeline.from_pipe(pipe)
    whole, before = pipe.decode(z), state(pipe)
    pipe.enable_vae_tiling()
    again = ImageToImagePipeline.from_pipe(pipe)
    call = {"image": whole[:1], "seed": 1, "num_inference_steps": 2, "output_type": "pt"}
    expected = other("a rose", **call).images
    with monkeypatch.context() as patch:
        for name in ("encode", "decode"):  # of the whole
            patch.setattr(AutoencoderKL, name, None)
        torch.testing.assert_close(pipe.decode(z), whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again("a rose", **call).images, expected, atol=1e-4, rtol=0)
        with pytest.raises(TypeError):
            other.decode(z)
    pipe.disable_vae_tiling()
    assert torch.equal(pipe.decode(z), whole) and state(pipe) == before
