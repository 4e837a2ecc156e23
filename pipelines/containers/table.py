"""Which stock pipelines can hold a model, in the order in which they are tried."""

from ldm.ports.model import Model
from pipelines.containers.container import Container
from pipelines.containers.stable_diffusion import STABLE_DIFFUSION

CONTAINERS: dict[str, Container] = {"stable_diffusion": STABLE_DIFFUSION}


def container_of(model: Model) -> tuple[Container, str | None]:
    """The first that can hold it; else the first of all, and its reason why not."""
    for container in CONTAINERS.values():
        if container.unfit(model) is None:
            return container, None
    return STABLE_DIFFUSION, STABLE_DIFFUSION.unfit(model)


def part_names() -> list[str]:
    """What pipelines call the parts of a model that may be handed over instead of being read."""
    networks = (name for container in CONTAINERS.values() for name in container.networks())
    return [*dict.fromkeys(networks), "tokenizer", "scheduler"]
