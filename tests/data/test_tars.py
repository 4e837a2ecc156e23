"""Members of a webdataset that are broken are named and left out, and the rest is read."""

import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import Member, archive, config, encoded, picture

from ldm.core.errors import UserError
from ldm.data.pictures.bad import BadImage
from ldm.data.quarantine import checked
from ldm.data.source import open_source

STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])


def example(i: int) -> list[Member]:
    return [(f"{i:04d}.png", encoded(picture(i))), (f"{i:04d}.txt", f"number {i}".encode())]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def whole(where, **options):
    return open_source(config(where, holdout=0.0, **options))


BROKEN = {
    "its image is no image": ([("x.png", b"nothing"), ("x.txt", b"x")], "no picture"),
    "its image is cut": ([("x.png", encoded(picture(1))[:90]), ("x.txt", b"x")], "cannot be"),
    "its JSON is broken": ([("x.png", encoded(picture(1))), ("x.json", b'{"a')], "json cannot be"),
    "its JSON is too deep": (
        [("x.png", encoded(picture(1))), ("x.json", b"[" * 200_000)], "json cannot be read"
    ),
    "its text is no UTF-8": ([("x.png", encoded(picture(1))), ("x.txt", b"\xff\xe9")], "txt can"),
    "its image is a link": (
        [special("x.png", tarfile.SYMTYPE, "/etc/passwd"), ("x.txt", b"x")], "png is a link"
    ),
    "its image is a device": ([special("x.png", tarfile.CHRTYPE), ("x.txt", b"x")], "a device"),
    "its image is a pipe": ([special("x.png", tarfile.FIFOTYPE), ("x.txt", b"x")], "a device"),
    "its name leads out": ([("a/../../x.png", encoded(picture(1)))], "leads out of the archive"),
    "it has two images of a name": ([("x.png", encoded(picture(1)))] * 2, "there twice"),
    "it has no image": ([("x.txt", b"x")], "no image"),
}  # fmt: skip


@STREAMING
@pytest.mark.parametrize("why", BROKEN)
def test_a_bad_member_is_named_and_left_out(why, streaming, tmp_path):
    bad, reason = BROKEN[why]
    members = [m for i in range(99) for m in example(i)]
    shard = archive(tmp_path / "set.tar", [*members[:10], *bad, *members[10:]])
    source = whole(shard, streaming=streaming)
    assert len(source) == 100
    with pytest.raises(BadImage, match=reason) as told:
        source.image(5)
    assert told.value.name.endswith("x")
    sound = checked(source, tmp_path / "cache")
    assert [sound.captions(i)[0] for i in range(99)] == [f"number {i}" for i in range(99)]
    assert sound.image(98).tobytes() == picture(98).tobytes()
    named = json.loads((tmp_path / "cache" / "quarantine.jsonl").read_text())
    assert named["name"] == told.value.name


@STREAMING
def test_over_one_percent_of_bad_members_stops(streaming, tmp_path):
    members = [m for i in range(50) for m in example(i)]
    shard = archive(tmp_path / "set.tar", [*members, ("x.png", b"nothing")])
    with pytest.raises(UserError, match=r"1 of 51 images .* first is x \(is no picture"):
        checked(whole(shard, streaming=streaming), tmp_path / "cache")


@pytest.mark.parametrize("at", ["header", "image", "between", "end mark"])
def test_an_archive_that_is_cut_off_is_told_and_read_as_far_as_it_goes(at, tmp_path):
    shard = archive(tmp_path / "a.tar", [m for i in range(150) for m in example(i)])
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
        last = tar.offset
    place = {
        "header": members[-2].offset + 100,
        "image": members[-2].offset_data + 200,
        "between": members[-2].offset,
        "end mark": last,
    }[at]
    os.truncate(shard, place)
    source = whole(shard)
    read = 150 if at == "end mark" else 149
    assert len(source) in (read + 1, read + 2)
    assert source.image(read - 1).tobytes() == picture(read - 1).tobytes()
    with pytest.raises(BadImage, match=r"a\.tar: the archive is cut off or damaged"):
        source.image(len(source) - 1)
    sound = checked(source, tmp_path / "cache") if at != "image" else None
    assert sound is None or len(sound) == read


def test_a_header_that_is_damaged_does_not_hide_what_follows_in_silence(tmp_path):
    shard = archive(tmp_path / "a.tar", [m for i in range(5) for m in example(i)])
    with tarfile.open(shard) as tar:
        start = tar.getmembers()[4].offset
    data = bytearray(shard.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    shard.write_bytes(data)
    source = whole(shard)
    assert len(source) == 3
    with pytest.raises(BadImage, match=f"nothing is read after byte {start:,}"):
        source.image(2)


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(600)])
def test_one_archive_of_several_that_is_none_is_named(data, tmp_path):
    archive(tmp_path / "set" / "a.tar", [m for i in range(3) for m in example(i)])
    (tmp_path / "set" / "b.tar").write_bytes(data)
    source = whole(tmp_path / "set")
    assert len(source) == 4
    with pytest.raises(BadImage, match=r"b\.tar: the archive is cut off or damaged"):
        source.image(3)
    with pytest.raises(UserError, match=r"has no image column; .*b\.tar: the archive is cut"):
        whole(tmp_path / "set" / "b.tar")


def test_missing_captions_train_unconditionally_and_are_counted(tmp_path):
    shard = archive(tmp_path / "a.tar", [*example(0), ("1.png", encoded(picture(1)))])
    source = whole(shard)
    assert [source.captions(i) for i in range(2)] == [("number 0",), ()]
    assert source.notes[0].startswith("1 of 2 captions in column 'txt'")


def test_images_of_several_formats_and_members_in_any_order_are_read(tmp_path):
    images = [
        ("0.png", encoded(picture(0))),
        ("1.webp", encoded(picture(1), "WEBP", lossless=True)),
    ]
    texts = [("0.txt", "\ufeffzero".encode()), ("1.txt", b"one")]
    hidden = [("._0.png", b"?"), ("__MACOSX/._1.png", b"?"), ("README", b"?"), ("0.npy", b"?")]
    source = whole(archive(tmp_path / "a.tar", [*images, *hidden, *texts]))
    assert [source.captions(i)[0] for i in range(len(source))] == ["zero", "one"]
    assert [source.image(i).tobytes() for i in range(2)] == [picture(i).tobytes() for i in range(2)]


def test_one_of_several_images_of_an_example_can_be_named(tmp_path):
    members = [("0.jpg", encoded(picture(0), "JPEG")), ("0.mask.png", encoded(picture(9)))]
    shard = archive(tmp_path / "a.tar", [*members, ("0.txt", b"x")])
    assert whole(shard, image="mask.png").image(0).tobytes() == picture(9).tobytes()
    assert whole(shard).image(0).tobytes() != picture(9).tobytes()
    with pytest.raises(UserError, match=r"no column 'png' .* images in jpg, mask\.png"):
        whole(shard, image="png")


def test_examples_of_one_name_in_two_archives_are_two(tmp_path):
    for part in "ab":
        archive(tmp_path / f"{part}.tar", [("0.png", encoded(picture(ord(part)))), ("0.txt", b"x")])
    source = whole(tmp_path / "*.tar")
    assert [source.name(i) for i in range(2)] == ["a/0", "b/0"]
    assert source.image(1).tobytes() == picture(ord("b")).tobytes()


def test_names_that_are_not_utf8_can_be_written_down(tmp_path):
    info = tarfile.TarInfo(b"\xff\xe9.png".decode("utf-8", "surrogateescape"))
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        data = encoded(picture(0))
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    source = open_source(config(tmp_path / "a.tar", holdout=0.0), needs="nothing")
    assert source.name(0).encode() == "\ufffd\ufffd".encode()


def test_nothing_is_copied_and_the_fingerprint_follows_the_archives(tmp_path):
    shard = archive(tmp_path / "a.tar", example(0))
    first = whole(shard).image_fingerprint
    assert whole(shard).image_fingerprint == first
    archive(shard, [*example(0), *example(1)])
    assert whole(shard).image_fingerprint != first
    assert not (tmp_path / "hf").exists()


def test_images_that_are_further_ones_of_their_example_are_told(tmp_path):
    names = ("rose.v1.1", "rose.v1.2", "tulip")
    members = [(f"{name}.png", encoded(picture(i))) for i, name in enumerate(names)]
    source = open_source(config(archive(tmp_path / "x.tar", members), holdout=0.0), needs="nothing")
    assert [source.name(i) for i in range(len(source))] == ["rose", "tulip"]
    (note,) = source.notes
    assert "left out: 1; an example's name ends at the first dot" in note
    assert "v1.1.png, v1.2.png, png" in note


def test_what_img2dataset_writes_is_read_from_its_archives(tmp_path):
    archive(tmp_path / "set" / "00000.tar", example(3))
    pq.write_table(pa.table({"url": ["x"], "caption": ["y"]}), tmp_path / "set" / "00000.parquet")
    (tmp_path / "set" / "00000_stats.json").write_text("{}")
    source = whole(tmp_path / "set")
    assert (len(source), source.captions(0)) == (1, ("number 3",))
