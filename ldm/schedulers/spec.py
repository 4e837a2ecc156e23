"""Spec: all that sampling must know, and its translation to and from diffusers' schedulers."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ldm.core.errors import UserError
from ldm.diffusion import Contract, Denoiser
from ldm.diffusion.denoise import boundary, check, clamp, denoiser, threshold
from ldm.diffusion.grids import split
from ldm.diffusion.learned import Learned
from ldm.diffusion.plane import PREDICTIONS, Level, Network, Noise, Prediction, State, clean, edm
from ldm.diffusion.samplers import SAMPLERS, Solver
from ldm.diffusion.schedules import Discrete, Schedule, positions
from ldm.schedulers import quirks
from ldm.schedulers.another import LEARNED, read_for
from ldm.schedulers.floor import SCHEDULES, ZERO_SNR_FLOOR, floored
from ldm.schedulers.given import refuse_process
from ldm.schedulers.kept import refuse_loss, refuse_other_betas
from ldm.schedulers.reader import read_scheduler
from ldm.schedulers.spacings import GRIDS
from ldm.schedulers.table import Options, spacing, start, tabulated
from ldm.schedulers.trial import tried
from ldm.schedulers.writer import class_of, divides_by_alpha, stock_class, write_scheduler

# how a class's own grid differs from its name's default
_OWN = {("UniPCMultistepScheduler", "flow"): {"top": 1 - 1e-6}}


def _named(registry: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in registry:
        raise UserError(f"unknown {what} {name!r}; there are {', '.join(registry)}")
    return registry[name]


@dataclass(frozen=True)
class Spec:
    """How a trained network becomes samples; names are those of the registries in ldm.diffusion."""

    schedule_name: str = "scaled_linear"
    schedule_args: Options = field(default_factory=dict)
    prediction_name: str = "v"
    prediction_args: Options = field(default_factory=dict)  # of edm: sigma_data, sign
    sampler: str = "ddim"
    sampler_args: Options = field(default_factory=dict)
    grid: str = "trailing"
    grid_args: Options = field(default_factory=dict)
    clip: float | None = None  # x̂0 within ± this
    thresholding: tuple[float, float] | None = None  # quantile and largest value
    boundary: float | None = None  # a latent consistency model's timestep scaling
    learned_variance: bool = False  # the network's output has twice the channels of x
    final: str = "clean"  # the last step ends "clean", on the "first" entry, or on that as x/α
    start: str = "one"  # std of the first x: "one", "sigma", or "marginal" for √(α² + σ²)
    source: Options | None = field(default=None, compare=False, repr=False)  # diffusers' own dict

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule; raises UserError for an unknown name or argument."""
        make = _named(SCHEDULES, self.schedule_name, "schedule")
        try:
            return make(**self.schedule_args)
        except TypeError as error:
            raise UserError(f"schedule {self.schedule_name}: {error}") from None

    @cached_property
    def _visited(self) -> Schedule:
        """What grids are laid on: the schedule as diffusers' class of the sampler has it."""
        schedule = self.schedule
        if isinstance(schedule, Learned):
            return Discrete.of(schedule.betas())
        floor = ZERO_SNR_FLOOR if divides_by_alpha(self.sampler) else 0.0
        if isinstance(schedule, Discrete):
            return floored(schedule, floor)
        betas = tabulated(schedule)
        return schedule if betas is None else floored(Discrete.of(betas), floor)

    @property
    def prediction(self) -> Prediction:
        """What the network's output means."""
        prediction = _named(PREDICTIONS, self.prediction_name, "prediction")
        if self.prediction_name != "edm":
            if self.prediction_args:
                raise UserError(f"prediction {self.prediction_name} has no prediction_args")
            return prediction
        try:
            return edm(**self.prediction_args)
        except TypeError as error:
            raise UserError(f"prediction edm: {error}") from None

    @cached_property
    def contract(self) -> Contract:
        """What the network is given and told, and what its output means."""
        return Contract.of(self.schedule, self.prediction)

    @torch.no_grad()
    def levels(self, num_inference_steps: int) -> list[Level]:
        """The noise levels to visit, num_inference_steps + 1 of them with the last step's end."""
        try:
            grid = _named(GRIDS, self.grid, "grid")
            levels = grid(self._visited, num_inference_steps, **self.grid_args)
        except ValueError as error:
            raise UserError(str(error)) from None
        both_ends = self.start == "sigma" or (self.start == "marginal" and self.grid != "edm")
        both_ends = both_ends or (self.grid in quirks.CHOSEN and self.final == "first")
        noisy = "trailing" in (self.grid, self.grid_args.get("between"))
        if num_inference_steps == 1 and both_ends and not noisy:
            raise UserError(f"grid {self.grid} has two ends: take at least 2 sampling steps")
        levels[-1] = self._end()
        if isinstance(self.schedule, Learned):  # whose time is its own
            levels = [level._replace(t=self.schedule.reached(level.t)) for level in levels]
        return levels

    def _end(self) -> Level:
        """What the last step ends on."""
        if self.final == "clean":
            return clean()
        first = self._visited.level(torch.tensor(1 / positions(self.schedule), dtype=torch.float64))
        scale = first.alpha if self.final == "ratio" else torch.ones_like(first.alpha)
        return Level(first.t, first.alpha / scale, first.sigma / scale)

    @torch.no_grad()
    def visiting(self, labels: Sequence[float]) -> list[Level]:
        """The noise levels with these labels, diffusers' `timesteps`, and the last step's end."""
        table, index = self._visited, torch.tensor(list(labels), dtype=torch.float64)
        if not isinstance(table, Discrete) or isinstance(self.schedule, Learned):
            raise UserError(f"timesteps are of a table, and schedule {self.schedule_name} has none")
        ordered = len(index) > 0 and bool((index.diff() < 0).all())
        if not ordered or index[-1] < 0 or index[0] >= table.steps:
            raise UserError(f"timesteps must descend, from at most {table.steps - 1} to 0 or more")
        return [*split(table.level((index + 1) / table.steps)), self._end()]

    @torch.no_grad()
    def initial(self, noise: Tensor, first: Level | None = None) -> Tensor:
        """Standard normal noise, scaled to what the first level expects, the noisiest if none."""
        end = torch.ones((), dtype=torch.float64)
        _, alpha, sigma = self.schedule.level(end) if first is None else first
        std = {"one": 1.0, "sigma": float(sigma), "marginal": math.hypot(alpha, sigma)}
        return std[self.start] * noise

    def denoiser(self, network: Network, sampler: str | None = None) -> Denoiser:
        """The network's denoiser, clipped or thresholded as the sampler (this Spec's) does it."""
        denoise = denoiser(network, self.schedule, self.prediction)
        rederive = _named(SAMPLERS, sampler or self.sampler, "sampler").rederive
        if self.thresholding:
            denoise = threshold(denoise, *self.thresholding, rederive=rederive)
        elif self.clip is not None:
            denoise = clamp(denoise, self.clip, rederive)
        return boundary(denoise, self.contract.label, self.boundary) if self.boundary else denoise

    def sample(
        self,
        network: Network,
        x: Tensor,
        num_inference_steps: int,
        sampler: str | None = None,
        noise: Noise | None = None,
        levels: Sequence[Level] | None = None,
        wrap: Callable[[Denoiser], Denoiser] | None = None,
        **options: Any,
    ) -> Iterator[State]:
        """Yield the State after each step, from x at the first level.

        `levels` replaces the grid's; `wrap` turns the denoiser into another one (steering,
        inpainting); `options` and another `sampler` replace this Spec's own.
        """
        name = sampler or self.sampler
        solve: Solver = _named(SAMPLERS, name, "sampler")
        options = {**(self.sampler_args if name == self.sampler else {}), **options}
        visited = self.levels(num_inference_steps) if levels is None else levels
        stock = stock_class(name, self.schedule_name)
        options |= quirks.few_steps(stock, SAMPLERS[name], options, len(visited) - 1)
        if (ends := self.ends(num_inference_steps, visited, name)) is not None:
            solve = partial(quirks.stock_ddim, ends)
        denoise = self.denoiser(network, name)
        return solve(wrap(denoise) if wrap else denoise, x, visited, noise=noise, **options)

    def ends(self, steps: int, levels: Sequence[Level], sampler: str | None) -> list[Level] | None:
        """What each step down `levels` ends on where that is not the next one, as stock DDIM's."""
        laid = sampler in (None, self.sampler) and self.grid in ("leading", "trailing", "linspace")
        if not laid or stock_class(self.sampler, self.schedule_name) != "DDIMScheduler":
            return None
        return quirks.ddim_targets(self.contract.label, self._visited, self.levels(steps), levels)

    def asked(self, num_inference_steps: int, sampler: str | None = None) -> list[Level]:
        """The level of each evaluation of the network that an image takes."""
        name = sampler or self.sampler
        own = self.sampler_args if name == self.sampler else {}
        return _named(SAMPLERS, name, "sampler").asked(self.levels(num_inference_steps), **own)

    @classmethod
    def from_diffusion_config(
        cls,
        config: Any,
        grid: str = "trailing",
        sampler: str = "ddim",
        sampler_args: Options | None = None,
    ) -> "Spec":
        """The Spec of a DiffusionConfig, with the conventions of the diffusers class it exports to.

        Raises UserError for unknown names and for ε-prediction with zero terminal SNR.
        """
        known = _named(SAMPLERS, sampler, "sampler").defaults
        for key in sampler_args or {}:
            if key not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise UserError(f"sampler {sampler} has no option {key!r}; {has}")
        _named(GRIDS, grid, "grid")
        refuse_process(config, sampler, sampler_args)
        export = class_of(sampler, name := config.schedule)
        own = {"flow": "flow", "ve": "edm", "edm": "edm"}.get(name) if grid == "trailing" else None
        if own == "flow" and export.startswith("FlowMatch"):
            own = "flow_match"
        learned = config.learned_variance and "variance" in known
        if learned and grid in ("leading", "trailing"):
            grid = "linspace"  # off entry 0 diffusers adds learned noise to the last sample
        even = grid in ("karras", "exponential", "beta", "log_linear")
        spaced = spacing(export, (grid, "linspace") if even else grid, 1, name)
        return cls(
            schedule_name=name,
            schedule_args=dict(config.schedule_args),
            prediction_name=config.prediction,
            prediction_args=dict(getattr(config, "prediction_args", {})),
            sampler=sampler,
            sampler_args={"variance": "learned"} if learned else dict(sampler_args or {}),
            grid=own or spaced[0],
            grid_args=_OWN.get((export, own), {}) if own else spaced[1],
            learned_variance=config.learned_variance,
            start={"flow": "one", "ve": "marginal", "edm": "marginal"}.get(name)
            or start(export, grid),
        )._checked()

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any], sampler: str | None = None) -> "Spec":
        """Read a diffusers scheduler config; a missing key takes its class's default.

        With a `sampler`, the same model sampled by that one, whatever class the config is of, on
        the grid that its class would take over. Raises UserError naming the class, or the first
        key whose value is not implemented.
        """
        if sampler is None:
            spec = cls(**read_scheduler(config), source=dict(config))._checked()
            if (steps := positions(spec.schedule)) > 3:
                some = spec._some_levels()
                quirks.refuse_quirks(config["_class_name"], asdict(spec), some, steps)
            return spec
        known = _named(SAMPLERS, sampler, "sampler").defaults
        fields = read_for(config, sampler)
        learned = config.get("variance_type") in LEARNED or fields.get("learned_variance", False)
        fields |= {"sampler": sampler, "sampler_args": {}, "learned_variance": learned}
        if "variance" in known and learned:
            fields["sampler_args"] = {"variance": "learned"}
        return cls(**fields)._checked()

    def to_diffusers(self, num_inference_steps: int | None = None) -> Options:
        """The scheduler config with which stock diffusers gives the same samples.

        The dict it was read from, where nothing changed since; else one written anew, read back,
        and tried: diffusers samples with it at a few numbers of steps, and at the model's own
        where that is given. Raises UserError with what diffusers cannot express or gets wrong.
        """
        if self.source is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the reader said it once
                unchanged = Spec.from_diffusers(self.source) == self
            if unchanged:
                return dict(self.source)
        config = write_scheduler(asdict(self), self._visited)
        name, mine = config["_class_name"], asdict(self)
        quirks.refuse_twins(name, mine, self._some_levels())
        back = Spec.from_diffusers(config)
        refuse_loss(name, mine, asdict(back))
        refuse_other_betas(name, mine, asdict(back), (self._visited, back._visited))
        tried(self, config, num_inference_steps)
        return config

    def _some_levels(self) -> list[Level]:
        return self.levels(1 if self.grid == "lcm" else max(2, positions(self.schedule) // 10))

    def to_json(self) -> Options:
        """All of it, also what diffusers has no word for; `from_json` is the inverse."""
        return {k: v for k, v in asdict(self).items() if k != "source"}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> "Spec":
        """Raises UserError for unknown names and pairs that cannot work, TypeError for keys."""
        whole = {**options, "thresholding": tuple(options.get("thresholding") or ()) or None}
        return cls(**whole)._checked()

    def _checked(self) -> "Spec":
        try:
            check(self.schedule, self.prediction)
        except ValueError as error:
            raise UserError(str(error)) from None
        return self
