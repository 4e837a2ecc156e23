"""Where figures go: metrics.jsonl always, and any of Accelerate's trackers."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator


class Metrics:
    """One JSON object per line with its step; the main process writes.

    A run that resumes at step s first drops the lines after s, which it is about to write again.
    """

    def __init__(self, accelerator: Accelerator, path: Path) -> None:
        self.accelerator, self.path = accelerator, path

    def resume(self, step: int) -> None:
        """Forget what was logged after `step`."""
        if not (self.accelerator.is_main_process and self.path.exists()):
            return
        lines = read_metrics(self.path)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in lines if r["step"] <= step))
        os.replace(temporary, self.path)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Record `values` at `step`."""
        if self.accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self.accelerator.log(dict(values), step=step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
