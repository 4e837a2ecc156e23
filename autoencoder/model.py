"""The autoencoder: diffusers' AutoencoderKL, built from a config, loaded, and standardised."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from autoencoder.pixels import Pixels
from ldm.config import Config
from ldm.core.errors import UserError
from ldm.core.sums import MANIFEST, damage
from ldm.models.pretrained import load_pretrained
from ldm.settings.arguments import refuse_arguments

# what stands in an autoencoder's place and is not trained, by `autoencoder.kind`
CODECS: dict[str, Callable[[], Any]] = {"pixels": Pixels}


def build_autoencoder(model: Mapping[str, Any]) -> AutoencoderKL:
    """An AutoencoderKL with random weights from its keyword arguments.

    `block_out_channels` alone decides the depth: [a, b, c] halves the image twice (f4). Raises
    UserError for an unknown key, naming the nearest, and for widths that GroupNorm cannot divide.
    """
    known = set(signature(AutoencoderKL.__init__).parameters) - {"self"}
    for key in model:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = f"the nearest is {near[0]!r}" if near else f"it takes {', '.join(sorted(known))}"
            raise UserError(f"unknown key 'autoencoder.model.{key}'; {hint}")
    refuse_arguments("autoencoder.model", AutoencoderKL, model)
    for key in ("in_channels", "out_channels"):
        if model.get(key, 3) != 3:
            raise UserError(f"autoencoder.model.{key}={model[key]} must be 3: images are RGB")
    arguments = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in model.items()}
    widths = arguments.setdefault("block_out_channels", (64,))
    arguments.setdefault("down_block_types", ("DownEncoderBlock2D",) * len(widths))
    arguments.setdefault("up_block_types", ("UpDecoderBlock2D",) * len(widths))
    arguments.setdefault("scaling_factor", 1.0)
    groups = arguments.get("norm_num_groups", 32)
    if bad := [w for w in widths if w % groups]:
        raise UserError(
            f"autoencoder.model.block_out_channels {bad} are not multiples of norm_num_groups "
            f"({groups}): set autoencoder.model.norm_num_groups to a divisor"
        )
    for key in ("down_block_types", "up_block_types"):
        if len(arguments[key]) != len(widths):
            raise UserError(
                f"autoencoder.model.{key} has {len(arguments[key])} entries and block_out_channels "
                f"has {len(widths)}: give one block for each width, or leave {key} out"
            )
    try:
        return AutoencoderKL(**arguments)
    except Exception as error:  # whatever a constructor makes of a value it cannot use
        raise UserError(f"autoencoder.model: {' '.join(str(error).split())[:300]}") from None


def load_autoencoder(path: str | Path, variant: str | None = None) -> AutoencoderKL:
    """An AutoencoderKL from a folder or Hub name, its own or that of a whole pipeline.

    autoencoder/pretrained/NAME is also what this package holds there, from whatever folder.
    """
    held = Path(__file__).parents[1] / path
    if Path(path).parts[:2] == ("autoencoder", "pretrained") and not Path(path).is_dir():
        path = held if held.is_dir() else path
    return load_pretrained(AutoencoderKL, path, "vae", variant)


def initial_autoencoder(config: Config) -> AutoencoderKL:
    """What stage 1 starts from: `autoencoder.init`, or random weights of `autoencoder.model`."""
    if config.autoencoder.kind in CODECS:
        raise UserError(
            f"autoencoder.kind={config.autoencoder.kind} has nothing to train: go on with stage 2"
        )
    if config.autoencoder.path is not None:
        raise UserError(
            "autoencoder.path names a finished autoencoder, so there is nothing to train; to "
            "fine-tune it, give its name as autoencoder.init instead"
        )
    if config.autoencoder.init is not None:
        return load_autoencoder(config.autoencoder.init, config.autoencoder.variant)
    return build_autoencoder(config.autoencoder.model)


def configured_autoencoder(config: Config) -> AutoencoderKL:
    """What stage 2 works in: `autoencoder.path`, what stage 1 exported into the run, or pixels."""
    if config.autoencoder.kind in CODECS:
        return CODECS[config.autoencoder.kind]()
    if config.autoencoder.path is not None:
        return load_autoencoder(config.autoencoder.path, config.autoencoder.variant)
    if not (export := export_folder(config)).is_dir():
        raise UserError(
            f"{export} does not exist: train it with train_autoencoder.py and the same config, or "
            "name a trained one with autoencoder.path=FOLDER"
        )
    if fault := export_damage(export):
        raise UserError(
            f"the autoencoder in {export} is not what was exported ({fault}): run "
            "train_autoencoder.py with the same config, which exports it anew"
        )
    return load_autoencoder(export)


def export_folder(config: Config) -> Path:
    """Where stage 1 leaves its autoencoder."""
    return config.folder / "autoencoder" / "export"


def export_damage(folder: Path) -> str | None:
    """What is wrong with an exported autoencoder; None also where an older version wrote no sums.

    Without sums the weights and the config must at least be there.
    """
    if (folder / MANIFEST).exists():
        return damage(folder)
    there = ("config.json", "diffusion_pytorch_model.safetensors")
    lacking = [name for name in there if not (folder / name).is_file()]
    return f"{lacking[0]} is missing" if lacking else None


def last_layer(vae: AutoencoderKL) -> Tensor:
    """The weight that the reconstruction's gradients reach first."""
    return vae.decoder.conv_out.weight


@torch.no_grad()
def standardize(
    vae: AutoencoderKL, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> AutoencoderKL:
    """Fold z → (z − mean)/std into the encoder's last convolution, its inverse into the decoder.

    `mean` and `std` (C,) are of the latents as `vae` encodes them, unscaled. In place; afterwards
    the latents need no scaling_factor, no shift and no extra key, and stock diffusers decodes them
    to the same image. A VAE without the 1×1 (post_)quant_conv is given them.
    """
    channels = vae.config["latent_channels"]
    m = torch.as_tensor(mean, dtype=torch.float64)
    s = torch.as_tensor(std, dtype=torch.float64)
    assert m.shape == s.shape == (channels,)
    if not bool((s > 0).all() and torch.isfinite(s).all() and torch.isfinite(m).all()):
        raise UserError(
            f"latents with standard deviations {[round(x, 6) for x in s.tolist()]} cannot be "
            "standardised: a channel is dead, so lower autoencoder.loss.kl or latent_channels"
        )
    like = next(vae.parameters())
    for name, width in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        if getattr(vae, name) is None:
            identity = nn.Conv2d(width, width, 1).to(like.device, like.dtype)
            _assign(identity, torch.eye(width)[:, :, None, None], torch.zeros(width))
            setattr(vae, name, identity)

    into, out_of = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out_of is not None
    w, b = _float64(into)
    scale = torch.cat([s, torch.ones_like(s)])  # the second half of the outputs is log-variances
    shift = torch.cat([m / s, 2 * s.log()])
    _assign(into, w / scale[:, None, None, None], b / scale - shift)

    w, b = _float64(out_of)
    _assign(out_of, w * s[None, :, None, None], b + w[:, :, 0, 0] @ m)
    vae.register_to_config(
        scaling_factor=1.0,
        shift_factor=None,
        latents_mean=None,
        latents_std=None,
        use_quant_conv=True,
        use_post_quant_conv=True,
    )
    return vae


def _float64(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None
    return conv.weight.detach().cpu().double(), conv.bias.detach().cpu().double()


def _assign(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
