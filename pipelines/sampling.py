"""How every pipeline samples: prompts as context, the guided network, a call, and decoding."""

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.conditions.conditioner import Conditioner
from ldm.core.errors import UserError
from ldm.diffusion.brownian import brownian
from ldm.diffusion.plane import Label, Level, Network, Noise, State
from ldm.diffusion.samplers import SAMPLERS
from ldm.models.networks import kind_of
from ldm.ports.codec import Codec
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.calls.call import CHANGEABLE, Begin, Call, Options, Watched
from pipelines.calls.defaults import MOST_STEPS, Defaults, Guidance, number, numbers, whole
from pipelines.calls.guided import Told, guided
from pipelines.calls.pixels import Images, output, refuse_output_type
from pipelines.calls.prompts import Prompt, Prompts
from pipelines.calls.seeds import Draws, generators
from pipelines.calls.stock import refuse_arguments

log = logging.getLogger(__name__)
NO_NUMBERS = (
    "the images that came out are no numbers (NaN or infinite): take a smaller guidance_scale, or "
    "dtype=torch.bfloat16 or float32 in place of float16"
)


class NoNumbers(UserError):
    """The networks have given NaN or infinity."""


class Sampling(Watched):
    """What a pipeline does with its parts; each call works on views of them, and changes none."""

    model: Model
    defaults: Defaults

    def __init__(self) -> None:
        super().__init__()
        self._prompts = Prompts()
        self._progress: dict[str, Any] = {}

    @property
    def conditioner(self) -> Conditioner:
        """The tokenizer and text encoder, as training has them."""
        return self.model.text

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' dtype; the sampler's own arithmetic is float32 whatever it is."""
        return self.model.dtype

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return self.model.codec.factor

    @property
    def multiple(self) -> int:
        """What divides the sides of a picture, in pixels: whole latents, and whole patches."""
        network = self.model.network
        return self.factor * kind_of(network).patch(network.config)

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Arguments of tqdm, such as `disable=True`."""
        self._progress = kwargs

    def latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """(C, h, w) of a picture of this many pixels; None is what the model was trained on."""
        trained = self.model.network.config.sample_size
        rows, columns = (trained, trained) if isinstance(trained, int) else trained
        sides = (
            rows * self.factor if height is None else whole("height", height),
            columns * self.factor if width is None else whole("width", width),
        )
        if any(side % self.multiple or side <= 0 for side in sides):
            given = f"{sides[0]} x {sides[1]}"
            raise UserError(f"height x width is {given}, and must be multiples of {self.multiple}")
        rows, columns = (side // self.factor for side in sides)
        return self.model.codec.channels, rows, columns

    def settings(
        self,
        steps: int | None = None,
        scale: float | None = None,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
        pag_scale: float = 0.0,
    ) -> tuple[int, Guidance]:
        """Steps and guidance: what a call was told, else what the model's folder says."""
        own = self.defaults
        guidance = Guidance(
            own.guidance_scale if scale is None else scale,
            own.guidance_interval if interval is None else interval,
            rescale,
            pag_scale,
        )
        steps = own.num_inference_steps if steps is None else steps
        return whole("num_inference_steps", steps, high=MOST_STEPS), guidance

    def solver_options(self, sampler: str | None, eta: float) -> dict[str, Any]:
        """The sampler's own options; raises UserError for a name that is none."""
        name = sampler or self.model.process.sampler
        if not isinstance(name, str) or name not in SAMPLERS:
            raise UserError(f"sampler {name!r} is not one of {', '.join(SAMPLERS)}")
        eta = number("eta", eta, 0, 1)
        takes = SAMPLERS[name].takes_eta
        if eta and not takes:
            log.warning("eta is DDIM's amount of noise, and sampler %s takes no notice of it", name)
        return {"eta": eta} if eta and takes else {}

    def context(
        self, prompt: Prompt, negative_prompt: Prompt, images: int, guided: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts (B, L, D) of the prompts, each `images` times, and of the negative ones."""
        return self.encode_prompt(prompt, None, images, guided, negative_prompt)

    def encode_prompt(
        self,
        prompt: Prompt = None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Prompt = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """diffusers' name and order for prompt_embeds and negative_prompt_embeds, (B, L, D)."""
        positive, negative = self._prompts.encode(
            self.conditioner,
            prompt,
            negative_prompt,
            num_images_per_prompt,
            do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            clip_skip=clip_skip,
        )
        place = self.device if device is None else device
        positive = positive.to(place, self.dtype)
        return positive, None if negative is None else negative.to(place, self.dtype)

    def network(self, positive: Tensor, negative: Tensor | None, guidance: Guidance) -> Network:
        """The guided U-Net under two contexts, float32 in and out."""
        told = Told(positive, negative, guidance.scale)
        return guided(self.model.network, self.model.process.contract, told, guidance)

    @torch.no_grad()
    def run(
        self,
        prompt: Prompt,
        num_inference_steps: int | None,
        shape: tuple[int, int, int],
        begin: Callable[[Call], Begin],
        options: Options,
        also: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Any:
        """One call: latents of `shape` from where they `begin`, to images.

        `also` is what the network is told besides the prompt: by name, a row for each image.

        Whatever it changes is its own: several may run at a time, in threads of their own.
        """
        refuse_arguments(type(self).__name__, options, Options.__annotations__)
        output_type = options.get("output_type") or "pil"
        refuse_output_type(output_type)
        model = self.model  # whatever is set meanwhile
        if any(side * self.factor % self.multiple for side in shape[1:]):
            given = " x ".join(str(side * self.factor) for side in shape[1:])
            raise UserError(f"the picture is {given}: sides must be multiples of {self.multiple}")
        spec, sampler, labels = model.process, options.get("sampler"), options.get("timesteps")
        if labels is not None:
            labels = numbers("timesteps", labels)
        steps, guidance = self.settings(
            num_inference_steps if labels is None else len(labels),
            options.get("guidance_scale"),
            options.get("guidance_interval"),
            options.get("guidance_rescale", 0.0),
            options.get("pag_scale", 0.0),
        )
        solver = self.solver_options(sampler, options.get("eta", 0.0))
        levels = spec.levels(steps) if labels is None else spec.visiting(labels)
        each = options.get("num_images_per_prompt")
        each = 1 if each is None else whole("num_images_per_prompt", each, 1)
        positive, negative = self.encode_prompt(
            prompt,
            num_images_per_prompt=each,
            do_classifier_free_guidance=guidance.scale > 1,
            negative_prompt=options.get("negative_prompt"),
            prompt_embeds=options.get("prompt_embeds"),
            negative_prompt_embeds=options.get("negative_prompt_embeds"),
            clip_skip=options.get("clip_skip"),
        )
        count = len(positive)
        draw = Draws(
            generators(options.get("seed"), options.get("generator"), count),
            count,
            shape,
            self.device,
        )
        told = Told(positive, negative, guidance.scale, also)
        call = Call(told, draw, levels, steps, prompts=count // each)
        start = begin(call)
        call.steps = len(start.levels) - 1
        unet = kind_of(model.network).sampling(model.network)
        network = guided(unet, spec.contract, told, guidance)
        states = spec.sample(
            network,
            start.x,
            steps,
            sampler=sampler,
            noise=_noise(spec, sampler, draw, start.levels, steps, bool(options.get("brownian"))),
            levels=start.levels,
            wrap=start.wrap,
            **solver,
        )
        x = self._walk(states, start, call, options, spec.contract.label)
        if start.finish is not None:
            x = start.finish(x)
        images = self.images(x, output_type, model.codec)
        return images if options.get("return_dict", True) else (images.images, None)

    def _walk(
        self,
        states: Iterator[State],
        start: Begin,
        call: Call,
        options: Options,
        told: Label,
    ) -> Tensor:
        """Draw every state from a sampler, with progress bar and callback; returns the last."""
        callback, x = options.get("callback_on_step_end"), start.x
        if callback is not None and not callable(callback):
            raise UserError(f"callback_on_step_end is {callback!r}: pass a function, or None")
        names = options.get("callback_on_step_end_tensor_inputs") or ["latents"]
        names = getattr(callback, "tensor_inputs", names)  # of diffusers' own callbacks
        known = isinstance(names, list | tuple | set)
        if not known or (unknown := [name for name in names if name not in CHANGEABLE]):
            raise UserError(
                f"callback_on_step_end_tensor_inputs has {unknown[0] if known else names!r}, which "
                f"is not one of {', '.join(CHANGEABLE)}"
            )
        bar = {"total": call.steps, "unit": "step", "leave": False} | self._progress
        with self._watched(call), tqdm(**bar) as progress:
            for index, (level, state) in enumerate(zip(start.levels[:-1], states, strict=True)):
                x = state.x
                progress.update()
                if callback is not None:
                    given = {name: call.changeable(x)[name] for name in names}
                    label = told(level)
                    call.change(x, callback(self, index, label, given))
                if call.interrupt:
                    break
        return x

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the U-Net knows them → pixels (B, 3, H, W) in [0, 1], float32."""
        return self.model.codec.view().decode(latents)

    def images(self, latents: Tensor, output_type: str, codec: Codec | None = None) -> Images:
        """Decoded as "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W), or left as "latent".

        By the model's codec, or another. Raises UserError where they are no numbers.
        """
        codec = codec or self.model.codec
        found = latents if output_type == "latent" else codec.view().decode(latents)
        if not bool(found.isfinite().all()):
            raise NoNumbers(NO_NUMBERS)
        return Images(found) if output_type == "latent" else output(found, output_type)


def _noise(
    spec: Spec, sampler: str | None, draw: Draws, levels: list[Level], steps: int, motion: bool
) -> Noise:
    """The draw of each step down these levels, its own or that of a Brownian motion."""
    chosen = SAMPLERS[name := sampler or spec.sampler]
    if motion and chosen.noise and not chosen.paired:
        raise UserError(
            f"sampler {name} does not draw its noise for a step from one level to the next, as "
            "brownian=True has it: leave that out, or take euler_ancestral or dpmpp_2m_sde"
        )
    if not motion:
        return draw
    return brownian(draw.motion(), levels, spec.ends(steps, levels, sampler))
