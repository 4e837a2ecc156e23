"""How diffusers trains and samples, as its documentation says that it is fastest."""

from copy import deepcopy
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor

from ldm.config import TrainConfig
from ldm.ports.model import Model
from ldm.schedulers.stock import stock_scheduler
from pipelines.containers.stable_diffusion import STABLE_DIFFUSION


def script_loss(
    unet: Any, scheduler: Any, x0: Tensor, noise: Tensor, timesteps: Tensor, context: Tensor
) -> Tensor:
    """The loss of examples/text_to_image/train_text_to_image.py, without its SNR weights."""
    noisy = scheduler.add_noise(x0, noise, timesteps)
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(x0, noise, timesteps)
    else:
        target = noise
    predicted = unet(noisy, timesteps, context, return_dict=False)[0]
    return F.mse_loss(predicted.float(), target.float(), reduction="mean")


class Script:
    """That script's step: everything between two batches of its loader, which here costs nothing.

    Its defaults, and of its options --use_ema, --foreach_ema, --allow_tf32 and --mixed_precision.
    pixels (N, 3, R, R) in [-1, 1] and token ids (N, L) lie on the device. With `cached`, latents
    and embeddings are made once, as its newer scripts can.
    """

    def __init__(
        self, model: Model, config: TrainConfig, dtype: torch.dtype, pixels: Tensor, ids: Tensor
    ) -> None:
        parts = deepcopy(STABLE_DIFFUSION.parts(model))
        self.scheduler = stock_noise(model)
        self.vae = torch.nn.Module.to(parts["vae"].requires_grad_(False), dtype)
        self.text_encoder = parts["text_encoder"].requires_grad_(False).eval().to(dtype)
        self.unet = parts["unet"].train()
        self.config, self.dtype, self.pixels, self.ids = config, dtype, pixels, ids
        self.ema = EMAModel(
            self.unet.parameters(),
            decay=config.ema_decay,
            foreach=True,
            model_cls=type(self.unet),
            model_config=self.unet.config,
        )
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            eps=config.epsilon,
        )
        self.posteriors: list[Tensor] = []
        self.contexts: list[Tensor] = []

    @torch.no_grad()
    def cache(self) -> None:
        """Mean and deviation of each image's latents, and each caption's embedding."""
        for image, ids in zip(self.pixels.split(1), self.ids.split(1), strict=True):
            found = self.vae.encode(image.to(self.dtype)).latent_dist
            self.posteriors.append(torch.stack([found.mean, found.std], 1))
            self.contexts.append(self.text_encoder(ids, return_dict=False)[0])

    def step(self, cached: bool = False) -> float:
        """One step; returns its loss."""
        rows = torch.randint(len(self.ids), (self.config.batch_size,)).tolist()
        with torch.no_grad():
            if cached:
                mean, std = torch.cat([self.posteriors[row] for row in rows]).unbind(1)
                latents = mean + std * torch.randn_like(mean)
                context = torch.cat([self.contexts[row] for row in rows])
            else:
                pixels = self.pixels[rows].to(self.dtype)
                latents = self.vae.encode(pixels).latent_dist.sample()
                context = self.text_encoder(self.ids[rows], return_dict=False)[0]
            latents = latents * self.vae.config.scaling_factor
        noise, count = torch.randn_like(latents), self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(count, (len(rows),), device=latents.device)
        with torch.autocast(latents.device.type, self.dtype, self.dtype != torch.float32):
            loss = script_loss(self.unet, self.scheduler, latents, noise, timesteps, context)
        value = loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.unet.parameters())
        return value


def stock_noise(model: Model) -> Any:
    """The scheduler that the script adds noise with, of a model's own schedule."""
    return diffusers.DDPMScheduler.from_config(stock_scheduler(model.process))


def stock_pipeline(
    model: Model,
    steps: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compiled: bool = False,
) -> Any:
    """A copy of a model as a stock pipeline, in the ways of diffusers' page on inference speed."""
    told, container = stock_scheduler(model.process, steps), STABLE_DIFFUSION
    scheduler = getattr(diffusers, told["_class_name"]).from_config(told)
    parts = deepcopy(container.parts(model))
    for name in ("unet", "vae", "text_encoder"):  # by torch's own: diffusers' warns of nothing
        torch.nn.Module.to(parts[name], dtype)
        if channels_last and name != "text_encoder":
            torch.nn.Module.to(parts[name], memory_format=torch.channels_last)
    pipe = container.pipeline(**parts, scheduler=scheduler, **container.nothing)
    pipe.set_progress_bar_config(disable=True)
    if compiled:
        pipe.unet = torch.compile(pipe.unet, mode="max-autotune", fullgraph=True)
        pipe.vae.decode = torch.compile(pipe.vae.decode, mode="max-autotune", fullgraph=True)
    return pipe
