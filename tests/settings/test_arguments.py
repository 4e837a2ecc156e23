"""Every argument of every free section: a sentence that names it, or a part that can be built."""

import re
from inspect import signature

import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig

from autoencoder.model import build_autoencoder
from ldm.conditions.conditioner import build_conditioner
from ldm.config import load_config
from ldm.core.errors import UserError
from ldm.diffusion.loss import WEIGHTINGS
from ldm.diffusion.plane import edm
from ldm.diffusion.samplers import SAMPLERS
from ldm.models.unet import build_unet
from ldm.schedulers.floor import SCHEDULES
from ldm.schedulers.spec import Spec
from ldm.settings.arguments import refuse_arguments
from ldm.training.tasks.denoising import objective
from ldm.training.tasks.times import TIME_SAMPLERS, Times

BAD = ["nan", ".nan", "-1", "0", "1e30", "1000000000000", "1.5", "x", "", "[]", "[1]", "{a: 1}",
       "true", "null", "[0.5, x]", "[[1]]", "[-1, -1]"]  # fmt: skip


def process(config) -> None:
    sample = config.sample
    spec = Spec.from_diffusion_config(
        config.diffusion, sample.grid, sample.sampler, sample.sampler_args
    )
    times = Times(config.diffusion, spec.schedule, config.seed, config.train.batch_size)
    objective(config.diffusion, spec, times)
    spec.levels(4)


def unet(config) -> None:
    shape = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 8}
    build_unet(config.unet, **shape)


def parameters(function):
    names = {*signature(function).parameters}
    names |= {*signature(function, follow_wrapped=False).parameters}
    others = {"self", "args", "kwargs", "options", "level", "schedule", "u", "denoiser", "x"}
    return sorted(names - others - {"levels", "noise", "targets", "t"})


def cases():
    plain = ["diffusion.prediction=flow", "diffusion.weighting=simple"]
    for name, make in SCHEDULES.items():
        extra = [*plain, f"diffusion.schedule={name}"]
        extra += ["diffusion.weighting=vlb"] if name == "learned" else []
        for key in parameters(make):
            yield process, extra, f"diffusion.schedule_args.{key}"
    for key in parameters(edm):
        yield process, ["diffusion.prediction=edm"], f"diffusion.prediction_args.{key}"
    for name, sampler in TIME_SAMPLERS.items():
        for key in parameters(sampler):
            yield process, [f"diffusion.time_sampling={name}"], f"diffusion.time_args.{key}"
    for name, weighting in WEIGHTINGS.items():
        for key in parameters(weighting) if weighting else []:
            yield process, [f"diffusion.weighting={name}"], f"diffusion.weighting_args.{key}"
    for name, sampler in SAMPLERS.items():
        for key in parameters(sampler.solve):
            yield process, [f"sample.sampler={name}"], f"sample.sampler_args.{key}"


def networks():
    small = ["unet.block_out_channels=[4]", "unet.layers_per_block=1", "unet.norm_num_groups=2"]
    for key in parameters(UNet2DConditionModel):
        yield unet, small, f"unet.{key}"
    small = ["autoencoder.model.block_out_channels=[4]", "autoencoder.model.norm_num_groups=2"]
    for key in parameters(AutoencoderKL):
        yield lambda c: build_autoencoder(c.autoencoder.model), small, f"autoencoder.model.{key}"
    small = ["conditioning.model.hidden_size=4", "conditioning.model.num_hidden_layers=1"]
    for key in parameters(CLIPTextConfig):
        yield lambda c: build_conditioner(c.conditioning), small, f"conditioning.model.{key}"


def refused_or_built(make, extra, key, values) -> None:
    for value in values:
        try:
            make(load_config(overrides=[*extra, f"{key}={value}"]))
        except UserError as error:
            assert "\n" not in str(error)
            assert re.search(rf"{key.split('.')[0]}|{key.split('.')[-1]}|schedule", str(error))


@pytest.mark.parametrize(("make", "extra", "key"), cases())
def test_a_bad_argument_of_the_process_is_a_sentence(make, extra, key):
    refused_or_built(make, extra, key, BAD)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "extra", "key"), networks())
def test_a_bad_argument_of_a_network_is_a_sentence(make, extra, key):
    refused_or_built(make, extra, key, BAD)


@pytest.mark.parametrize(
    ("make", "overrides", "says"),
    [
        (process, ["diffusion.schedule_args.steps=1"], r"args\.steps=1 must be at least 2"),
        (process, ["diffusion.schedule_args.steps=1e12"], "steps=1000000000000.0 must be a whole"),
        (process, ["diffusion.schedule_args.zero_snr=maybe"], "zero_snr='maybe' must be a true or"),
        (process, ["diffusion.schedule_args.beta_start=-0.1"], "beta_start=-0.1 must be above 0"),
        (process, ["diffusion.schedule_args={beta_start: 1e-9, beta_end: 1e-9}"],
         "hardly any noise"),
        (process, ["diffusion.schedule=flow", "diffusion.prediction=flow",
                   "diffusion.schedule_args.shift=0"], "shift=0 must be above 0"),
        (process, ["diffusion.schedule=ve", "diffusion.schedule_args={sigma_min: 9, sigma_max: 1}"],
         "noise does not grow"),
        (process, ["diffusion.time_sampling=logit_normal", "diffusion.time_args.std=0"],
         r"time_args\.std=0 must be above 0"),
        (process, ["diffusion.weighting=min_snr", "diffusion.weighting_args.gamma=-1"],
         r"weighting_args\.gamma=-1 must be at least 0"),
        (process, ["sample.sampler_args.eta=5"], r"sampler_args\.eta=5 must be at most 1"),
        (process, ["sample.sampler=ddpm", "sample.sampler_args.variance=huge"],
         "variance='huge' is not one of small, large, learned"),
        (unet, ["unet.dropout=1.0"], r"unet\.dropout=1\.0 must be below 1"),
        (unet, ["unet.layers_per_block=-1"], "must be at least 1"),
        (unet, ["unet.block_out_channels=8"], "must be a list"),
        (unet, ["unet.norm_eps=0"], "must be above 0"),
        (unet, ["unet.num_class_embeds=3"], "classes are conditioning.kind=class"),
        (lambda c: build_autoencoder(c.autoencoder.model), ["autoencoder.model.in_channels=1"],
         "must be 3: images are RGB"),
        (lambda c: build_conditioner(c.conditioning), ["conditioning.model.num_hidden_layers=-1"],
         r"conditioning\.model\.num_hidden_layers=-1 must be at least 1"),
    ],
)  # fmt: skip
def test_what_was_silently_wrong_or_a_traceback_is_refused_by_its_key(make, overrides, says):
    with pytest.raises(UserError, match=says):
        make(load_config(overrides=overrides))


def test_the_defaults_are_within_their_limits():
    functions = [*SCHEDULES.values(), *(s.solve for s in SAMPLERS.values())]
    functions += [*TIME_SAMPLERS.values(), edm]
    functions += [w for w in WEIGHTINGS.values() if w] + [UNet2DConditionModel, AutoencoderKL]
    for function in functions:
        known = {**signature(function).parameters}
        given = {k: p.default for k, p in known.items() if p.default is not p.empty}
        refuse_arguments("section", function, given)
