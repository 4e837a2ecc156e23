"""What diffusers' pipelines take and have: most of it here too, and one sentence for the rest."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from inspect import signature
from typing import Any

import diffusers

from ldm.core.errors import UserError
from ldm.ports.model import Model

CLASSES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionPAGImg2ImgPipeline",
    "StableDiffusionPAGInpaintPipeline",
)
# arguments of from_pretrained, with the values that ask for nothing that is not so anyway
LOADING: dict[str, tuple[Any, ...]] = {
    "safety_checker": (None,),
    "feature_extractor": (None,),
    "image_encoder": (None,),
    "requires_safety_checker": (None, False, True),
    "use_safetensors": (None, True),
    "low_cpu_mem_usage": (None, False, True),
    "device_map": (None,),
    "max_memory": (None,),
    "offload_folder": (None,),
    "offload_state_dict": (None, False, True),
    "custom_pipeline": (None,),
    "custom_revision": (None,),
    "trust_remote_code": (None, False),
    "quantization_config": (None,),
    "use_onnx": (None, False),
    "output_loading_info": (None, False),
}
_FUSED = (
    "load and fuse it in diffusers (load_lora_weights, fuse_lora, unload_lora_weights), "
    "save_pretrained() there, and load that folder here"
)
_MEMORY = "load in half precision (dtype=torch.float16) to halve its memory"
_ADAPTER = "IP-Adapters need an image encoder, which no pipeline here has"
WAYS = {
    "load_lora_weights": _FUSED,
    "fuse_lora": _FUSED,
    "unfuse_lora": _FUSED,
    "unload_lora_weights": _FUSED,
    "set_adapters": _FUSED,
    "cross_attention_kwargs": f"it scales a LoRA: {_FUSED}",
    "load_textual_inversion": "load it in diffusers, save_pretrained() there, and load that folder",
    "load_ip_adapter": _ADAPTER,
    "ip_adapter_image": _ADAPTER,
    "ip_adapter_image_embeds": _ADAPTER,
    "enable_model_cpu_offload": _MEMORY,
    "enable_sequential_cpu_offload": _MEMORY,
    "image_processor": "images come in the form that output_type names",
    "sigmas": "pass timesteps, the labels of the same noise levels",
    "padding_mask_crop": "crop image and mask_image to the part that is painted, and paste it back",
    "masked_image_latents": "it is for inpainting U-Nets; here image and mask_image are enough",
    "callback": "pass callback_on_step_end",
    "callback_steps": "pass callback_on_step_end, which is called after every step",
    "pag_adaptive_scale": "pag_scale is the same at all levels",
    "safety_checker": "there is no safety filter: pass None, and judge the images yourself",
    "use_safetensors": "nothing else is read, as other files can run code when they are read",
    "device_map": 'pass device="cuda"',
    "custom_pipeline": "use diffusers for it",
    "trust_remote_code": "no code is read from a model's folder",
}
_THERE = "it is diffusers' alone: for it, load the same folder with diffusers' DiffusionPipeline"


class Absent(UserError, AttributeError):
    """A name that diffusers' pipelines have and these have not; hasattr() says False of it."""


def absent(owner: str, name: str) -> AttributeError:
    """The error for an attribute that is missing."""
    known = name in WAYS or any(hasattr(_class(c), name) for c in CLASSES)
    if name.startswith("_") or not known:
        return AttributeError(f"{owner!r} object has no attribute {name!r}")
    return Absent(f"{name} is not in {owner}: {WAYS.get(name, _THERE)}")


def refuse_arguments(owner: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise UserError for what is not `known`, unless its value asks diffusers for nothing."""
    stock = _arguments()
    for name, value in given.items():
        if name in known:
            continue
        if name not in stock:
            near = get_close_matches(name, [*known, *stock], 1, 0.0)
            raise UserError(f"{owner} takes no {name!r}; the nearest is {near[0]!r}")
        if not any(value is nothing or _equal(value, nothing) for nothing in stock[name]):
            raise UserError(f"{owner} takes no {name}: {WAYS.get(name, _THERE)}")


def _equal(value: Any, other: Any) -> bool:
    plain = type(value) in (int, float, str, dict) and type(value) is type(other)
    return plain and value == other


@cache
def _arguments() -> dict[str, tuple[Any, ...]]:
    """Those of diffusers' calls with their defaults, and of its loading."""
    found: dict[str, tuple[Any, ...]] = dict(LOADING)
    for name in CLASSES:
        for parameter in signature(_class(name).__call__).parameters.values():
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                found.setdefault(parameter.name, (None, parameter.default))
    found["cross_attention_kwargs"] = (None, {})
    for name in ("callback", "callback_steps"):  # of releases before
        found.setdefault(name, (None, 1))
    return found


def _class(name: str) -> Any:
    return getattr(diffusers, name)


class Hints:
    """What diffusers' pipelines may be told about memory, where the same is so here or is done."""

    model: Model

    def enable_attention_slicing(self, *_: Any, **__: Any) -> None:
        """Nothing: PyTorch's own attention takes little memory, and images come in slices."""

    disable_attention_slicing = enable_attention_slicing
    enable_vae_slicing = disable_vae_slicing = enable_attention_slicing
    enable_xformers_memory_efficient_attention = enable_attention_slicing
    disable_xformers_memory_efficient_attention = enable_attention_slicing

    def enable_vae_tiling(self) -> None:
        """Encode and decode in strips, so that large images take little of the device's memory.

        There are no seams, as diffusers' tiles have: planes wait in host memory for their norms.
        Raises UserError for an autoencoder that cannot.
        """
        self.model = self.model._replace(codec=self.model.codec.in_strips(True))

    def disable_vae_tiling(self) -> None:
        """Encode and decode every image as a whole."""
        self.model = self.model._replace(codec=self.model.codec.in_strips(False))

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """FreeU (Si et al. 2024), as diffusers does it."""
        if not hasattr(self.model.network, "enable_freeu"):
            raise UserError("FreeU is for U-Nets, and this model has none: leave it out")
        self.model.network.enable_freeu(s1=s1, s2=s2, b1=b1, b2=b2)

    def disable_freeu(self) -> None:
        """Sample without FreeU."""
        if hasattr(self.model.network, "disable_freeu"):
            self.model.network.disable_freeu()
