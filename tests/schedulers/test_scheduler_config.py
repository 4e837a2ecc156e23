"""Spec against full loops of diffusers' schedulers, and its configs there and back."""

import dataclasses
import warnings
from types import SimpleNamespace

import diffusers
import pytest
import torch

from ldm.config import DiffusionConfig
from ldm.core.errors import UserError
from ldm.diffusion.exact import as_network, mixture
from ldm.diffusion.grids import renoise
from ldm.diffusion.plane import EPS, PREDICTIONS
from ldm.diffusion.samplers import SAMPLERS
from ldm.schedulers.reader import NEAREST
from ldm.schedulers.spacings import GRIDS
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import export_refusal, stock_scheduler
from ldm.schedulers.writer import class_of
from tests.reference import diffusers_loop, draws, exact_tables, network, our_loop

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 3, 4, 4)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SPACINGS = ("leading", "trailing", "linspace")
EXACT, SINGLE = 3e-14, 1e-6  # of the sample's size: float64 classes, and those with float32 σ

EULER, HEUN = "EulerDiscreteScheduler", "HeunDiscreteScheduler"
ANCESTRAL = "EulerAncestralDiscreteScheduler"
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
EDM, EDM_DPM = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
FLOW_EULER, FLOW_HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"


def case(class_name, tolerance=SINGLE, steps=20, eta=None, **config):
    label = "-".join(str(v) for v in config.values() if not isinstance(v, float | list))
    name = f"{class_name}-{label}-{steps}" + (f"-eta{eta}" if eta else "")
    return pytest.param({"_class_name": class_name, **config}, tolerance, steps, eta, id=name)


def ddim_cases():
    for prediction in ("epsilon", "sample", "v_prediction"):
        for clip in (False, True):
            for eta in (0.0, 0.7, 1.0):
                options = {"clip_sample": clip, "clip_sample_range": 0.8, **LATENT}
                yield case("DDIMScheduler", EXACT, eta=eta, prediction_type=prediction, **options)
    for spacing in SPACINGS:
        for steps in (17, 20):  # 17 does not divide 1000
            yield case("DDIMScheduler", EXACT, steps, timestep_spacing=spacing, **LATENT)
    yield case("DDIMScheduler", EXACT, set_alpha_to_one=False, steps_offset=1, **LATENT)
    yield case("DDIMScheduler", EXACT, thresholding=True, sample_max_value=2.0, **LATENT)
    for schedule in ("linear", "squaredcos_cap_v2"):
        yield case("DDIMScheduler", EXACT, beta_schedule=schedule, prediction_type="v_prediction")
    yield case(
        "DDIMScheduler",
        EXACT,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        timestep_spacing="trailing",
        **LATENT,
    )
    yield case("DDIMScheduler", EXACT, trained_betas=[0.001 + 0.00002 * i for i in range(1000)])


def ddpm_cases():
    for variance in ("fixed_small", "fixed_small_log", "fixed_large", "learned_range"):
        for prediction in ("epsilon", "sample", "v_prediction"):
            options = {"variance_type": variance, "prediction_type": prediction, **LATENT}
            yield case("DDPMScheduler", 3e-13, clip_sample=False, **options)
    yield case("DDPMScheduler", 3e-13, variance_type="fixed_small", clip_sample_range=0.8)
    yield case("DDPMScheduler", 3e-13, thresholding=True, sample_max_value=2.0, **LATENT)
    yield case("DDPMScheduler", 3e-13, beta_schedule="sigmoid", timestep_spacing="linspace")


def float32_cases():
    for name in (EULER, HEUN, ANCESTRAL):
        for spacing in SPACINGS:
            for prediction in ("epsilon", "v_prediction"):
                options = {"timestep_spacing": spacing, "prediction_type": prediction, **LATENT}
                yield case(name, **options)
                for sigmas in ("karras", "exponential") if name != ANCESTRAL else ():
                    if spacing != "leading":
                        yield case(name, **options, **{f"use_{sigmas}_sigmas": True})
    yield case(EULER, prediction_type="sample", final_sigmas_type="sigma_min", **LATENT)
    yield case(HEUN, prediction_type="sample", clip_sample=True)
    for name in (DPM, UNIPC):
        for spacing in SPACINGS:
            for prediction in ("epsilon", "v_prediction", "sample"):
                yield case(name, timestep_spacing=spacing, prediction_type=prediction, **LATENT)
        # exponential ones are tried with float32 tables, which decide what the first label is
        yield case(name, prediction_type="sample", use_karras_sigmas=True, **LATENT)
        yield case(name, steps=10, prediction_type="v_prediction", **LATENT)
        yield case(name, prediction_type="v_prediction", final_sigmas_type="sigma_min", **LATENT)
        yield case(name, thresholding=True, sample_max_value=2.0, **LATENT)
        yield case(name, flow_shift=1.0, **FLOW)
        yield case(name, flow_shift=3.0, **FLOW)
        zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **LATENT}
        yield case(name, prediction_type="v_prediction", **zero)
    yield case(EULER, prediction_type="v_prediction", **zero)
    yield case(DPM, prediction_type="v_prediction", lower_order_final=False, **LATENT)
    yield case(DPM, solver_order=1, **FLOW)
    for order in (1, 2):
        sde = {"algorithm_type": "sde-dpmsolver++", "solver_order": order}
        yield case(DPM, prediction_type="v_prediction", **sde, **LATENT)
    cosine = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
    yield case(DPM, prediction_type="v_prediction", **cosine)
    for name in (EDM, EDM_DPM):
        for schedule in ("karras", "exponential"):
            for prediction in ("epsilon", "v_prediction"):
                options = {"sigma_schedule": schedule, "prediction_type": prediction}
                yield case(name, sigma_data=0.7, **options)
    yield case(EDM, rho=5.0, sigma_max=40.0)
    yield case(EDM_DPM, algorithm_type="sde-dpmsolver++")
    yield case(EDM_DPM, steps=10, thresholding=True)
    for shift in (1, 3):
        yield case(FLOW_EULER, shift=shift)
        yield case(FLOW_HEUN, shift=shift)
    yield case(FLOW_EULER, shift=2, stochastic_sampling=True)


def lcm_cases():
    for prediction in ("epsilon", "sample", "v_prediction"):
        for steps in (1, 4, 7):
            yield case("LCMScheduler", EXACT, steps, prediction_type=prediction)
    yield case("LCMScheduler", EXACT, 4, clip_sample=True, original_inference_steps=20)
    yield case("LCMScheduler", EXACT, 4, timestep_scaling=2.0)


CASES = [*ddim_cases(), *ddpm_cases(), *lcm_cases(), *float32_cases()]


def net_of(config):
    return network(SHAPE, channels=6 if config.get("variance_type") == "learned_range" else 3)


@pytest.mark.parametrize("config, tolerance, steps, eta", CASES)
def test_samples_match_diffusers(config, tolerance, steps, eta):
    noise, z = draws(SHAPE, 1, seed=7)[0], draws(SHAPE, steps)
    options = {} if eta is None else {"eta": eta}
    theirs = diffusers_loop(config, net_of(config), noise, steps, z, **options)
    ours = our_loop(Spec.from_diffusers(config), net_of(config), noise, steps, z, **options)
    size = max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * size)


def test_ddpm_off_entry_0_differs_by_the_noise_that_diffusers_floors_at_1e_10():
    config = {"_class_name": "DDPMScheduler", "timestep_spacing": "trailing", **LATENT}
    noise, z = draws(SHAPE, 1, seed=7)[0], draws(SHAPE, 20)
    theirs = diffusers_loop(config, net_of(config), noise, 20, z) - 1e-10 * z[-1]
    ours = our_loop(Spec.from_diffusers(config), net_of(config), noise, 20, z)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-13)


@pytest.mark.filterwarnings("ignore")
def test_pndm_is_near_its_nearest_sampler():
    """On a data set of 64 points, 50 steps: 0.003 apart, where DDIM is 0.04 away."""
    config = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, **LATENT}
    spec = Spec.from_diffusers(config)
    points, noise = draws((64, 2, 2, 2), 1)[0], draws((256, 2, 2, 2), 1, seed=2)[0]
    exact = as_network(mixture(points, 0.01), EPS)

    def net(x, label):
        t = torch.tensor((label + 1) / 1000, dtype=torch.float64)
        return exact(x, spec.schedule.level(t))

    theirs = diffusers_loop(config, net, noise, 50, [])
    gaps = {
        name: (our_loop(spec, net, noise, 50, [], sampler=name) - theirs).square().mean().sqrt()
        for name in ("unipc", "dpmpp_2m", "heun", "ddim")
    }
    assert spec.sampler == min(gaps, key=gaps.__getitem__) == "unipc"
    assert gaps["unipc"] < 0.006


def test_pndm_says_that_another_sampler_stands_in():
    with pytest.warns(UserWarning, match="PNDM is sampled with its nearest"):
        Spec.from_diffusers({"_class_name": "PNDMScheduler"})


# one of each class
FIRST = {p.values[0]["_class_name"]: p for p in reversed(CASES)}


@pytest.mark.parametrize("config, tolerance, steps, eta", FIRST.values())
def test_a_config_survives_verbatim(config, tolerance, steps, eta):
    config = {**config, "_diffusers_version": "0.30.0", "a_key_of_tomorrow": [1, None]}
    assert Spec.from_diffusers(config).to_diffusers() == config


@pytest.mark.parametrize("config, tolerance, steps, eta", FIRST.values())
def test_a_rewritten_config_gives_the_same_samples(config, tolerance, steps, eta):
    spec = Spec.from_diffusers(config)
    again = Spec.from_diffusers(dataclasses.replace(spec, source=None).to_diffusers())
    noise, z = draws(SHAPE, 1, seed=7)[0], draws(SHAPE, steps)
    ours, theirs = (our_loop(s, net_of(config), noise, steps, z) for s in (spec, again))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


NATIVE = [
    ({}, "ddim"),
    ({}, "ddpm"),
    ({}, "euler"),
    ({}, "euler_ancestral"),
    ({}, "heun"),
    ({}, "dpmpp_2m"),
    ({}, "dpmpp_2m_sde"),
    ({}, "unipc"),
    ({"prediction": "epsilon"}, "ddim"),
    ({"prediction": "sample", "schedule": "linear"}, "ddim"),
    ({"schedule": "cosine", "schedule_args": {"zero_snr": True}}, "ddim"),
    ({"schedule": "cosine", "schedule_args": {"zero_snr": True}}, "dpmpp_2m"),
    ({"schedule": "scaled_linear", "schedule_args": {"zero_snr": True}}, "unipc"),
    ({"schedule": "sigmoid"}, "ddim"),
    ({"schedule": "continuous_cosine"}, "ddim"),
    ({"schedule": "vp"}, "dpmpp_2m"),
    ({"schedule": "learned"}, "ddim"),
    ({"schedule": "flow", "prediction": "flow"}, "ddim"),
    ({"schedule": "flow", "prediction": "flow"}, "heun"),
    ({"schedule": "flow", "prediction": "flow", "schedule_args": {"shift": 3.0}}, "dpmpp_2m"),
    ({"schedule": "flow", "prediction": "flow"}, "unipc"),
    ({"schedule": "edm", "prediction": "edm"}, "euler"),
    ({"schedule": "edm", "prediction": "edm"}, "dpmpp_2m"),
]


@pytest.mark.parametrize(
    "config, sampler",
    NATIVE,
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
)
@pytest.mark.parametrize("steps", [17, 20])
def test_what_is_trained_here_samples_the_same_in_diffusers(config, sampler, steps):
    spec = Spec.from_diffusion_config(DiffusionConfig(**config), sampler=sampler)
    net = network(SHAPE, channels=6 if spec.learned_variance else 3)
    noise, z = draws(SHAPE, 1, seed=7)[0], draws(SHAPE, steps)
    theirs = diffusers_loop(spec.to_diffusers(), net, noise, steps, z)
    ours = our_loop(spec, net, noise, steps, z)
    size = max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=SINGLE * size)


@pytest.mark.parametrize("steps", [17, 20])
def test_image_to_image_matches_diffusers_last_steps(steps):
    spec = Spec.from_diffusion_config(DiffusionConfig())
    noise, image = draws(SHAPE, 2, seed=7)
    x, levels = renoise(image, noise, spec.levels(steps), 0.6)
    net = network(SHAPE)

    scheduler = diffusers.DDIMScheduler.from_config(spec.to_diffusers())
    exact_tables(scheduler, spec)
    scheduler.set_timesteps(steps)
    kept = scheduler.timesteps[steps - int(steps * 0.6) :]  # as StableDiffusionImg2ImgPipeline does
    theirs = scheduler.add_noise(image, noise, kept[:1].repeat(2))
    torch.testing.assert_close(x, theirs)
    for t in kept:
        theirs = scheduler.step(net(theirs, float(t)), t, theirs, return_dict=False)[0]

    def call(x, level):
        return net(x, float(spec.contract.label(level)))

    *_, (ours, _, _) = spec.sample(call, x, steps, levels=levels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=EXACT)


def test_levels_of_ones_own_are_stepped_to_as_they_are():
    spec, x = Spec(), draws(SHAPE, 1)[0]
    levels = Spec(grid="karras").levels(5)
    states = list(spec.sample(lambda x, level: 0.1 * x, x, 17, levels=levels))
    again = list(spec.sample(lambda x, level: 0.1 * x, x, 5, levels=levels, sampler="euler"))
    assert len(states) == 5
    torch.testing.assert_close([s.x for s in states], [s.x for s in again])


def test_a_learned_variance_samples_the_same_in_diffusers():
    """Also where trailing was asked for: off entry 0 diffusers adds noise to the last sample."""
    spec = Spec.from_diffusion_config(DiffusionConfig(learned_variance=True), sampler="ddpm")
    assert spec.grid == "linspace"
    noise, z = draws(SHAPE, 1, seed=7)[0], draws(SHAPE, 20)
    theirs = diffusers_loop(spec.to_diffusers(), network(SHAPE, channels=6), noise, 20, z)
    ours = our_loop(spec, network(SHAPE, channels=6), noise, 20, z)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-13)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine", "sigmoid", "table"])
def test_a_floor_in_a_config_or_an_export_is_what_is_left_at_the_end(schedule):
    """As a Spec says that was read from diffusers, and as `ldm.json` and configs may have it."""
    given = {"zero_snr": True, "floor": 2.0**-24} | (
        {"betas": [0.1, 0.2, 0.3]} if schedule == "table" else {}
    )
    config = DiffusionConfig(schedule=schedule, schedule_args=given, prediction="epsilon")
    read = Spec.from_json({"schedule_name": schedule, "schedule_args": given})
    for spec in (Spec.from_diffusion_config(config, "trailing", "ddim"), read):
        assert (spec.levels(2)[0].alpha, spec.schedule_args) == (2.0**-12, given)
        assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_a_continuous_schedule_that_ends_in_pure_noise_is_exported(sampler):
    """At the floor of α = 1/4096, in diffusers' float32 numbers; without it they are NaN."""
    whole = {"s_max": 1.0, "s_min": 0.0}
    config = DiffusionConfig(schedule="continuous_cosine", schedule_args=whole)
    spec = Spec.from_diffusion_config(config, "trailing", sampler)
    noise, z = draws(SHAPE, 1, seed=7)[0], draws(SHAPE, 30)
    theirs = diffusers_loop(spec.to_diffusers(), network(SHAPE), noise, 30, z)
    torch.testing.assert_close(
        our_loop(spec, network(SHAPE), noise, 30, z), theirs, rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("grid", ["leading", "linspace"])
@pytest.mark.parametrize(
    "schedule, prediction, args", [("flow", "flow", {"shift": 3.0}), ("edm", "edm", {})]
)
def test_ddim_visits_the_levels_of_its_grid_where_diffusers_has_none(
    schedule, prediction, args, grid
):
    config = DiffusionConfig(schedule=schedule, schedule_args=args, prediction=prediction)
    spec = Spec.from_diffusion_config(config, grid=grid)
    noise, levels = draws(SHAPE, 1, seed=7)[0], spec.levels(20)
    x = spec.initial(noise)
    net, label = network(SHAPE), spec.contract.label
    denoise = spec.denoiser(lambda x, level: net(x, float(label(level))))
    *_, (expected, _, _) = SAMPLERS["ddim"](denoise, x, levels)
    torch.testing.assert_close(our_loop(spec, net, noise, 20, []), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_flow_models_refuse_only_what_says_nothing_of_pure_noise(sampler):
    for prediction in PREDICTIONS:
        config = DiffusionConfig(schedule="flow", prediction=prediction)
        if prediction != "epsilon":
            Spec.from_diffusion_config(config, sampler=sampler)
            continue
        with pytest.raises(UserError, match="predicts ε says nothing"):
            Spec.from_diffusion_config(config, sampler=sampler)


@pytest.mark.parametrize(
    "config, key",
    [
        ({"_class_name": DPM, "lambda_min_clipped": -5.1}, "lambda_min_clipped=-5.1"),
        ({"_class_name": EULER, "sigma_max": 10.0}, "sigma_max=10.0"),
        ({"_class_name": EULER, "beta_schedule": "exp"}, "beta_schedule='exp'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type='learned'"),
        ({"_class_name": FLOW_EULER, "use_dynamic_shifting": True}, "use_dynamic_shifting=True"),
        ({"_class_name": DPM, "use_karras_sigmas": True, **FLOW}, "one way too many"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
        ({}, "scheduler ''"),
    ],
)
def test_what_is_not_implemented_is_refused_by_key(config, key):
    with pytest.raises(UserError, match=key):
        Spec.from_diffusers(config)


def test_a_missing_key_takes_its_classs_default():
    """The same four keys mean three things."""
    keys = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    ddim, euler, heun = (
        Spec.from_diffusers({"_class_name": name, **keys})
        for name in ("DDIMScheduler", EULER, HEUN)
    )
    assert (ddim.grid, euler.grid, heun.grid) == ("leading", "interpolated", "interpolated")
    assert ddim.schedule_args["beta_end"] == euler.schedule_args["beta_end"] == 0.02
    assert heun.schedule_args["beta_end"] == 0.012
    assert ddim.clip == 1.0
    assert euler.clip is None


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_epsilon_with_zero_terminal_snr_is_refused_with_the_reason(name):
    with pytest.raises(UserError, match="predicts ε says nothing of x0 where α = 0"):
        Spec.from_diffusers({"_class_name": name, "rescale_betas_zero_snr": True})


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"schedule_name": "sub_vp", "schedule_args": {}}, "variance-preserving"),
        ({"prediction_name": "edm"}, "prediction_name='edm'"),
        ({"prediction_name": "flow"}, "prediction_type='flow_prediction'"),
        ({"learned_variance": True}, "learned_variance=True"),
        ({"sampler": "langevin"}, "sampler='langevin'"),
        ({"grid": "karras"}, "grid='karras'"),
        ({"sampler_args": {"eta": 0.5}}, "sampler_args={'eta': 0.5}"),
    ],
)
def test_what_diffusers_cannot_express_is_refused_with_the_reason(change, reason):
    spec = dataclasses.replace(Spec(), **change)
    with pytest.raises((UserError, ValueError), match=reason):
        spec.to_diffusers()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            {"schedule_args": {"zero_snr": True}},
            "loses zero_snr=True: β of entry 998 would be 0.01",
        ),
        ({"schedule": "cosine"}, "goes astray"),
    ],
)
def test_heun_from_pure_noise_is_not_exported_as_diffusers_would_do_it(config, what):
    spec = Spec.from_diffusion_config(DiffusionConfig(**config), sampler="heun")
    with pytest.raises(UserError, match=f"HeunDiscreteScheduler of diffusers {what}"):
        spec.to_diffusers()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_a_grid_whose_first_steps_share_a_label_is_not_exported(sampler):
    """diffusers takes such a step for the one after it, and has too few steps at the end."""
    config = DiffusionConfig(schedule_args={"zero_snr": True})
    spec = Spec.from_diffusion_config(config, "karras", sampler)
    with pytest.raises(UserError, match=r"Multistep.* loses its place.*take another grid"):
        spec.to_diffusers()
    stock = {**dataclasses.replace(spec, grid="linspace", grid_args={"extra": 1}).to_diffusers()}
    read = Spec.from_diffusers(stock | {"use_karras_sigmas": True})
    assert read.to_diffusers()["use_karras_sigmas"]  # what came from diffusers goes back as it was


def test_a_changed_spec_is_written_anew():
    spec = Spec.from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False, **LATENT})
    changed = dataclasses.replace(spec, prediction_name="v").to_diffusers()
    assert changed["prediction_type"] == "v_prediction"
    assert Spec.from_diffusers(changed) == dataclasses.replace(spec, prediction_name="v")


@pytest.mark.parametrize(
    "config, options, message",
    [
        ({"schedule": "cosin"}, {}, "unknown schedule 'cosin'"),
        ({"prediction": "eps"}, {}, "unknown prediction 'eps'"),
        ({"schedule_args": {"beta": 1}}, {}, "schedule scaled_linear: .*beta"),
        ({}, {"sampler": "plms"}, "unknown sampler 'plms'"),
        ({}, {"grid": "even"}, "unknown grid 'even'"),
    ],
)
def test_unknown_names_are_user_errors(config, options, message):
    with pytest.raises(UserError, match=message):
        Spec.from_diffusion_config(DiffusionConfig(**config), **options)


def test_a_spec_of_another_config_class_reads_what_it_has():
    """Only names matter, so that this file needs nothing of ldm.config."""
    config = SimpleNamespace(
        schedule="edm",
        schedule_args={},
        prediction="edm",
        prediction_args={"sigma_data": 1.0},
        learned_variance=False,
    )
    spec = Spec.from_diffusion_config(config, sampler="euler")
    assert spec.to_diffusers()["sigma_data"] == 1.0


def test_too_many_steps_is_a_user_error():
    with pytest.raises(UserError, match="1001 sampling steps"):
        Spec().levels(1001)


def test_no_warning_but_pndms():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for p in CASES:
            Spec.from_diffusers(p.values[0])
    assert set(GRIDS) >= {"leading", "trailing", "linspace", "karras", "exponential", "edm"}


def test_a_samplers_options_come_from_the_config_and_reach_the_export():
    large = {"variance": "large"}
    spec = Spec.from_diffusion_config(DiffusionConfig(), "linspace", "ddpm", large)
    assert spec.to_diffusers()["variance_type"] == "fixed_large"
    with pytest.raises(UserError, match="sampler ddpm has no option 'eta'"):
        Spec.from_diffusion_config(DiffusionConfig(), sampler="ddpm", sampler_args={"eta": 1.0})


@pytest.mark.parametrize("class_name", ["PNDMScheduler", "A_scheduler_of_tomorrow"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_sampler_takes_over_the_model_of_any_class(sampler, class_name):
    """As diffusers makes a scheduler from the config of another; β and prediction are kept."""
    betas = torch.linspace(0.001, 0.02, 100, dtype=torch.float64).tolist()
    config = {"_class_name": class_name, "trained_betas": betas, "num_train_timesteps": 100}
    config["prediction_type"] = "v_prediction"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PNDM's stand-in is not needed
        spec = Spec.from_diffusers(config, sampler)
    assert (spec.sampler, spec.prediction_name, spec.source) == (sampler, "v", None)
    assert spec.schedule_args == {"betas": betas}
    made = getattr(diffusers, class_of(sampler, "")).from_config(config)
    made.set_timesteps(10)
    labels = [float(spec.contract.label(level)) for level in spec.levels(10)[:-1]]
    assert labels == pytest.approx(list(dict.fromkeys(made.timesteps.tolist())), abs=1e-4)


def test_another_sampler_takes_over_the_grid_that_its_class_knows():
    config = {"_class_name": DPM, "use_karras_sigmas": True, "solver_order": 3, **LATENT}
    assert Spec.from_diffusers(config, "euler").grid == "karras"
    assert Spec.from_diffusers({"_class_name": FLOW_EULER}, "heun").grid == "flow_match"


def test_what_is_alien_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r'VQDiffusionScheduler.*from_pretrained.*sampler="ddim"'):
        Spec.from_diffusers({"_class_name": "VQDiffusionScheduler"})
    with pytest.raises(UserError, match=r"VQDiffusionScheduler.*says nothing of β"):
        Spec.from_diffusers({"_class_name": "VQDiffusionScheduler"}, "ddim")
    with pytest.raises(UserError, match="unknown sampler 'plms'"):
        Spec.from_diffusers({"_class_name": "PNDMScheduler"}, "plms")
    with pytest.raises(UserError, match=r"IPNDMScheduler.*says nothing of β"):
        Spec.from_diffusers({"_class_name": "IPNDMScheduler"}, "ddim")
    assert Spec.from_diffusers({"_class_name": "IPNDMScheduler", **LATENT}, "ddim")


@pytest.mark.parametrize(
    "config, options, reason",
    [
        ({"schedule": "flow"}, ("trailing", "dpmpp_2m"), "takes v on a straight path"),
        ({"schedule": "flow"}, ("linspace", "ddpm"), "hold variance-preserving schedules"),
        ({}, ("trailing", "ddpm", {"variance": "large"}), "adds noise to the finished sample"),
        ({}, ("trailing", "unipc", {"lower_order_final": False}), "ends in NaN"),
        ({"prediction": "sample"}, ("trailing", "euler_ancestral"), "has no prediction sample"),
        ({"schedule": "cosine"}, ("karras", "unipc"), "loses its place"),
        ({"schedule": "sigmoid"}, ("beta", "unipc"), r"levels up to 1\.0 entries"),
        ({"schedule": "learned"}, ("exponential", "dpmpp_2m"), r"levels up to 2\.0 entries"),
    ],
)
def test_what_diffusers_gets_wrong_is_not_exported_and_the_reason_is_given(config, options, reason):
    spec = Spec.from_diffusion_config(DiffusionConfig(**config), *options)
    with pytest.raises(UserError, match=reason):
        stock_scheduler(spec)


@pytest.mark.parametrize("steps", [61, 103])
def test_a_number_of_steps_that_diffusers_miscounts_is_not_exported_as_the_models_own(steps):
    """Its trailing grid then has a step more, which starts at label -1."""
    spec = Spec.from_diffusion_config(DiffusionConfig())
    assert export_refusal(spec, 60) is None
    assert "takes another number of steps" in export_refusal(spec, steps)


@pytest.mark.parametrize(
    "config, reason",
    [
        (
            {"_class_name": DPM, "use_flow_sigmas": True, "prediction_type": "v_prediction"},
            "takes v",
        ),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}, None),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "steps_offset": 1},
            "adds noise",
        ),
        ({"_class_name": ANCESTRAL, "prediction_type": "sample"}, "has no prediction sample"),
        ({"_class_name": UNIPC, "lower_order_final": False}, "ends in NaN"),
        ({"_class_name": HEUN, "beta_schedule": "squaredcos_cap_v2"}, "goes astray"),
        (
            {
                "_class_name": DPM,
                "algorithm_type": "sde-dpmsolver++",
                "use_karras_sigmas": True,
                "final_sigmas_type": "sigma_min",
            },
            "a step of no length",
        ),
    ],
)
def test_what_diffusers_gets_wrong_is_not_read(config, reason):
    if reason is None:
        Spec.from_diffusers(config)
        return
    with pytest.raises(UserError, match=reason):
        Spec.from_diffusers(config)


NEAR = [({"_class_name": name}, sampler) for name, sampler in NEAREST.items()] + [
    ({"_class_name": DPM, "solver_order": 3}, "dpmpp_2m"),
    (
        {"_class_name": DPM, "algorithm_type": "sde-dpmsolver", "solver_type": "heun"},
        "dpmpp_2m_sde",
    ),
    ({"_class_name": UNIPC, "solver_type": "bh1", "solver_order": 3}, "unipc"),
    ({"_class_name": EDM_DPM, "solver_order": 3}, "dpmpp_2m"),
]


@pytest.mark.parametrize("config, sampler", NEAR)
def test_a_solver_that_is_not_here_gives_way_to_the_nearest_with_one_warning(config, sampler):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        spec = Spec.from_diffusers(config)
        assert spec.to_diffusers() == config  # and says nothing again
    assert (len(told), spec.sampler) == (1, sampler)
    name = config["_class_name"].removesuffix("Scheduler")
    assert f"is sampled with its nearest here, {sampler} on" in str(told[0].message)
    assert str(told[0].message).startswith(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "SASolverScheduler"])
def test_levels_on_which_a_class_leaves_its_noise_are_refused(name):
    """Its last step is from the grid's last level to the same, and at 1 step that is the first."""
    spec = Spec.from_diffusers({"_class_name": name, "use_karras_sigmas": True})
    assert len(spec.levels(2)) == 3
    with pytest.raises(UserError, match="take at least 2 sampling steps"):
        spec.levels(1)
    with pytest.raises(UserError, match="use_flow_sigmas"):
        Spec.from_diffusers({"_class_name": name, **FLOW})


SOUND = {"_class_name": "DDIMScheduler", "clip_sample": False}


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_train_timesteps", 10**9),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", -1000),
        ("num_train_timesteps", 1000.5),
        ("num_train_timesteps", "1000"),
        ("num_train_timesteps", True),
        ("num_train_timesteps", None),
        ("beta_start", "0.0001"),
        ("beta_start", float("nan")),
        ("beta_end", float("inf")),
        ("beta_end", -0.1),
        ("beta_end", 7),
        ("beta_schedule", ["linear"]),
        ("trained_betas", "0.1, 0.2"),
        ("trained_betas", [0.01] * 999),
        ("trained_betas", [0.01] * 999 + ["x"]),
        ("trained_betas", [0.01] * 999 + [float("nan")]),
        ("trained_betas", [0.0] * 1000),
        ("steps_offset", -5),
        ("steps_offset", 1.5),
        ("clip_sample_range", float("nan")),
        ("clip_sample", "yes"),
        ("dynamic_thresholding_ratio", 1.5),
        ("prediction_type", {"epsilon": 1}),
        ("timestep_spacing", 3),
    ],
)
def test_a_hostile_value_is_refused_with_its_key(key, value):
    with pytest.raises(UserError, match=key):
        Spec.from_diffusers(SOUND | {key: value})
    if not key.startswith(("clip", "dynamic", "steps", "timestep_s")):
        with pytest.raises(UserError, match=key):
            Spec.from_diffusers(SOUND | {key: value}, "dpmpp_2m")


def test_a_class_name_that_is_none_is_refused():
    for name in (None, 3, ["DDIMScheduler"], "utils", "__class__"):
        with pytest.raises(UserError, match="is not implemented"):
            Spec.from_diffusers({"_class_name": name})
