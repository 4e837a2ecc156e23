"""`ldm report RUN`: what was trained on what and how good it is, as one HTML page.

Pictures are embedded and nothing is fetched, so the file can be mailed, archived or opened on a
train. `ldm compare RUN RUN ...` lays several runs side by side.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from ldm.errors import UserError
from ldm.evaluation.measurements import Measurement
from pipelines.evaluation_text import measurements
from pipelines.page import page
from pipelines.report_parts import SCRIPT, STYLE
from pipelines.runs import RunRecord


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
        """evaluation/results.json; {} where the run was not evaluated yet."""
        try:
            return json.loads((self.evaluation / "results.json").read_text())
        except (OSError, ValueError):
            return {}

    def measured(self, section: str, split: str = "samples") -> dict[str, Measurement]:
        """The measurements of one section of the results, by name."""
        rows = self.results.get(section, {}).get(split, [])
        return {m.name: m for m in measurements(rows)}


Section = Callable[[Reported], str]


def report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's page, RUN/report.html unless told otherwise, and return its path.

    Raises UserError where there is no such run, or nothing to say of it yet.
    """
    from pipelines.report_sections import SECTIONS, headline

    told = Reported(RunRecord.read(run))
    if not told.run.metrics:
        raise UserError(f"{told.run.folder} has recorded nothing yet: there is no metrics.jsonl")
    found = {title: section(told) for title, section in SECTIONS.items()}
    found = {title: body for title, body in found.items() if body}
    anchors = {title: title.lower().replace(" ", "-") for title in found}
    links = "".join(f'<a href="#{anchors[t]}">{escape(t)}</a>' for t in found)
    body = [headline(told), f"<nav>{links}</nav>"]
    body += [f'<h2 id="{anchors[t]}">{escape(t)}</h2>{html}' for t, html in found.items()]
    return _write(page(told.name, body, STYLE, SCRIPT), out or told.run.folder / "report.html")


def compare(runs: Sequence[str | Path], out: str | Path = "compare.html") -> Path:
    """Write a page with several runs side by side, and return its path.

    Raises UserError for fewer than two runs, or one that is none.
    """
    from pipelines.compare_sections import SECTIONS

    if len(runs) < 2:
        raise UserError("a comparison needs at least two runs")
    told = [Reported(RunRecord.read(run)) for run in runs]
    names = [t.name for t in told]
    if len(set(names)) < len(names):  # equal names from different folders
        raise UserError(f"runs with the same name cannot be told apart: {', '.join(names)}")
    body = []
    for title, section in SECTIONS.items():
        if html := section(told):
            body.append(f"<h2>{escape(title)}</h2>{html}")
    return _write(page(" and ".join(names), body, STYLE, SCRIPT), out)


def _write(html: str, out: str | Path) -> Path:
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html)
    return path
