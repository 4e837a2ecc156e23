"""Exported and read schedulers against diffusers' own loops: the same samples, or refused.

Twice. Where diffusers' class computes in float64, the samples are ours to EXACT: mostly to 1e-15.
DDPM adds a noise of 1e-10 to the finished sample, and pure noise, which diffusers takes for
ᾱ = 2⁻²⁴, starts at a deviation of 1 - 2⁻²⁵ there. A multistep grid with labels between entries
may be written with β moved by two parts in a million, for a label's sake: then β is ours to MOVED,
and the samples are those of that β. As it is, in float32, the class tells the network of the same
level first, and strays by what `rounding` says. Its whole-number labels of chosen σ stay float32's,
which are the neighbour now and then: there `rounding` alone is asked.
"""

import warnings
from inspect import signature

import diffusers
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldm.config import DiffusionConfig
from ldm.core.errors import UserError
from ldm.schedulers.reader import NEAREST
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import stock_scheduler
from ldm.schedulers.trial import ERROR, difference
from tests.reference import in_float64

pytestmark = pytest.mark.filterwarnings("ignore")
FEW = settings(max_examples=35, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
STEPS = st.one_of(st.sampled_from([1, 2, 3, 10, 20, 25, 30, 50, 61, 103]), st.integers(1, 60))
DISCRETE = {"zero_snr": [True], "steps": [100, 250, 777], "beta_end": [0.01, 0.03]}
SCHEDULES = {
    "linear": DISCRETE,
    "scaled_linear": DISCRETE,
    "sigmoid": DISCRETE,
    "cosine": {"zero_snr": [True], "steps": [100, 500], "max_beta": [0.99]},
    "continuous_cosine": {"s_max": [1.0], "s_min": [0.0]},
    "flow": {"shift": [0.5, 3.0]},
    "edm": {"sigma_max": [40.0]},
    "vp": {},
    "sub_vp": {},
    "ve": {},
    "learned": {},
}
OPTIONS = {
    "ddpm": {"variance": ["large"]},
    "ddim": {"eta": [0.5]},
    "dpmpp_2m": {"lower_order_final": [False]},
    "dpmpp_2m_sde": {"lower_order_final": [False]},
    "unipc": {"lower_order_final": [False]},
}
SAMPLERS = [*OPTIONS, "euler", "euler_ancestral", "heun", "consistency"]
EXACT, MOVED = 1e-7, 2.1e-6  # of a sample's size; of β
GRIDS = ["leading", "trailing", "linspace", "karras", "exponential", "beta"]


def some(options):
    """A dict of some of these keys, each with one of its values."""
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in options.items()})


@st.composite
def models(draw):
    """A DiffusionConfig, a grid, a sampler with options and a number of steps."""
    schedule, sampler = draw(st.sampled_from(list(SCHEDULES))), draw(st.sampled_from(SAMPLERS))
    own = {"flow": ["flow", "v"], "edm": ["edm"], "ve": ["edm"]}.get(schedule, ["epsilon", "v"])
    config = DiffusionConfig(
        schedule=schedule,
        schedule_args=draw(some(SCHEDULES[schedule])),
        prediction=draw(st.sampled_from([*own, "sample"])),
        learned_variance=sampler == "ddpm" and draw(st.integers(0, 4)) == 0,
    )
    options = draw(some(OPTIONS.get(sampler, {})))
    return config, draw(st.sampled_from(GRIDS)), sampler, options, draw(STEPS)


def rounding(spec):
    """What diffusers' float32 may add: twice what an export's trial allows, as other draws make
    more of it (1e-11 in float64 where it was most), or two units in σ, times 1/α.
    """
    noisiest = spec._visited.level(torch.ones((), dtype=torch.float64)).alpha
    return max(2 * ERROR, 2e-7 / float(noisiest.clamp(min=2.0**-16)))


def same(spec, config, steps):
    error, first, _ = difference(spec, config, steps, seed=3)
    assert error < rounding(spec), f"{error} apart"
    assert first < 0.5, f"first label {first} apart"
    if spec.grid_args.get("told") == "floor":  # the same model with β moved, as it was written
        betas, spec = spec._visited.betas, Spec.from_diffusers(config)
        moved = spec._visited.betas  # but the last, which a floor of ᾱ may stand for
        torch.testing.assert_close(moved[:-1], betas[:-1], rtol=MOVED, atol=0)
    with in_float64(config, steps):
        exact, _, label = difference(spec, config, steps, seed=3)
    neighbour = spec.grid_args.get("told") in ("floor", "round") and 0.5 < label < 1.01
    assert exact < EXACT or neighbour, f"{exact} apart in float64"


def exported_is_the_same_or_refused(model):
    config, grid, sampler, options, steps = model
    try:
        spec = Spec.from_diffusion_config(config, grid, sampler, options)
        written = stock_scheduler(spec, steps)
        spec.levels(steps)
    except UserError:
        return
    same(spec, written, steps)


@FEW
@given(models())
def test_what_is_exported_samples_the_same_in_diffusers_or_is_refused(model):
    exported_is_the_same_or_refused(model)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@MANY
@given(models())
def test_what_is_exported_samples_the_same_in_diffusers_or_is_refused_3000(model):
    exported_is_the_same_or_refused(model)


KEYS = {
    "num_train_timesteps": [500, 200],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp"],
    "beta_start": [0.0001, 0.00085],
    "beta_end": [0.012, 0.02],
    "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction"],
    "rescale_betas_zero_snr": [True],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "steps_offset": [0, 1, 3],
    "use_karras_sigmas": [True, False],
    "use_exponential_sigmas": [True, False],
    "use_beta_sigmas": [True, False],
    "use_lu_lambdas": [True, False],
    "use_flow_sigmas": [True, False],
    "flow_shift": [1.0, 3.0],
    "clip_sample": [True, False],
    "clip_sample_range": [0.8, 2.0],
    "thresholding": [True],
    "dynamic_thresholding_ratio": [0.9],
    "sample_max_value": [2.0, 0.5],
    "set_alpha_to_one": [False],
    "final_sigmas_type": ["sigma_min"],
    "variance_type": ["fixed_small_log", "fixed_large", "learned_range"],
    "solver_order": [1, 2, 3],
    "algorithm_type": ["sde-dpmsolver++", "dpmsolver", "deis"],
    "solver_type": ["midpoint", "heun", "bh1", "logrho"],
    "lower_order_final": [False],
    "euler_at_final": [True],
    "original_inference_steps": [20],
    "timestep_scaling": [2.0],
    "sigma_data": [1.0],
    "sigma_schedule": ["exponential"],
    "rho": [5.0],
    "shift": [3.0],
    "stochastic_sampling": [True],
    "interpolation_type": ["log_linear"],
    "timestep_type": ["continuous"],
    "predict_x0": [False],
    "lambda_min_clipped": [-5.1],
}
READ = [
    *("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"),
    *("UniPCMultistepScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    *("DDIMParallelScheduler", "DDPMParallelScheduler", "DPMSolverSinglestepScheduler"),
]


@st.composite
def schedulers(draw, classes=READ):
    """A config of one of these classes that diffusers itself accepts, and a number of steps."""
    name = draw(st.sampled_from(classes))
    known = signature(getattr(diffusers, name)).parameters
    options = draw(some({k: v for k, v in KEYS.items() if k in known}))
    return {"_class_name": name, **options}, draw(STEPS)


def is_accepted(config, steps):
    """Whether diffusers itself makes anything of it."""
    try:
        made = getattr(diffusers, config["_class_name"])
        scheduler = made.from_config({k: v for k, v in config.items() if k != "_class_name"})
        scheduler.set_timesteps(steps)
    except Exception:
        return False
    return len(scheduler.timesteps) in (steps, 2 * steps - 1)  # n + 1 at 61 and 103, trailing


def read_is_the_same_or_told(drawn):
    config, steps = drawn
    if not is_accepted(config, steps):
        return
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            spec = Spec.from_diffusers(config)
        spec.levels(steps)
    except UserError:
        return
    told = [w for w in told if "is sampled with its nearest here" in str(w.message)]
    assert len(told) <= 1
    if told:
        return
    first, second, *_ = spec.levels(steps)
    if first.t != second.t:  # where these are one, diffusers' class falls off its own end
        same(spec, config, steps)


@FEW
@given(schedulers())
def test_what_is_read_samples_as_in_diffusers_or_is_refused_or_told(drawn):
    read_is_the_same_or_told(drawn)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@MANY
@given(schedulers())
def test_what_is_read_samples_as_in_diffusers_or_is_refused_or_told_3000(drawn):
    read_is_the_same_or_told(drawn)


HEUN, SINGLESTEP = "HeunDiscreteScheduler", "DPMSolverSinglestepScheduler"


@pytest.mark.parametrize(
    "config, steps",
    [
        # 104 trailing labels are 103 levels, which end on entry 0
        ({"_class_name": HEUN, "use_exponential_sigmas": True}, 103),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, 61),
        ({"_class_name": HEUN, "beta_schedule": "exp"}, 7),
        # what float32 makes most of
        ({"_class_name": SINGLESTEP, "solver_order": 1, "final_sigmas_type": "sigma_min"}, 1),
        ({"_class_name": "UniPCMultistepScheduler", "beta_schedule": "squaredcos_cap_v2"}, 1),
    ],
)
def test_what_was_apart_once_is_the_same(config, steps):
    config = {"timestep_spacing": "trailing"} | config
    same(Spec.from_diffusers(config), config, steps)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedulers([k for k in NEAREST if k not in ("DPMSolverSDEScheduler", "PNDMScheduler")]))
def test_the_nearest_sampler_visits_the_levels_of_the_class_it_stands_for(drawn):
    config, steps = drawn
    if steps < 2 or config.get("use_flow_sigmas") or not is_accepted(config, steps):
        return
    try:
        spec = Spec.from_diffusers(config)
        levels = spec.levels(steps)
    except UserError:
        return
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(steps)
    labels, sigmas = scheduler.timesteps.tolist(), getattr(scheduler, "sigmas", None)
    if config["_class_name"].startswith("KDPM2"):  # which has another between any two
        labels, sigmas = [labels[0], *labels[2::2]], None
    mine = [float(spec.contract.label(level)) for level in levels[:-1]]
    chosen = any(config.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta"))
    # labels of chosen σ are whole numbers, which float32 may round to the neighbour
    assert mine == pytest.approx(labels, abs=1.0 if chosen else 0.1)
    if sigmas is not None:
        ratios = [float(level.sigma / level.alpha) for level in levels]
        assert ratios == pytest.approx(sigmas.tolist(), rel=1e-3, abs=1e-6)
