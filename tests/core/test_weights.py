import json
import struct

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from autoencoder.model import build_autoencoder
from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig
from ldm.core.errors import UserError
from ldm.core.weights import HEADER, load_weights, refuse_bad_weights
from ldm.evaluation.features.network import (
    load_feature_network,
    random_feature_network,
    save_feature_network,
)
from ldm.models.pretrained import load_pretrained


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HOSTILE = {
    "nothing": b"",
    "three bytes": b"abc",
    "a header of 2**60": file_of({}, length=2**60),
    "a header of 2**64 - 1": file_of({}, length=2**64 - 1),
    "a header that is longer than the file": file_of({"a": tensor(0, 4)}, length=400),
    "no json": file_of(b"not json"),
    "no utf-8": file_of(b'{"\xff": 1}'),
    "a list": file_of([1, 2]),
    "deep": file_of(b'{"a":' + b"[" * 100_000),
    "offsets outside": file_of({"a": tensor(0, 400)}, b"0000"),
    "offsets backwards": file_of({"a": tensor(4, 0)}, b"0000"),
    "offsets negative": file_of({"a": tensor(-4, 0)}, b"0000"),
    "overlapping": file_of({"a": tensor(0, 4), "b": tensor(2, 6)}, b"000000"),
    "a hole": file_of({"a": tensor(0, 4), "b": tensor(8, 12)}, b"0" * 12),
    "a shape that overflows": file_of({"a": tensor(0, 4, [2**40, 2**40])}, b"0000"),
    "a shape of another size": file_of({"a": tensor(0, 4, [9])}, b"0000"),
    "an unknown dtype": file_of({"a": tensor(0, 4, dtype="F99")}, b"0000"),
    "cut": file_of({"a": tensor(0, 4)}, b"00"),
    "more behind it": file_of({"a": tensor(0, 4)}, b"0" * 40),
    "a page of html": b"<!DOCTYPE html>" + b" " * 400,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_no_safetensors_is_refused_by_name_in_one_sentence(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for refuse in (load_weights, refuse_bad_weights, lambda p: refuse_bad_weights(p.parent)):
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read") as caught:
            refuse(path)
        assert "\n" not in str(caught.value)


def test_a_header_larger_than_any_models_is_not_parsed(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", HEADER + 1))
        file.truncate(HEADER + 100)  # sparse: it costs no disk
    with pytest.raises(UserError, match="larger than any model's"):
        load_weights(path)


def test_a_sound_file_is_read_and_one_that_is_not_there_is_named(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert load_weights(tmp_path / "a.safetensors")["a"].tolist() == [0, 1, 2]
    refuse_bad_weights(tmp_path)
    with pytest.raises(UserError, match=r"b\.safetensors .*No such file"):
        load_weights(tmp_path / "b.safetensors")


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])
    return path.name


def test_cut_weights_of_every_part_that_a_config_names_are_refused_by_name(tmp_path):
    """autoencoder.path and init, unet.init, conditioning.path, and trained features."""
    vae = build_autoencoder({"block_out_channels": [8], "norm_num_groups": 4})
    vae.save_pretrained(tmp_path / "vae")
    unet = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    stock = UNet2DConditionModel(block_out_channels=[8], norm_num_groups=4, **unet)
    stock.save_pretrained(tmp_path / "unet")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = build_conditioner(ConditioningConfig(model=sizes))
    text.encoder.save_pretrained(tmp_path / "text")
    text.tokenizer.save_pretrained(tmp_path / "text")
    save_feature_network(random_feature_network(32), tmp_path, {})

    name = cut(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=f"vae/{name} cannot be read"):
        load_pretrained(AutoencoderKL, tmp_path, "vae")
    name = cut(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=f"unet/{name} cannot be read"):
        load_pretrained(UNet2DConditionModel, tmp_path / "unet", "unet")
    name = cut(tmp_path / "text" / "model.safetensors")
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        build_conditioner(ConditioningConfig("clip", path=str(tmp_path / "text")))
    name = cut(tmp_path / "features.safetensors")
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        load_feature_network(tmp_path)
