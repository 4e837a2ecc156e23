"""The results of an evaluation: typed here, JSON and plain text on disk."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from ldm.core.errors import UserError
from ldm.core.files import write_text
from ldm.core.sums import read_sealed, write_sealed
from ldm.evaluation.records import Record, jsonable
from ldm.evaluation.sweep import Setting
from pipelines.evaluation.parts.part import Beside, Part
from pipelines.evaluation.parts.table import PARTS
from pipelines.evaluation.subject.amounts import Amounts
from pipelines.runs.record import RunRecord

P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class About(Record):
    """What was evaluated, against what, and how."""

    model: str  # as it was called
    weights: str
    setting: Setting
    seed: int
    resolution: int
    features: str
    data: dict[str, str]  # fingerprints, by split
    micro_batch: int
    amounts: Amounts
    images: dict[str, str] = field(default_factory=dict)  # fingerprints without captions


@dataclass
class Results:
    """What the parts have found, by name in the table's order, and why others have nothing."""

    about: About
    parts: dict[str, Part] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Results | None":
        """What an evaluation has written into `folder`; None where there is nothing yet.

        NaN, which older versions wrote for what is not defined, is null. Raises UserError where
        the results are damaged.
        """
        path = folder / "results.json"
        try:
            found = json.loads(json.dumps(read_sealed(path)), parse_constant=lambda name: None)
            parts = {k: part.read(found[k]) for k, part in PARTS.items() if k in found}
            return cls(About.read(found), parts, dict(found["missing"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it, or evaluate again") from None

    def write(self, folder: Path) -> None:
        """Put results.txt and results.json into `folder`, each whole or not at all."""
        write_text(folder / "results.txt", self.text() + "\n")
        found = {**self.about.summary(), "missing": self.missing, **self.parts}
        write_sealed(folder / "results.json", jsonable(found))

    def put(self, name: str, found: Part | str) -> None:
        """What a part has found now, as it will be read, in place of what it found before."""
        self.parts.pop(name, None)
        self.missing.pop(name, None)
        if isinstance(found, str):
            self.missing[name] = found
        else:
            self.parts[name] = PARTS[name].read(jsonable(found))
            self.parts = {key: self.parts[key] for key in PARTS if key in self.parts}

    def text(self) -> str:
        """As plain-text tables."""
        blocks = [part.text() for part in self.parts.values()]
        blocks += [f"{name}: none, because {reason}" for name, reason in self.missing.items()]
        return "\n\n".join(blocks)


class Reported(NamedTuple):
    """A run as a report sees it: its record, and its results where it was evaluated."""

    run: RunRecord
    results: Results | None

    @classmethod
    def read(cls, name: str | Path) -> "Reported":
        """Raises UserError where there is no such run, or its results are damaged."""
        run = RunRecord.read(name)
        return cls(run, Results.read(run.folder / "evaluation"))

    @property
    def name(self) -> str:
        return self.run.config.name

    @property
    def parts(self) -> list[Part]:
        """What was found, in the table's order."""
        return list(self.results.parts.values()) if self.results else []

    def part(self, kind: type[P]) -> P | None:
        """What one part has found, if it has."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    def section(self, part: Part) -> str:
        """A part's section of the run's page."""
        assert self.results is not None, "parts are of results"
        return part.section(Beside(self.run.folder / "evaluation", self.results.about.setting))
