"""Everything that can be configured, as one typed tree, and how it is read."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ldm.errors import UserError


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value!r} is not one of {', '.join(choices)}")


def _within(section: str, owner: object, least: float, most: float, *names: str) -> None:
    """Refuse those of an owner's fields that are given and lie outside [least, most]."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not least <= value <= most:
            limit = f"at least {least:g}" if value < least else f"at most {most:g}"
            raise UserError(f"{section}.{name}={value} must be {limit}")


@dataclass(frozen=True)
class DataConfig:
    """Where captioned images come from and how they become pixels."""

    source: str = "drawn"  # "drawn", an imagefolder, a .parquet or .tar glob, or a Hub data set
    validation: str | None = None  # its own source; else a split of that name, else held out
    holdout: float = 0.05  # the fraction held out where there is no validation split
    size: int | None = None  # use this many images; the drawn set has 20,000 unless told
    image: str | None = None  # the image column, found by itself where there is one
    caption: str | None = None  # the caption column (strings, or lists of strings)
    label: str | None = None  # the class column
    streaming: bool = False  # parquet and webdataset only: read in order, never random access
    resolution: int = 64  # pixels, height and width
    crop: str = "center"  # center or random
    flip: bool = True  # mirror half of the images
    workers: int = 2  # processes that decode images
    repeats: dict[str, int] = field(default_factory=dict)  # stage 2: words of a caption, and how
    # often an epoch shows the images whose captions hold them

    def __post_init__(self) -> None:
        for words, count in self.repeats.items():
            if count < 1:
                raise UserError(f"data.repeats: {words}={count} must be at least 1")
        _one_of("data.crop", self.crop, ("center", "random"))
        _within("data", self, 1, inf, "resolution", "size")
        _within("data", self, 0, inf, "workers")


@dataclass(frozen=True)
class TrainConfig:
    """An optimisation run; every count is in optimizer steps."""

    steps: int = 10_000
    batch_size: int = 64  # global: split over processes and accumulation
    accumulation: int = 1
    optimizer: str = "adamw"  # adamw, or muon: fewer steps, each some dearer; the same rates fit
    learning_rate: float = 1e-4
    warmup: int = 100
    decay: str = "cosine"  # cosine (to zero at the last step) or constant
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm; 0: any
    ema_decay: float = 0.999
    ema_snapshots: int = 0  # stage 2: steps between those from which any other EMA can be made
    mixed_precision: str = "no"  # no, bf16 or fp16
    gradient_checkpointing: bool = False
    compile: bool = False
    checkpoint_every: int = 1000  # 0: only at the end, as for evaluate_every
    keep_checkpoints: int = 2
    evaluate_every: int = 1000
    tracker: str = "tensorboard"  # any of Accelerate's, or none

    def __post_init__(self) -> None:
        if self.mixed_precision == "False":  # what YAML makes of a bare no
            object.__setattr__(self, "mixed_precision", "no")

    def check(self, section: str) -> None:
        """Raise UserError for a value that cannot be, by its key in `section`."""
        _one_of(f"{section}.optimizer", self.optimizer, ("adamw", "muon"))
        _one_of(f"{section}.decay", self.decay, ("cosine", "constant"))
        _one_of(f"{section}.mixed_precision", self.mixed_precision, ("no", "bf16", "fp16"))
        _within(section, self, 1, inf, "steps", "batch_size", "accumulation", "keep_checkpoints")
        _within(section, self, 0, inf, "learning_rate", "warmup", "weight_decay", "clip")
        _within(section, self, 0, inf, "checkpoint_every", "evaluate_every", "ema_snapshots")
        _within(section, self, 0, 1, "ema_decay")


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms of the autoencoder's loss; 0 leaves a term out."""

    reconstruction: str = "l1"  # l1 or l2
    kl: float = 1e-6  # per latent element, against a mean per-element reconstruction
    perceptual: float = 0.0
    perceptual_network: str = "gradients"  # gradients (no weights needed), lpips, or a folder
    equivariance: float = 0.0  # half-size latents must decode to the half-size image
    adversarial: float = 0.0
    adversarial_kind: str = "hinge"  # hinge or non_saturating
    adversarial_start: int = 0  # first step at which the generator feels the discriminator;
    # -1: when the reconstruction stops improving
    r1: float = 0.0
    lecam: float = 0.0
    input_noise: float = 0.0  # denoising autoencoder: corrupt the input, keep the target clean
    latent_noise: float = 0.0  # the decoder sees latents that are off by this times |normal|


@dataclass(frozen=True)
class AutoencoderConfig:
    """Stage 1: diffusers' AutoencoderKL, loaded or trained, and how its latents are cached."""

    path: str | None = None  # a folder or Hub name; None: train_autoencoder.py makes it in the run
    model: dict[str, Any] = field(default_factory=dict)  # arguments of diffusers' AutoencoderKL
    init: str | None = None  # train_autoencoder.py fine-tunes this one (a folder or Hub name)
    trainable: str = "all"  # all or decoder
    standardize: bool = True  # latents to mean 0, std 1 per channel over the whole data set
    views: int = 1  # cached crops per image where data.crop is random
    cache_dtype: str = "float32"  # float32 or float16
    features: str = "random"  # of the reconstructions' Fréchet distance: random, trained:FOLDER,
    # inception, dinov2 ...
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _one_of("autoencoder.cache_dtype", self.cache_dtype, ("float32", "float16"))
        _within("autoencoder", self, 1, inf, "views")


@dataclass(frozen=True)
class ConditioningConfig:
    """What the U-Net attends to."""

    kind: str = "joint"  # joint (CLIP architecture, trained along), clip, t5, class or none
    path: str | None = None  # clip and t5: folder or Hub name
    model: dict[str, Any] = field(default_factory=dict)  # joint: arguments of CLIPTextConfig
    dropout: float = 0.1  # captions dropped for classifier-free guidance
    cache_dtype: str = "float32"  # of what a frozen encoder makes of the captions, or float16

    def __post_init__(self) -> None:
        _one_of("conditioning.cache_dtype", self.cache_dtype, ("float32", "float16"))
        _within("conditioning", self, 0, 1, "dropout")


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
    num_inference_steps: int = 50
    guidance_scale: float = 3.0
    guidance_interval: tuple[float, float] = (0.0, inf)  # of σ/α; outside it, no guidance
    grid: str = "trailing"  # which noise levels the sampler visits
    seed: int = 0
    images_per_prompt: int = 4
    quality_samples: int = 0  # images for FD, KID, precision and recall at each evaluation
    quality_features: str | None = None  # as `ldm evaluate` takes them; none: trained on the data

    def __post_init__(self) -> None:
        _within("sample", self, 1, inf, "num_inference_steps", "images_per_prompt")
        _within("sample", self, 0, inf, "quality_samples")


@dataclass(frozen=True)
class Config:
    """One experiment; its run folder is `output`/`name`."""

    name: str = "run"
    output: str = "runs"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    unet: dict[str, Any] = field(default_factory=dict)  # arguments of UNet2DConditionModel
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        self.train.check("train")
        self.autoencoder.train.check("autoencoder.train")
        if self.autoencoder.train.ema_snapshots:
            raise UserError("autoencoder.train.ema_snapshots: snapshots are of stage 2 alone")

    @property
    def folder(self) -> Path:
        return Path(self.output) / self.name


def _nearest(key: str) -> str:
    """The known dotted key that looks most like `key`."""

    def walk(node: object, prefix: str = "") -> list[str]:
        keys = []
        for f in fields(node):  # type: ignore[arg-type]
            keys.append(prefix + f.name)
            if is_dataclass(child := getattr(node, f.name)):
                keys += walk(child, prefix + f.name + ".")
        return keys

    known = walk(Config())
    by_leaf = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    hit = get_close_matches(key, known, 1, 0.6)
    leaf = get_close_matches(key.rsplit(".", 1)[-1], by_leaf, 1, 0.6)
    return hit[0] if hit else by_leaf[leaf[0]] if leaf else ", ".join(vars(Config()))


def load_config(path: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and `key=value` overrides into a Config.

    Raises UserError naming the nearest key for an unknown one, and the field for a bad value.
    """
    try:
        layers = [OmegaConf.structured(Config)]
        if path is not None:
            layers.append(OmegaConf.load(path))
        for override in overrides or []:
            if "=" not in override:
                raise UserError(f"override {override!r} is not of the form key=value")
        layers.append(OmegaConf.from_dotlist(overrides or []))
        config = OmegaConf.to_object(OmegaConf.merge(*layers))
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise UserError(f"unknown config key {key!r}; the nearest is {_nearest(key)!r}") from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        where = f"config key {error.full_key!r}" if error.full_key else "the config"
        raise UserError(f"{where}: {reason}") from None
    except (OSError, YAMLError) as error:
        raise UserError(f"cannot read the config {path}: {error}") from None
    assert isinstance(config, Config)
    return config


def save_config(config: Config, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    OmegaConf.save(OmegaConf.create(asdict(config)), partial)
    partial.replace(path)


def config_from_arguments(description: str, arguments: Sequence[str] | None = None) -> Config:
    """The config that `--config FILE [key=value ...]` on a command line asks for."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, help="a YAML file, such as configs/flowers64.yaml"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as train.steps=5000"
    )
    parsed = parser.parse_args(arguments)
    return load_config(parsed.config, parsed.overrides)
