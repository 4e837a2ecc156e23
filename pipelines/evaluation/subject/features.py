"""Which features an evaluation sees with: those that are named, the run's own, or Inception's."""

from pathlib import Path

from ldm.core.errors import UserError
from ldm.core.sums import read_sealed
from ldm.evaluation.features.extractor import Extractor
from ldm.evaluation.features.names import load_extractor
from ldm.evaluation.features.network import load_feature_network
from ldm.evaluation.features.training import train_features
from pipelines.evaluation.subject.evaluated import Evaluated

FEATURE_STEPS = 600


def choose_features(subject: Evaluated, spec: str | None, train: bool) -> Extractor:
    """The extractor that was named; else the run's own trained one; else Inception.

    With `train` the run's own is made first, unless it was made for these images already. Raises
    UserError where one is named as well.
    """
    folder = subject.folder / "features"
    if spec is not None and train:
        raise UserError(f"features {spec} are named, and others would be trained: ask for one")
    if spec is not None:
        return load_extractor(spec, subject.device)
    if train and subject.share.main and not _trained_on(folder, subject):
        train_features(
            subject.sources["train"],
            folder,
            subject.data,
            subject.resolution,
            FEATURE_STEPS,
            seed=subject.seed,
            device=subject.device,
        )
    subject.share.wait()  # the others wait until it is there
    if (folder / "features.json").is_file():
        return load_extractor(f"trained:{folder}", subject.device)
    return load_extractor("inception", subject.device)


def _trained_on(folder: Path, subject: Evaluated) -> bool:
    """Whether `folder` has a whole feature network of this very data."""
    try:
        about = read_sealed(folder / "features.json")
        load_feature_network(folder)
    except (OSError, ValueError):
        return False
    return (
        about.get("fingerprint") == subject.sources["train"].fingerprint
        and about.get("steps") == FEATURE_STEPS
    )
