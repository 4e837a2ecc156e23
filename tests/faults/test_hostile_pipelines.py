"""Pipelines that a stranger published to do harm: none runs code, hangs or ends in a traceback."""

import json
import os
import pickle
import shutil
import struct
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.faults.experiments import Experiments
from tests.faults.hostile import MARKER, Payload, faults, ldm, met

SCHEDULER = "scheduler/scheduler_config.json"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("hostile"))


def edited(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def header(length: int, text: bytes = b"", data: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + text + data


def bombs() -> dict[str, bytes]:
    """Safetensors that are none."""
    wide = json.dumps(
        {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    outside = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    deep = b'{"a":' * 100_000
    return {
        "a header of 2**60 bytes": header(2**60),
        "a header of 99 million bytes": header(99_000_000, b"{}"),
        "a tensor of 4 TiB": header(len(wide), wide),
        "offsets outside the file": header(len(outside), outside),
        "a header that is nested deep": header(len(deep), deep),
        "no header": b"\0" * 7,
        "empty": b"",
        "a pickle": pickle.dumps({"x": 1}),
    }


def pipelines(folder: Path):
    """(what, an act on a pipeline folder) for all that a stranger may publish."""
    unet = "unet/diffusion_pytorch_model.safetensors"
    for what, data in bombs().items():
        for part in (
            unet,
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        ):
            yield f"{part.split('/')[0]}: {what}", lambda p, f=part, d=data: (p / f).write_bytes(d)

    def pickled(place: Path, part: str) -> None:
        weights = next((place / part).glob("*.safetensors"))
        payload = pickle.dumps(Payload(folder / MARKER))
        names = {"text_encoder": "pytorch_model.bin"}
        (place / part / names.get(part, "diffusion_pytorch_model.bin")).write_bytes(payload)
        weights.unlink()

    for part in ("unet", "vae", "text_encoder"):
        yield f"{part}: a pickle that runs a command", partial(pickled, part=part)
    for key, value in {
        "num_train_timesteps": 10**9,
        "trained_betas": [0.1] * 3,
        "beta_start": "nan",
        "_class_name": "__import__",
        "prediction_type": "none such",
        "steps_offset": -(10**9),
        "beta_schedule": "none such",
    }.items():
        yield f"scheduler: {key}", lambda p, k=key, v=value: edited(p / SCHEDULER, **{k: v})
    for key, value in {
        "unet": ["os", "system"],
        "vae": ["subprocess", "Popen"],
        "scheduler": ["../../evil", "X"],
        "_class_name": "os.system",
        "text_encoder": 7,
    }.items():
        yield (
            f"model_index: {key}",
            lambda p, k=key, v=value: edited(p / "model_index.json", **{k: v}),
        )

    def custom(place: Path) -> None:
        (place / "pipeline.py").write_text(f"open({str(folder / MARKER)!r}, 'w')")
        (place / "unet" / "evil.py").write_text(f"open({str(folder / MARKER)!r}, 'w')")
        edited(place / "model_index.json", unet=["evil", "Evil"], _class_name=["pipeline", "P"])

    yield "model_index: code beside it", custom

    def mapped(place: Path) -> None:
        (place / "tokenizer" / "evil.py").write_text(f"open({str(folder / MARKER)!r}, 'w')")
        path = place / "tokenizer" / "tokenizer_config.json"
        edited(path, auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil")

    yield "tokenizer: code beside it", mapped
    for part in ("unet", "vae", "text_encoder"):
        for what, text in (
            ("deep", "[" * 100_000),
            ("empty", ""),
            ("a list", "[]"),
            ("cut", '{"a'),
        ):
            yield (
                f"{part}/config.json: {what}",
                lambda p, f=part, t=text: (p / f / "config.json").write_text(t),
            )
    for key, value in {
        "block_out_channels": [10**9, 10**9],
        "layers_per_block": 10**9,
        "sample_size": -1,
        "cross_attention_dim": 10**12,
        "norm_num_groups": 0,
    }.items():
        yield f"unet: {key}", lambda p, k=key, v=value: edited(p / "unet/config.json", **{k: v})

    def poisoned(place: Path) -> None:
        tensors = load_file(place / unet)
        save_file({k: v * float("nan") for k, v in tensors.items()}, place / unet)

    def lacking(place: Path) -> None:
        tensors = load_file(place / unet)
        save_file({k: v for k, v in tensors.items() if "conv_out" not in k}, place / unet)

    yield "unet: not a number", poisoned
    yield "unet: without its last layer", lacking
    yield (
        "unet: a folder of itself",
        lambda p: (
            shutil.rmtree(p / "unet"),
            (p / "unet").symlink_to(p / "unet"),
        ),
    )
    yield "unet: a pipe", lambda p: ((p / unet).unlink(), os.mkfifo(p / unet))
    yield "ldm.json: cut", lambda p: (p / "ldm.json").write_text('{"guidance_sca')
    yield "ldm.json: not a number", lambda p: edited(p / "ldm.json", guidance_scale=float("nan"))
    yield "ldm.json: steps", lambda p: edited(p / "ldm.json", num_inference_steps=-1)


def test_no_published_pipeline_does_harm(experiments, note):
    marker, wrong = experiments.folder / MARKER, {}
    for what, act in pipelines(experiments.folder):
        place = experiments.copy("generate")
        act(place / "tiny" / "pipeline")
        pipe, out = place / "tiny" / "pipeline", place / "pictures"
        command = ldm("generate", "a red flower", "--model", pipe, "--seed", 0, "--out", out)
        wrong[what] = met(note, "a hostile pipeline", command, place, marker)
        if any(Image.open(p).getextrema() == ((0, 0),) * 3 for p in place.glob("pictures/*")):
            wrong[what] = "a black picture"
        shutil.rmtree(place.parent)
    assert not faults(wrong), faults(wrong)
