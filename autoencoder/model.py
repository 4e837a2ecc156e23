"""The autoencoder: diffusers' AutoencoderKL, built from a config, or loaded."""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from diffusers.models import AsymmetricAutoencoderKL, AutoencoderKL
from torch import Tensor

from autoencoder.codec import KLCodec
from autoencoder.pixels import Pixels
from ldm.config import Config
from ldm.core.errors import UserError
from ldm.core.sums import MANIFEST, damage
from ldm.models.pretrained import load_pretrained
from ldm.ports.codec import Codec, CodecKind
from ldm.settings.arguments import refuse_arguments

CODECS: dict[str, CodecKind] = {
    "kl": CodecKind((AutoencoderKL, AsymmetricAutoencoderKL), KLCodec),
    "pixels": CodecKind((Pixels,), KLCodec, Pixels),
}


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
    if _kind(config).fixed:
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


def configured_codec(config: Config) -> Codec:
    """What stage 2 works in: `autoencoder.path`, what stage 1 exported into the run, or pixels.

    Frozen, in evaluation mode. Raises UserError where there is none, or it is damaged.
    """
    kind = _kind(config)
    codec = kind.codec(kind.fixed() if kind.fixed else _trained_autoencoder(config))
    codec.module.eval().requires_grad_(False)
    return codec


def codec_of(module: Any) -> Codec:
    """The codec around a module; raises UserError where it is of no known kind."""
    for kind in CODECS.values():
        if isinstance(module, kind.modules):
            return kind.codec(module)
    known = ", ".join(c.__name__ for kind in CODECS.values() for c in kind.modules)
    raise UserError(f"a {type(module).__name__} is no codec that is known here: {known}")


def _kind(config: Config) -> CodecKind:
    if (name := config.autoencoder.kind) not in CODECS:
        raise UserError(f"autoencoder.kind={name} is not one of {', '.join(CODECS)}")
    return CODECS[name]


def _trained_autoencoder(config: Config) -> AutoencoderKL:
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
