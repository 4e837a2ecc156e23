"""Where figures go: metrics.jsonl always, and any of Accelerate's trackers."""

import json
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ldm.core.errors import UserError, writing
from ldm.core.files import append, write_json, write_text

IDENTITY = "wandb.json"  # beside metrics.jsonl: under which name Weights & Biases knows the run


class Metrics:
    """One JSON object per line with its step; the main process writes.

    A run that resumes at step s first drops the lines after s, which it is about to write again.
    """

    def __init__(self, accelerator: Accelerator, main: bool, path: Path) -> None:
        self.accelerator, self.main, self.path = accelerator, main, path

    def resume(self, step: int) -> int:
        """Forget what was logged after `step`; returns the last step that was there, 0 if none."""
        if not (self.main and self.path.exists()):
            return 0
        lines = read_metrics(self.path)
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in lines if r["step"] <= step))
        return max((r["step"] for r in lines), default=0)

    def track(self, name: str, seed: int, start: int) -> None:
        """Start the trackers, so that a run resumed after `start` steps goes on with its curves.

        TensorBoard then forgets the steps that come again; Weights & Biases knows the run by name.
        """
        goes_on: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": start + 1}}
        chosen = {str(tracker) for tracker in self.accelerator.log_with}
        if "wandb" in chosen:
            goes_on["wandb"] = {"id": self._identity(start), "resume": "allow"}
        # of a configuration TensorBoard makes another curve, with each start
        about = None if chosen == {"tensorboard"} else {"seed": seed}
        with writing(self._kept):
            self.accelerator.init_trackers(name, about, goes_on)

    def finish(self) -> None:
        """Close the trackers; what was logged is written, or its refusal was told by then."""
        for tracker in self.accelerator.trackers:
            with suppress(OSError):
                tracker.finish()

    @property
    def _kept(self) -> str:
        return f"what the tracker keeps in {self.path.parent}"

    def _identity(self, start: int) -> str:
        place = self.path.with_name(IDENTITY)
        try:
            known = json.loads(place.read_bytes())["id"] if start else None
        except (OSError, ValueError, KeyError, TypeError):
            known = None
        identity = known if isinstance(known, str) else uuid.uuid4().hex[:12]
        if self.main:
            write_json(place, {"id": identity})
        return identity

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Record `values` at `step`."""
        if self.main:
            append(self.path, json.dumps({"step": step, **values}) + "\n")
        with writing(self._kept):
            self.accelerator.log(dict(values), step=step)


def refuse_absent(accelerator: Accelerator, tracker: str) -> None:
    """Raise UserError where Accelerate has passed over a tracker, as it does in silence."""
    if tracker not in ("none", "all") and not accelerator.log_with:
        raise UserError(
            f"tracker={tracker} is not installed: pip install {tracker.replace('_', '-')}, or take "
            "tracker=none"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out.

    Warns of damaged ones before it, which are left out as well.
    """
    *lines, last = path.read_bytes().split(b"\n")
    records = [_record(line) for line in lines]
    if bad := sum(record is None for record in records):
        warnings.warn(f"{bad} of {len(lines)} lines of {path} are damaged: left out", stacklevel=2)
    return [record for record in (*records, _record(last)) if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line says, its step and figures or words by name; None where it is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record if all(type(v) in (int, float, str) for v in record.values()) else None
