"""metrics.jsonl: what is damaged costs its own line, and is told."""

import pytest
from accelerate import Accelerator

from ldm.training.tracking import Metrics, read_metrics

LINES = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": NaN}', b'{"step": 3, "loss": 0.25}']


def test_a_last_line_cut_by_a_kill_is_left_out_in_silence(tmp_path, recwarn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(LINES)[:-4])
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    assert not recwarn


@pytest.mark.parametrize(
    "line",
    [b'{"step": 2, "lo\xf3s": 0.5}', b"", b"[]", b"2", b'{"loss": 1}', b'{"step": "2"}',
     b'{"step": 2, "loss": [1]}', b'{"step": true}', b'{"step": 2, "loss": null}'],
)  # fmt: skip
def test_a_damaged_line_is_told_and_later_ones_are_kept(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([LINES[0], line, LINES[2], b""]))
    with pytest.warns(UserWarning, match=r"1 of 3 lines of .*metrics.jsonl are damaged"):
        assert [record["step"] for record in read_metrics(path)] == [1, 3]
    with pytest.warns(UserWarning):
        assert Metrics(Accelerator(cpu=True), path).resume(2) == 3
    assert path.read_bytes() == LINES[0] + b"\n"
