"""Everything that can be configured, as one typed tree, and how it is read.

Each field's type says what it may be: `ldm.settings.fields` has the marks.
"""

import codecs
import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from ldm.core.errors import UserError
from ldm.core.files import write_text
from ldm.settings.document import written
from ldm.settings.fields import Name, Place, Range, check
from ldm.settings.reading import Values, built, from_yaml, override

Where = Annotated[str, Place()]  # a path, or what may be one
Steps = Annotated[int, Range(0, 10**9)]
Whole = Annotated[int, Range(1, 10**9)]
Count = Annotated[int, Range(1, 10**6)]
Weight = Annotated[float, Range(0, 1e6)]
Share = Annotated[float, Range(0, 1)]
Below1 = Annotated[float, Range(0, 1, under=True)]
Noise = Annotated[float, Range(0, inf)]
Seed = Annotated[int, Range(-(2**63), 2**64, under=True)]  # what torch takes

MOST_BYTES = 1 << 20  # of a config file


@dataclass(frozen=True)
class DataConfig:
    """Where captioned images come from and how they become pixels."""

    source: Where = "drawn"  # "drawn", an imagefolder, a .parquet or .tar glob, or a Hub data set
    validation: Where | None = None  # its own source; else a split of that name, else held out
    holdout: Below1 = 0.05  # the fraction held out where there is no validation split
    size: Whole | None = None  # use this many images; the drawn set has 20,000 unless told
    image: str | None = None  # the image column, found by itself where there is one
    caption: str | None = None  # the caption column (strings, or lists of strings)
    label: str | None = None  # the class column
    streaming: bool = False  # parquet and webdataset only: read in order, never random access
    resolution: Annotated[int, Range(1, 2**14)] = 64  # pixels, height and width
    crop: Literal["center", "random"] = "center"
    flip: bool = True  # mirror half of the images
    workers: Annotated[int, Range(0, 1024)] = 2  # processes that decode images
    # stage 2: words of a caption, and how often an epoch shows the images whose captions hold them
    repeats: dict[str, Annotated[int, Range(1, 10**4)]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """An optimisation run; every count is in optimizer steps."""

    steps: Whole = 10_000
    batch_size: Count = 64  # global: split over processes and accumulation
    accumulation: Count = 1
    # muon: fewer steps, each some dearer; the same rates fit
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Range(0, 10)] = 1e-4
    warmup: Steps = 100
    decay: Literal["cosine", "constant"] = "cosine"  # cosine: to zero at the last step
    betas: tuple[Below1, Below1] = (0.9, 0.99)
    epsilon: Annotated[float, Range(0, 1, over=True)] = 1e-8
    weight_decay: Annotated[float, Range(0, 100)] = 0.01
    clip: Weight = 1.0  # largest gradient norm; 0: any
    ema_decay: Below1 = 0.999
    ema_snapshots: Steps = 0  # stage 2: steps between those from which any other EMA can be made
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    checkpoint_every: Steps = 1000  # 0: only at the end, as for evaluate_every
    keep_checkpoints: Count = 2
    evaluate_every: Steps = 1000
    tracker: str = "tensorboard"  # any of Accelerate's, or none


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms of the autoencoder's loss; 0 leaves a term out."""

    reconstruction: Literal["l1", "l2"] = "l1"
    kl: Weight = 1e-6  # per latent element, against a mean per-element reconstruction
    perceptual: Weight = 0.0
    perceptual_network: Where = "gradients"  # gradients (no weights needed), lpips, or a folder
    equivariance: Weight = 0.0  # half-size latents must decode to the half-size image
    adversarial: Weight = 0.0
    adversarial_kind: Literal["hinge", "non_saturating"] = "hinge"
    # first step at which the generator feels the discriminator; -1: when the reconstruction stops
    # improving
    adversarial_start: Annotated[int, Range(-1, 10**9)] = 0
    r1: Weight = 0.0
    lecam: Weight = 0.0
    input_noise: Weight = 0.0  # denoising autoencoder: corrupt the input, keep the target clean
    latent_noise: Weight = 0.0  # the decoder sees latents that are off by this times |normal|


@dataclass(frozen=True)
class AutoencoderConfig:
    """Stage 1: diffusers' AutoencoderKL, loaded or trained, and how its latents are cached."""

    kind: str = "kl"  # pixels: none at all, images are diffused as they are
    # a folder or Hub name; None: train_autoencoder.py makes it in the run
    path: Where | None = None
    variant: str | None = None  # of the weights at path or init, such as fp16; None: what there is
    model: dict[str, Any] = field(default_factory=dict)  # arguments of diffusers' AutoencoderKL
    init: Where | None = None  # train_autoencoder.py fine-tunes this one (a folder or Hub name)
    trainable: Literal["all", "decoder"] = "all"
    standardize: bool = True  # latents to mean 0, std 1 per channel over the whole data set
    views: Annotated[int, Range(1, 1000)] = 1  # cached crops per image where data.crop is random
    cache_dtype: Literal["float32", "float16"] = "float32"
    features: Where = "random"  # of the reconstructions' Fréchet distance: random, trained:FOLDER,
    # inception, dinov2 ...
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class ConditioningConfig:
    """What the U-Net attends to."""

    kind: Literal["joint", "clip", "t5", "class", "none"] = "joint"  # joint: CLIP's architecture,
    # trained along
    path: Where | None = None  # clip and t5: folder or Hub name
    variant: str | None = None  # of the weights there
    model: dict[str, Any] = field(default_factory=dict)  # joint: arguments of CLIPTextConfig
    dropout: Share = 0.1  # captions dropped for classifier-free guidance
    cache_dtype: Literal["float32", "float16"] = "float32"  # of what a frozen encoder makes of them


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule, what the network predicts, and the loss."""

    schedule: str = "scaled_linear"
    schedule_args: dict[str, Any] = field(default_factory=dict)
    prediction: str = "v"
    prediction_args: dict[str, Any] = field(default_factory=dict)  # edm's sigma_data: 1 is the
    # deviation of standardised latents
    time_sampling: str = "uniform"
    time_args: dict[str, Any] = field(default_factory=dict)
    low_discrepancy: str = "stratified"  # times spread evenly over a batch (stratified), over any
    # stretch of training (sobol), or drawn independently (none); evenly is less variance
    weighting: str = "simple"
    weighting_args: dict[str, Any] = field(default_factory=dict)
    learned_variance: bool = False


@dataclass(frozen=True)
class SampleConfig:
    """How samples are made during training, and the defaults that the export carries."""

    prompts: tuple[str, ...] = ()
    sampler: str = "ddim"
    sampler_args: dict[str, Any] = field(default_factory=dict)  # ddpm's variance, ddim's eta ...
    num_inference_steps: Annotated[int, Range(1, 10**4)] = 50
    guidance_scale: Annotated[float, Range(0, 1000)] = 3.0
    guidance_interval: tuple[Noise, Noise] = (0.0, inf)  # of σ/α; outside it, no guidance
    grid: str = "trailing"  # which noise levels the sampler visits
    seed: Seed = 0
    images_per_prompt: Annotated[int, Range(1, 1000)] = 4
    # images for FD, KID, precision and recall at each evaluation
    quality_samples: Annotated[int, Range(0, 10**6)] = 0
    quality_features: Where | None = None  # as `ldm evaluate` takes them; none: trained on the data


@dataclass(frozen=True)
class Config:
    """One experiment; its run folder is `output`/`name`."""

    name: Annotated[str, Name()] = "run"
    output: Where = "runs"
    seed: Seed = 0
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    unet: Annotated[dict[str, Any], Place(inside=("init",))] = field(default_factory=dict)
    # arguments of UNet2DConditionModel, or init: a trained one
    network: dict[str, Any] = field(default_factory=dict)  # {kind: transformer, and its arguments}:
    # another denoiser than the U-Net
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        check(self)
        if self.autoencoder.train.ema_snapshots:
            raise UserError("autoencoder.train.ema_snapshots: snapshots are of stage 2 alone")

    @property
    def folder(self) -> Path:
        return Path(self.output) / self.name


def load_config(path: str | Path | None = None, overrides: Sequence[str] | None = None) -> Config:
    """Read a YAML file and `key=value` overrides into a Config.

    Where there is no such file, `path` is the name of a config that comes with this package, such
    as "quickstart". Raises UserError naming the nearest key for an unknown one, and the field for
    a bad value.
    """
    values: Values = {}
    if path is not None:
        file = Path(path).expanduser()
        place = file if os.path.lexists(file) else shipped().get(str(path), file)
        values = from_yaml(Config, _text_of(place), str(path))
    for argument in overrides or ():
        override(Config, values, argument)
    return built(Config, values)


def shipped() -> dict[str, Path]:
    """The configs that come with this package, by name: from a checkout or as installed."""
    checkout, installed = Path(__file__).parents[1] / "configs", Path(__file__).parent / "configs"
    files = (installed if installed.is_dir() else checkout).glob("*.yaml")
    return {file.stem: file for file in sorted(files)}


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, FileNotFoundError):
            reason = f"{reason}; by name there are {', '.join(shipped())}"
        raise UserError(f"cannot read the config {path}: {reason}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is larger than {MOST_BYTES:,} bytes: it is no config")
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from None


def save_config(config: Config, path: Path) -> None:
    """Write the config as YAML, whole or not at all."""
    write_text(path, written(asdict(config)))


def config_from_arguments(description: str, arguments: Sequence[str] | None = None) -> Config:
    """The config that `--config FILE [key=value ...]` on a command line asks for."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help=f"a YAML file, or the name of one that comes with it: {', '.join(shipped())}",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as train.steps=5000"
    )
    parsed = parser.parse_args(arguments)
    return load_config(parsed.config, parsed.overrides)
