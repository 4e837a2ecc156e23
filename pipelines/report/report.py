"""`ldm report RUN`: what was trained on what and how good it is, as one HTML page.

Pictures are embedded and nothing is fetched, so the file can be mailed, archived or opened on a
train. `ldm compare RUN RUN ...` lays several runs side by side.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ldm.core.errors import UserError
from ldm.core.files import write_text
from pipelines.evaluation.results import Reported
from pipelines.report import compare as compare_sections
from pipelines.report import sections as report_sections
from pipelines.sheets.page import page
from pipelines.sheets.pieces import SCRIPT, STYLE


def report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's page, RUN/report.html unless told otherwise, and return its path.

    Raises UserError where there is no such run, or nothing to say of it yet.
    """
    told = Reported.read(run)
    if not any(told.run.metrics.values()):
        raise UserError(f"{told.run.folder} has recorded nothing yet: {told.run.without_figures()}")
    found = report_sections.sections(told)
    anchors = {title: title.lower().replace(" ", "-") for title in found}
    links = "".join(f'<a href="#{anchors[t]}">{escape(t)}</a>' for t in found)
    body = [report_sections.headline(told), f"<nav>{links}</nav>"]
    body += [f'<h2 id="{anchors[t]}">{escape(t)}</h2>{html}' for t, html in found.items()]
    path = Path(out or told.run.folder / "report.html")
    write_text(path, page(told.name, body, STYLE, SCRIPT))
    return path


def compare(runs: Sequence[str | Path], out: str | Path = "compare.html") -> Path:
    """Write a page with several runs side by side, and return its path.

    Raises UserError for fewer than two runs, or one that is none.
    """
    if len(runs) < 2:
        raise UserError("a comparison needs at least two runs")
    told = [Reported.read(run) for run in runs]
    names = [t.name for t in told]
    if len(set(names)) < len(names):  # equal names from different folders
        raise UserError(f"runs with the same name cannot be told apart: {', '.join(names)}")
    body = []
    for title, section in compare_sections.SECTIONS.items():
        if html := section(told):
            body.append(f"<h2>{escape(title)}</h2>{html}")
    write_text(Path(out), page(" and ".join(names), body, STYLE, SCRIPT))
    return Path(out)
