"""diffusers' names for the parts of a model: each may be read, and set to another."""

from dataclasses import replace
from typing import Any

import diffusers
import torch

from ldm.ports.misfits import refuse_misfits
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.containers.reader import scheduler_config
from pipelines.containers.table import container_of


class Named:
    """vae, unet, tokenizer, text_encoder and scheduler of a `model`."""

    _model: Model

    @property
    def model(self) -> Model:
        """What is sampled; another may be set, of parts that belong together.

        Raises UserError where they do not.
        """
        return self._model

    @model.setter
    def model(self, model: Model) -> None:
        refuse_misfits(model)
        self._model = model

    @property
    def vae(self) -> Any:
        """An AutoencoderKL, or what stands in its place."""
        return self.model.codec.module

    @vae.setter
    def vae(self, vae: torch.nn.Module) -> None:
        self.model = self.model._replace(codec=self.model.codec.around(vae))

    @property
    def unet(self) -> Any:
        """The denoiser, a transformer's too."""
        return self.model.network

    @unet.setter
    def unet(self, unet: torch.nn.Module) -> None:
        # compiled code leads around a call's view of it, and its weights have other names
        self.model = self.model._replace(network=getattr(unet, "_orig_mod", unet))

    @property
    def tokenizer(self) -> Any:
        return self.model.text.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.model = self.model.telling(replace(self.model.text, tokenizer=tokenizer))

    @property
    def text_encoder(self) -> Any:
        return self.model.text.encoder

    @text_encoder.setter
    def text_encoder(self, text_encoder: torch.nn.Module) -> None:
        self.model = self.model.telling(replace(self.model.text, encoder=text_encoder))

    @property
    def spec(self) -> Spec:
        """All that sampling must know besides the networks."""
        return self.model.process

    @spec.setter
    def spec(self, spec: Spec) -> None:
        self.model = self.model._replace(process=spec)

    @property
    def components(self) -> dict[str, Any]:
        """The stock modules by the names of a stock pipeline."""
        return container_of(self.model)[0].parts(self.model)

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
        self.spec = Spec.from_diffusers(scheduler_config(scheduler))
