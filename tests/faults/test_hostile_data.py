"""Data sets and configs made to do harm: none runs code, hangs or ends in a traceback."""

import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.faults.experiments import Command, Experiments
from tests.faults.hostile import MARKER, Payload, faults, ldm, limited, met

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("hostile"))


def png(width: int, height: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header says so much."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes(10**7))
    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", about), *(chunk(*e) for e in extra), chunk(b"IDAT", rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def data_sets(folder: Path):
    """(what, an act on a folder of sound images with a metadata.jsonl)."""
    script = f"%!PS\n(touch) ({folder / MARKER}) (w) file closefile showpage".encode()
    metadata = "metadata.jsonl"

    def one(place: Path, data: bytes, name: str = "0.png") -> None:
        (place / name).write_bytes(data)

    yield "PostScript by the name of a picture", partial(one, data=script)
    yield "a bomb of 100,000 x 100,000 pixels", partial(one, data=png(100_000, 100_000))
    squeezed = zlib.compress(bytes(300_000_000), 9)
    bomb = (b"zTXt", b"Comment\0\0" + squeezed)
    yield "a PNG whose text unfolds to 300 MB", partial(one, data=png(8, 8, bomb))
    profile = (b"iCCP", b"p\0\0" + squeezed)
    yield "a PNG whose profile unfolds to 300 MB", partial(one, data=png(8, 8, profile))
    for what, make in {
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "a link to itself": lambda p: os.symlink(p, p),
        "a link to /dev/zero": lambda p: os.symlink("/dev/zero", p),
        "a link to /dev/tty": lambda p: os.symlink("/dev/tty", p),
    }.items():
        yield (
            f"{what} by the name of a picture",
            lambda p, m=make: ((p / "0.png").unlink(), m(p / "0.png")),
        )
    yield "a circle of folders", lambda p: (p / "loop").symlink_to(p)
    for what, text in {
        "nested 100,000 deep": "[" * 100_000,
        "a number of 10,000 digits": '{"file_name": "0.png", "text": ' + "9" * 10_000 + "}",
        "names that leave the folder": '{"file_name": "../../etc/passwd", "text": "x"}',
        "an absolute name": '{"file_name": "/etc/passwd", "text": "x"}',
        "a NUL in a name": '{"file_name": "0\\u0000.png", "text": "x"}',
        "terminal escapes": '{"file_name": "\\u001b]0;evil\\u0007.png", "text": "\\u001b[2Jx"}',
    }.items():
        yield f"metadata: {what}", lambda p, t=text: (p / metadata).write_text(t + "\n")
    yield "metadata: a line of 200 MB", lambda p: (p / metadata).write_text("x" * 200_000_000)
    yield "metadata: a pipe", lambda p: ((p / metadata).unlink(), os.mkfifo(p / metadata))


def archives(folder: Path):
    """(what, the bytes of a tar) for webdatasets."""

    def tar(*members: tuple[str, bytes | str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as file:
            for name, data in members:
                about = tarfile.TarInfo(name)
                if isinstance(data, str):
                    about.type, about.linkname = tarfile.SYMTYPE, data
                    file.addfile(about)
                else:
                    about.size = len(data)
                    file.addfile(about, io.BytesIO(data))
        return buffer.getvalue()

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
    sound = [
        pair
        for i in range(120)
        for pair in ((f"{i:03d}.png", buffer.getvalue()), (f"{i:03d}.txt", b"a red square"))
    ]
    marker = str(folder / MARKER)
    pickled = pickle.dumps(Payload(Path(marker)))
    yield "cut", tar(*sound)[:-30_000]
    yield "a member outside", tar(("../../evil.png", buffer.getvalue()), *sound)
    yield "a link as a member", tar(("x.png", "/etc/passwd"), ("x.txt", b"x"), *sound)
    yield "a pickle as a member", tar(("x.png", buffer.getvalue()), ("x.pkl", pickled), *sound)
    yield "a picture that is none", tar(("x.png", b"no"), ("x.txt", b"x"), *sound)
    yield (
        "a caption that is none",
        tar(("x.png", buffer.getvalue()), ("x.txt", b"\xff\xfe\xff"), *sound),
    )
    yield "json nested deep", tar(("x.png", buffer.getvalue()), ("x.json", b"[" * 99_999), *sound)


def test_no_data_set_does_harm(experiments, note, tmp_path):
    wrong = {}
    for number, (what, act) in enumerate(data_sets(tmp_path)):
        place = tmp_path / str(number)
        (place / "set").mkdir(parents=True)
        lines = [{"file_name": f"{i}.png", "text": "a red square"} for i in range(120)]
        for line in lines:
            Image.new("RGB", (16, 16), "red").save(place / "set" / line["file_name"])
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (place / "set" / "metadata.jsonl").write_text(text)
        act(place / "set")
        command = ldm("data", f"data.source={place / 'set'}", "--out", place / "data.png")
        wrong[what] = met(note, "a hostile data set", command, place, tmp_path / MARKER)
    assert not faults(wrong), faults(wrong)


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_no_archive_does_harm(note, tmp_path, streaming):
    wrong = {}
    for number, (what, data) in enumerate(archives(tmp_path)):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "set.tar").write_bytes(data)
        told = [f"data.source={place / '*.tar'}", f"data.streaming={streaming}"]
        command = ldm("data", *told, "--out", place / "data.png")
        wrong[what] = met(note, "a hostile archive", command, place, tmp_path / MARKER)
    assert not faults(wrong), faults(wrong)


def _unfold(n: int) -> str:
    return f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]"


CONFIGS = {
    "a tag that runs code": "name: !!python/object/apply:os.system ['touch {marker}']",
    "aliases that unfold": "a0: &a0 [x]\n" + "\n".join(map(_unfold, range(1, 30))),
    "an alias of itself": "data: &a {{source: *a}}",
    "nested deep": "name: " + "[" * 50_000,
    "the environment": "name: ${{oc.env:HOME}}",
    "another file": "name: ${{file:/etc/passwd}}",
    "a key twice": "name: a\nname: b",
    "a NUL": "name: a\0b",
    "bytes": "\udcff\udcfe",
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_no_config_does_harm(experiments, note, what):
    place, marker = experiments.copy("stage 2"), experiments.folder / MARKER
    text = CONFIGS[what].format(marker=marker)
    (place / "evil.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    arguments = ["--config", str(place / "evil.yaml"), f"output={place}"]
    ended = Command("train_ldm:main", lambda _: arguments, ()).run(place, partial(limited, 4))
    outcome = "silent error" if marker.exists() else ended.outcome(False)
    note("a hostile config", outcome)
    assert outcome == "a sentence", ended
