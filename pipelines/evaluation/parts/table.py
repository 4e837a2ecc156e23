"""The parts of an evaluation, in the order in which they run and are told."""

from pipelines.evaluation.parts.adherence import Adherence
from pipelines.evaluation.parts.clip import Clip
from pipelines.evaluation.parts.diversity import Diversity
from pipelines.evaluation.parts.ema import Ema
from pipelines.evaluation.parts.levels import Levels
from pipelines.evaluation.parts.likelihood import Likelihood
from pipelines.evaluation.parts.memorisation import Memorisation
from pipelines.evaluation.parts.metrics import Metrics
from pipelines.evaluation.parts.part import Part
from pipelines.evaluation.parts.sweep import Sweep

PARTS: dict[str, type[Part]] = {
    "metrics": Metrics,
    "clip": Clip,
    "adherence": Adherence,
    "levels": Levels,
    "likelihood": Likelihood,
    "memorisation": Memorisation,
    "sweep": Sweep,
    "ema": Ema,
    "diversity": Diversity,
}
USUAL = [name for name, part in PARTS.items() if not part.optional]
