"""What a health check says."""

from typing import NamedTuple


class Verdict(NamedTuple):
    """One question, its answer in a figure, and what to do where the answer is bad."""

    name: str
    ok: bool
    value: float
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'ILL'} {self.name}: {self.text}"


def judged(name: str, value: float, ok: bool, found: str, advice: str) -> Verdict:
    """A verdict that gives its advice only where something is wrong."""
    return Verdict(name, ok, value, found if ok else f"{found}; {advice}")
