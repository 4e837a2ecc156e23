"""A run as a report sees it: its record, and the results of its evaluation where it has one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm.evaluation.measurements import Measurement
from pipelines.evaluation.text import measurements, read_results
from pipelines.runs.record import RunRecord


@dataclass(frozen=True)
class Reported:
    """A run and, where it was evaluated, the results."""

    run: RunRecord

    @property
    def name(self) -> str:
        return self.run.config.name

    @property
    def evaluation(self) -> Path:
        return self.run.folder / "evaluation"

    @cached_property
    def results(self) -> dict[str, Any]:
        """evaluation/results.json; {} where the run was not evaluated yet.

        Raises UserError where they are damaged.
        """
        return read_results(self.evaluation)

    def measured(self, section: str, split: str = "samples") -> dict[str, Measurement]:
        """The measurements of one section of the results, by name."""
        rows = self.results.get(section, {}).get(split, [])
        return {m.name: m for m in measurements(rows)}
