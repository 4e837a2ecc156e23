"""What every pipeline is: its parts, where they come from and where they go."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel

from ldm.conditioning import Conditioner
from ldm.models.misfits import refuse_misfits
from ldm.scheduler_config import Spec
from pipelines import folder as folders
from pipelines.containers import sd
from pipelines.defaults import STOCK_DEFAULTS, Defaults
from pipelines.sampling import Sampling

Self = TypeVar("Self", bound="LatentPipeline")


class LatentPipeline(Sampling):
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
        super().__init__()
        refuse_misfits(vae, unet, tokenizer, text_encoder)
        self.vae: Any = vae
        self.unet: Any = unet
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.spec, self.defaults = spec, defaults

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

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move the networks, as torch's `Module.to(device, dtype)`."""
        for module in (self.vae, self.unet, self.text_encoder):
            # torch's own, because diffusers' warns of modules to be kept in float32: []
            torch.nn.Module.to(module, *args, **kwargs)
        return self
