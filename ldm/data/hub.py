"""Webdatasets on the Hub: their archives are downloaded as they are, and read like local ones."""

from glob import escape
from pathlib import Path
from typing import NamedTuple

from datasets import DatasetBuilder, load_dataset_builder
from huggingface_hub import snapshot_download

from ldm.data.arrow import refusing

CARDS = ["README.md", ".huggingface.yaml"]  # they may say which files are which split


class Archives(NamedTuple):
    """The tar files of each split, and the commit that they are of."""

    splits: dict[str, list[Path]]
    commit: str


def hub_archives(where: str) -> Archives | None:
    """Download a webdataset, owner/name or owner/name:config; None for any other data set.

    Without the Hub, those that were downloaded before. Raises UserError where there are none.
    """
    name, _, config = where.partition(":")
    with refusing(where, None):
        try:
            builder = load_dataset_builder(name, config or None)
        except Exception:  # there is no such data set, or no way to the Hub
            kept = _downloaded(name, config)
            if kept is None:
                raise
            return kept
        start = f"hf://datasets/{name}@"
        found = [file for files in _archives(builder).values() for file in files]
        if not found or not all(file.startswith(start) for file in found):
            return None
        wanted = [escape(file.removeprefix(start).partition("/")[2]) for file in found]
        folder = snapshot_download(name, repo_type="dataset", allow_patterns=[*wanted, *CARDS])
        return _read(Path(folder), config)


def _downloaded(name: str, config: str) -> Archives | None:
    """What was downloaded before, if that was not broken off."""
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        if any((folder.parents[1] / "blobs").glob("*.incomplete")):
            return None
        return _read(folder, config)
    except Exception:  # as many kinds as there are ways for it not to be there
        return None


def _read(folder: Path, config: str) -> Archives | None:
    files = _archives(load_dataset_builder(escape(str(folder)), config or None))
    splits = {split: [Path(file) for file in paths] for split, paths in files.items()}
    return Archives(splits, folder.name) if splits else None


def _archives(builder: DatasetBuilder) -> dict[str, list[str]]:
    """The tar files of each split; none where there are others, or none at all."""
    if builder.name != "webdataset" or not builder.config.data_files:
        return {}
    splits = {
        str(split): list(map(str, files)) for split, files in builder.config.data_files.items()
    }
    plain = all(file.endswith(".tar") for files in splits.values() for file in files)
    return splits if plain else {}
