"""What every pipeline is: its parts, where they come from and where they go."""

from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers.models import AutoencoderKL

from ldm.conditions.conditioner import Conditioner
from ldm.core.errors import UserError
from ldm.models.weights import FOR_A_FILE
from ldm.ports.misfits import refuse_misfits
from ldm.schedulers.spec import Spec
from pipelines.calls.defaults import STOCK_DEFAULTS, Defaults
from pipelines.calls.stock import Hints, absent, refuse_arguments
from pipelines.containers import sd_reader as sd
from pipelines.containers.sd_writer import save
from pipelines.sampling import Sampling

Self = TypeVar("Self", bound="LatentPipeline")
PARTS = ("vae", "unet", "tokenizer", "text_encoder", "scheduler")  # by diffusers' names
HUB = ("cache_dir", "local_files_only", "force_download")  # of what is fetched from there


class LatentPipeline(Sampling, Hints):
    """The parts of a latent diffusion model, ready to sample; subclasses add `__call__`.

    Every part is a stock diffusers or transformers object. Raises UserError where they do not fit
    together. What diffusers' pipelines have besides is here, or says what to do instead.
    """

    safety_checker = feature_extractor = image_encoder = None  # parts of diffusers' that none has

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: torch.nn.Module,
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
        unet: torch.nn.Module,
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
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        sampler: str | None = None,
        torch_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Self:
        """Load a run, a folder or a Hub name: of this project, or any Stable Diffusion 1 or 2.

        In float32 unless `dtype` (or diffusers' `torch_dtype`) is another. Without a `variant`
        the plain weights are read, else the most precise there are. `sampler` replaces the
        scheduler's own. Parts may be given by name (vae, unet, text_encoder, tokenizer, scheduler),
        and snapshot_download's cache_dir, local_files_only and force_download. Safetensors only.
        Raises UserError for what cannot be found, read or sampled, or is not whole.
        """
        kind = dtype or torch_dtype or torch.float32
        if not isinstance(kind, torch.dtype):
            raise UserError(f"dtype={kind!r} is none of torch's: pass torch.float16, or another")
        given = {part: options.pop(part) for part in PARTS if options.get(part) is not None}
        hub = {key: options.pop(key) for key in HUB if options.get(key) is not None}
        refuse_arguments(f"{cls.__name__}.from_pretrained", options, (*PARTS, *HUB))
        hub |= {"revision": revision, "token": token}
        parts = sd.load(name, variant=variant, sampler=sampler, given=given, **hub)
        pipeline = cls(*parts).to(kind)  # before the device, where memory is dear
        return pipeline if device is None else pipeline.to(device)

    @classmethod
    def from_pipe(cls: type[Self], pipeline: Any, **options: Any) -> Self:
        """The parts of another pipeline, this project's or diffusers', for another task.

        Both share their weights.
        """
        refuse_arguments(f"{cls.__name__}.from_pipe", options, ())
        if lacks := [part for part in PARTS[:-1] if getattr(pipeline, part, None) is None]:
            raise UserError(
                f"a {type(pipeline).__name__} is no such pipeline: it has no {lacks[0]}"
            )
        ours = isinstance(pipeline, LatentPipeline)
        made = cls(
            pipeline.vae,
            pipeline.unet,
            pipeline.tokenizer,
            pipeline.text_encoder,
            pipeline.spec if ours else Spec.from_diffusers(sd.scheduler_config(pipeline.scheduler)),
            pipeline.defaults if ours else STOCK_DEFAULTS,
        )
        made.set_progress_bar_config(**getattr(pipeline, "_progress", {}))
        made._in_strips = ours and pipeline._in_strips
        return made

    @classmethod
    def from_single_file(cls: type[Self], *_: Any, **__: Any) -> Self:
        """Refuses, and says how to make a folder of a single file."""
        raise UserError(f"single files are not loaded: {FOR_A_FILE}")

    def save_pretrained(
        self,
        folder: str | Path,
        variant: str | None = None,
        *,
        stock: bool = True,
        safe_serialization: bool = True,
    ) -> None:
        """Write a folder that stock diffusers loads without this package.

        Raises UserError where no diffusers scheduler samples as this pipeline does; without `stock`
        the folder is then one that only this package samples from.
        """
        if not safe_serialization:
            raise UserError("only safetensors are written: leave safe_serialization=False out")
        save(self.components, self.spec, self.defaults, Path(folder), variant, stock)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload a latent diffusion pipeline",
    ) -> str:
        """Publish the pipeline with a model card; returns its address."""
        from pipelines.published.hub import push

        return push(self, name, private=private, token=token, commit_message=commit_message)

    @property
    def components(self) -> dict[str, Any]:
        """The stock modules by diffusers' names, in the constructor's order."""
        return {part: getattr(self, part) for part in PARTS[:-1]}

    @property
    def scheduler(self) -> Any:
        """A diffusers scheduler that samples as this pipeline does; another may be set.

        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)

        It is made anew each time: what is changed in it changes nothing here. Raises UserError
        where diffusers has none.
        """
        config = dict(self.spec.to_diffusers())
        return getattr(diffusers, config.pop("_class_name")).from_config(config)

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self.spec = Spec.from_diffusers(sd.scheduler_config(scheduler))

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move the networks, as torch's `Module.to(device, dtype)`; diffusers' names are known too.

        Raises UserError where there is no such device, or no such type of a network.
        """
        kwargs.pop("silence_dtype_warnings", None)
        for ours in ("device", "dtype"):
            if (theirs := kwargs.pop(f"torch_{ours}", None)) is not None:
                kwargs[ours] = theirs
        for module in (self.vae, self.unet, self.text_encoder):
            try:
                # torch's own, because diffusers' warns of modules to be kept in float32: []
                torch.nn.Module.to(module, *args, **kwargs)
            except (RuntimeError, TypeError, AssertionError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise UserError(f"the pipeline cannot be moved: {reason}") from None
        return self

    def __getattr__(self, name: str) -> Any:
        raise absent(type(self).__name__, name)
