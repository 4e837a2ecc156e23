"""What every pipeline is: its parts, where they come from and where they go."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from ldm.core.errors import UserError
from ldm.models.weights import FOR_A_FILE
from ldm.ports.model import Model
from pipelines.calls.defaults import STOCK_DEFAULTS, Defaults
from pipelines.calls.stock import Hints, absent, refuse_arguments
from pipelines.containers.reader import load, model_of
from pipelines.containers.table import part_names
from pipelines.containers.writer import save
from pipelines.names import Named
from pipelines.sampling import Sampling

Self = TypeVar("Self", bound="LatentPipeline")
HUB = ("cache_dir", "local_files_only", "force_download")  # of what is fetched from there


class LatentPipeline(Sampling, Named, Hints):
    """A latent diffusion model, ready to sample; subclasses add `__call__`.

    Its networks are stock diffusers or transformers objects. Raises UserError where they do not fit
    together. What diffusers' pipelines have besides is here, or says what to do instead.
    """

    safety_checker = feature_extractor = image_encoder = None  # parts of diffusers' that none has

    def __init__(self, model: Model, defaults: Defaults = STOCK_DEFAULTS) -> None:
        super().__init__()
        self.model, self.defaults = model, defaults

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
        given = {part: options.pop(part) for part in part_names() if options.get(part) is not None}
        hub = {key: options.pop(key) for key in HUB if options.get(key) is not None}
        refuse_arguments(f"{cls.__name__}.from_pretrained", options, (*part_names(), *HUB))
        hub |= {"revision": revision, "token": token}
        model, defaults = load(name, variant=variant, sampler=sampler, given=given, **hub)
        pipeline = cls(model, defaults).to(kind)  # before the device, where memory is dear
        return pipeline if device is None else pipeline.to(device)

    @classmethod
    def from_pipe(cls: type[Self], pipeline: Any, **options: Any) -> Self:
        """The parts of another pipeline, this project's or diffusers', for another task.

        Both share their weights.
        """
        refuse_arguments(f"{cls.__name__}.from_pipe", options, ())
        ours = isinstance(pipeline, LatentPipeline)
        made = cls(pipeline.model, pipeline.defaults) if ours else cls(model_of(pipeline))
        made.set_progress_bar_config(**getattr(pipeline, "_progress", {}))
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
        save(self.model, self.defaults, Path(folder), variant, stock)

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

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move the networks, as torch's `Module.to(device, dtype)`; diffusers' names are known too.

        Raises UserError where there is no such device, or no such type of a network.
        """
        kwargs.pop("silence_dtype_warnings", None)
        for ours in ("device", "dtype"):
            if (theirs := kwargs.pop(f"torch_{ours}", None)) is not None:
                kwargs[ours] = theirs
        for module in self.model.modules.values():
            try:
                # torch's own, because diffusers' warns of modules to be kept in float32: []
                torch.nn.Module.to(module, *args, **kwargs)
            except (RuntimeError, TypeError, AssertionError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise UserError(f"the pipeline cannot be moved: {reason}") from None
        return self

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # a property that has failed: again, for its own error
            return object.__getattribute__(self, name)
        raise absent(type(self).__name__, name)
