"""Stable Diffusion's folder: an autoencoder, a U-Net and a CLIP text encoder."""

from collections.abc import Mapping
from typing import Any

from diffusers import StableDiffusionPipeline
from diffusers.models import AsymmetricAutoencoderKL, AutoencoderKL

from autoencoder.model import CODECS, codec_of
from ldm.conditions.conditioner import Conditioner
from ldm.models.network import CAPTION
from ldm.models.networks import KINDS, kind_of
from ldm.models.unet import UNET, whole_side
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.containers.container import Container

# The same parts under another class; an inpainting U-Net has more input channels and is told so.
CLASSES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPAGPipeline",
)

AUTOENCODERS = (AutoencoderKL, AsymmetricAutoencoderKL)


def _networks() -> dict[str, dict[str, Any]]:
    return {
        "vae": {c.__name__: c for kind in CODECS.values() for c in kind.modules},
        "unet": {kind.model.__name__: kind.model for kind in KINDS.values()},
        "text_encoder": {},
    }


def _unfit(model: Model) -> str | None:
    if not isinstance(model.codec.module, AUTOENCODERS):
        return (
            "stock Stable Diffusion pipelines have an autoencoder, and this model diffuses "
            f"{model.codec.name} of a {type(model.codec.module).__name__}"
        )
    if (kind := kind_of(model.network)) is not UNET:
        return f"stock Stable Diffusion pipelines hold a U-Net, and this is a {kind.name}"
    return None


def _parts(model: Model) -> dict[str, Any]:
    text = model.text
    return {
        "vae": model.codec.module,
        "unet": model.network,
        "tokenizer": text.tokenizer,
        "text_encoder": text.encoder,
    }


def _model(parts: Mapping[str, Any], process: Spec) -> Model:
    unet = parts["unet"]
    if (size := unet.config.sample_size) is not None:  # older exports have a list
        unet.register_to_config(sample_size=whole_side(size))
    text = Conditioner(parts["tokenizer"], parts["text_encoder"], trainable=False)
    return Model(codec_of(parts["vae"]), {CAPTION: text}, unet, process)


# its names also serve in the folders that only this package reads
STABLE_DIFFUSION = Container(
    pipeline=StableDiffusionPipeline,
    nothing={
        **dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder")),
        "requires_safety_checker": False,
    },
    classes=CLASSES,
    networks=_networks,
    unfit=_unfit,
    parts=_parts,
    model=_model,
)
