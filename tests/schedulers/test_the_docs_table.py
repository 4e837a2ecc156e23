"""docs/mathematics.md says which models are exported: each row of its table holds, and no more."""

import re
from pathlib import Path

import pytest

from ldm.config import DiffusionConfig
from ldm.core.errors import UserError
from ldm.diffusion.plane import PREDICTIONS
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import export_refusal

pytestmark = pytest.mark.filterwarnings("ignore")
GRIDS = ("leading", "trailing", "linspace", "karras", "exponential", "beta")
WORDS = {"spaced": GRIDS[:3], "all": GRIDS}
DOCS = Path(__file__).parents[2] / "docs" / "mathematics.md"


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def promised():
    """{(schedule, whether it is rescaled to zero SNR): {(prediction, sampler, grid)}}."""
    section = DOCS.read_text(encoding="utf-8").split("\n## 9. ")[1].split("\n## ")[0]
    table, found = section.split("| schedule | prediction | sampler | grid |\n")[1], {}
    for row in table.splitlines()[1:]:
        if not row.startswith("|"):
            break
        schedules, predictions, samplers, grids = row.strip("| ").split(" | ")
        visited = [*names(grids), *(g for word in WORDS if word in grids for g in WORDS[word])]
        cells = {(p, s, g) for p in names(predictions) for s in names(samplers) for g in visited}
        zero = "zero_snr" in names(schedules)
        for schedule in names(schedules):
            if schedule != "zero_snr":
                found.setdefault((schedule, zero), set()).update(cells)
    return found


def is_exported(schedule, zero, prediction, sampler, grid):
    options = {"zero_snr": True} if zero else {}
    config = DiffusionConfig(schedule=schedule, schedule_args=options, prediction=prediction)
    try:
        return export_refusal(Spec.from_diffusion_config(config, grid, sampler)) is None
    except UserError:
        return False


EVERY = [(p, s, g) for p in PREDICTIONS for s in SAMPLERS for g in GRIDS]
RESCALED = ("linear", "scaled_linear", "sigmoid", "cosine")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "schedule, zero",
    [(name, False) for name in SCHEDULES if name != "table"] + [(name, True) for name in RESCALED],
)
def test_what_the_docs_say_is_exported_is_and_nothing_else_is(schedule, zero):
    said = promised().get((schedule, zero), set())
    exported = {cell for cell in EVERY if is_exported(schedule, zero, *cell)}
    assert exported == said


def test_the_table_in_the_docs_names_what_there_is():
    found = promised()
    cells = set().union(*found.values())
    assert {schedule for schedule, _ in found} | {"sub_vp"} == set(SCHEDULES) - {"table"}
    assert cells <= set(EVERY)
    assert is_exported("flow", False, "flow", "unipc", "trailing")
