"""What every pipeline shares: its parts, prompts as context, the guided network, and decoding."""

import logging
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from tqdm.auto import tqdm

from ldm.conditioning import Conditioner
from ldm.diffusion.guidance import cfg, perturbed
from ldm.diffusion.loss import Network
from ldm.diffusion.plane import Level
from ldm.diffusion.samplers import SAMPLERS
from ldm.errors import UserError
from ldm.models.misfits import refuse_misfits
from ldm.scheduler_config import Spec
from ldm.unet import cached_context, perturbed_attention
from pipelines import folder as folders
from pipelines import pixels
from pipelines.containers import sd
from pipelines.defaults import STOCK_DEFAULTS, Defaults, Guidance
from pipelines.pixels import Images

Prompt = str | Sequence[str | None] | None
Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
Self = TypeVar("Self", bound="LatentPipeline")
log = logging.getLogger(__name__)


class LatentPipeline:
    """The parts of a latent diffusion model, ready to sample; subclasses add `__call__`.

    Every part is a stock diffusers or transformers object. Raises UserError where they do not fit
    together.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        tokenizer: Any,
        text_encoder: Any,
        spec: Spec,
        defaults: Defaults = STOCK_DEFAULTS,
    ) -> None:
        refuse_misfits(vae, unet, tokenizer, text_encoder)
        self.vae: Any = vae
        self.unet: Any = unet
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.spec, self.defaults = spec, defaults
        self.conditioner = Conditioner(tokenizer, text_encoder, trainable=False)
        self._progress: dict[str, Any] = {}
        self._interrupt = False

    @classmethod
    def from_parts(
        cls: type[Self],
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        conditioner: Conditioner,
        spec: Spec,
        defaults: Defaults = STOCK_DEFAULTS,
    ) -> Self:
        """A pipeline around the parts of a training run; it shares their weights."""
        return cls(vae, unet, conditioner.tokenizer, conditioner.encoder, spec, defaults)

    @classmethod
    def from_pretrained(
        cls: type[Self],
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Load a run, a folder or a Hub name: of this project, or any Stable Diffusion 1 or 2.

        Safetensors only. Raises UserError for what cannot be found, read or sampled.
        """
        parts = sd.load(name, variant=variant, revision=revision, token=token)
        pipeline = cls(*parts).to(dtype)  # before the device, where memory is dear
        return pipeline if device is None else pipeline.to(device)

    def save_pretrained(
        self, folder: str | Path, variant: str | None = None, *, stock: bool = True
    ) -> None:
        """Write a folder that stock diffusers loads without this package.

        Raises UserError where no diffusers scheduler samples as this pipeline does; without `stock`
        the folder is then one that only this package samples from.
        """
        folders.save(self, Path(folder), variant, stock)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload a latent diffusion pipeline",
    ) -> str:
        """Publish the pipeline with a model card; returns its address."""
        from pipelines.hub import push

        return push(self, name, private=private, token=token, commit_message=commit_message)

    @property
    def components(self) -> dict[str, Any]:
        """The stock modules by diffusers' names."""
        return {
            "vae": self.vae,
            "unet": self.unet,
            "tokenizer": self.tokenizer,
            "text_encoder": self.text_encoder,
        }

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' dtype; the sampler's own arithmetic is float32 whatever it is."""
        return self.unet.dtype

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return pixels.factor(self.vae)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move the networks, as torch's `Module.to(device, dtype)`."""
        for module in (self.vae, self.unet, self.text_encoder):
            # torch's own, because diffusers' warns of modules to be kept in float32: []
            torch.nn.Module.to(module, *args, **kwargs)
        return self

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Arguments of tqdm, such as `disable=True`."""
        self._progress = kwargs

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt = True` in a callback to stop after that step, as in diffusers."""
        return self._interrupt

    def latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """(C, h, w) of a picture of this many pixels; None is what the model was trained on."""
        trained = self.unet.config.sample_size
        rows, columns = (trained, trained) if isinstance(trained, int) else trained
        sides = (height or rows * self.factor, width or columns * self.factor)
        if any(side % self.factor or side <= 0 for side in sides):
            given = f"{sides[0]} x {sides[1]}"
            raise UserError(f"height x width is {given}, and must be multiples of {self.factor}")
        return self.vae.config.latent_channels, *(side // self.factor for side in sides)

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
        return own.num_inference_steps if steps is None else steps, guidance

    def solver_options(self, sampler: str | None, eta: float) -> dict[str, Any]:
        """The sampler's own options; raises UserError for a name that is none, or has no eta."""
        name = sampler or self.spec.sampler
        if name not in SAMPLERS:
            raise UserError(f"sampler {name!r} is not one of {', '.join(SAMPLERS)}")
        if eta and "eta" not in signature(SAMPLERS[name]).parameters:
            raise UserError(f"eta is DDIM's amount of noise, and sampler {name!r} has none")
        return {"eta": eta} if eta else {}

    def context(
        self, prompt: Prompt, negative_prompt: Prompt, images: int, guided: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Contexts (B, L, D) of the prompts, each `images` times, and of the negative ones."""
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise UserError("prompt is an empty list: pass at least one, or None")
        if images < 1:
            raise UserError(f"num_images_per_prompt={images} must be at least 1")
        negatives: list[str | None]
        if negative_prompt is None or isinstance(negative_prompt, str):
            negatives = [negative_prompt] * len(prompts)
        else:
            negatives = list(negative_prompt)
        if len(negatives) != len(prompts):
            raise UserError(f"{len(negatives)} negative prompts for {len(prompts)} prompts")
        for text in prompts:
            if text and self.conditioner.truncated(text):
                log.warning("only its first %d tokens count: %r", self.conditioner.length, text)
        positive = self._encode(prompts).repeat_interleave(images, 0)
        return positive, self._encode(negatives).repeat_interleave(images, 0) if guided else None

    def _encode(self, texts: list[str | None]) -> Tensor:
        """Each distinct text once, so that equal prompts get equal contexts whatever the batch."""
        distinct = list(dict.fromkeys(texts))
        encoded = self.conditioner.encode(self.conditioner.tokens(distinct)).to(self.dtype)
        return encoded[[distinct.index(text) for text in texts]]

    def network(self, positive: Tensor, negative: Tensor | None, guidance: Guidance) -> Network:
        """The guided U-Net, float32 in and out.

        Conditional and unconditional are one pass of 2B images; without a negative context there
        is one of B.
        """
        network = cond = self._predictor(positive)
        if negative is not None:
            both = self._predictor(torch.cat([negative, positive]))

            def pair(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
                f_u, f_c = both(torch.cat([x, x]), level).chunk(2)
                return f_c, f_u

            uncond = self._predictor(negative)
            network = cfg(cond, uncond, guidance.scale, guidance.interval, guidance.rescale, pair)
        if guidance.pag_scale:

            def worse(x: Tensor, level: Level) -> Tensor:
                with perturbed_attention(self.unet):
                    return cond(x, level)

            network = perturbed(network, cond, worse, guidance.pag_scale)
        return network

    def _predictor(self, context: Tensor) -> Network:
        """The U-Net under one context (B, L, D)."""

        def predict(x: Tensor, level: Level) -> Tensor:
            label = self.spec.schedule.label(level.t).to(x.device, torch.float32)
            return self.unet(x.to(self.dtype), label, context, return_dict=False)[0].to(x.dtype)

        return predict

    def run(
        self,
        states: Iterator[Tensor],
        x: Tensor,
        levels: Sequence[Level],
        callback: Callback | None,
    ) -> Tensor:
        """Draw every state from a sampler, with progress bar and callback; returns the last.

        A callback may return {"latents": ...} to change x for the steps that follow.
        """
        self._interrupt = False
        options = {"total": len(levels) - 1, "unit": "step", "leave": False} | self._progress
        with cached_context(self.unet), tqdm(**options) as bar:
            for index, (level, state) in enumerate(zip(levels[:-1], states, strict=True)):
                x = state
                bar.update()
                if callback is not None:
                    told = self.spec.schedule.label(level.t)
                    changed = (callback(self, index, told, {"latents": x}) or {}).get("latents", x)
                    if changed is not x:
                        x.copy_(changed)  # in place: the sampler goes on from this very tensor
                if self._interrupt:
                    break
        return x

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the U-Net knows them → pixels (B, 3, H, W) in [0, 1], float32."""
        return pixels.decode(self.vae, latents)

    def images(self, latents: Tensor, output_type: str) -> Images:
        """Decoded as "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W), or left as "latent"."""
        if output_type == "latent":
            return Images(latents)
        return pixels.output(self.decode(latents), output_type)
