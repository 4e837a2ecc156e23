"""Text embeddings of a frozen encoder: each caption once, and never those of another encoder."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

import ldm.conditions.cache as text_cache
from ldm.conditions.cache import TextCache, TokenTable
from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig
from ldm.core.share import ALONE
from ldm.store import texts as texts_module
from ldm.store.shards import Store
from ldm.store.texts import TextIndex
from tests.damage import DAMAGES

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CAPTIONS = [f"a flower with {n} petals" for n in range(7)]


@pytest.fixture(scope="module")
def conditioner():
    torch.manual_seed(0)
    model = SMALL | {"max_position_embeddings": 8}
    return build_conditioner(ConditioningConfig(kind="joint", model=model))


@pytest.fixture
def encoded(monkeypatch):
    """The captions that were encoded, in order."""
    monkeypatch.setattr(text_cache, "SHARD", 3)
    texts, real = [], text_cache._encode
    monkeypatch.setattr(text_cache, "_encode", lambda c, t: texts.extend(t) or real(c, t))
    return texts


def test_embeddings_are_the_encoders(conditioner, tmp_path):
    cache = TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    asked = [CAPTIONS[3], None, CAPTIONS[0], ""]
    with torch.no_grad():
        expected = conditioner.encode(conditioner.tokens(asked))
    torch.testing.assert_close(cache(asked), expected, atol=1e-6, rtol=1e-5)


def test_a_caption_is_encoded_once_and_new_ones_are_added(conditioner, tmp_path, encoded):
    TextCache.build(conditioner, CAPTIONS[:4] * 3, tmp_path, ALONE)
    assert sorted(t for t in encoded if t) == CAPTIONS[:4]
    encoded.clear()
    cache = TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    assert sorted(t for t in encoded if t) == CAPTIONS[4:]
    assert len(cache) == len(CAPTIONS) + 1


def test_another_encoder_makes_them_again_and_it_is_said(conditioner, tmp_path, encoded, capsys):
    TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    encoded.clear()
    torch.manual_seed(1)
    model = SMALL | {"max_position_embeddings": 8}
    other = build_conditioner(ConditioningConfig(kind="joint", model=model))
    TextCache.build(other, CAPTIONS, tmp_path, ALONE)
    assert "encoder was" in capsys.readouterr().out
    assert set(CAPTIONS) <= set(encoded)


def test_an_interrupted_encoding_goes_on(conditioner, tmp_path, encoded, monkeypatch):
    real = Store.write
    written = []

    def interrupted(*args):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(real(*args))

    monkeypatch.setattr(Store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    monkeypatch.setattr(Store, "write", real)
    encoded.clear()
    cache = TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    assert len([t for t in encoded if t]) == len(CAPTIONS) - 2  # "" and two captions were there
    assert cache(CAPTIONS).shape == (7, 8, 16)


@pytest.mark.parametrize("which", ["key.json", "*.arrow"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_noticed_and_made_again(conditioner, tmp_path, encoded, which, damage):
    TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    DAMAGES[damage](sorted(tmp_path.glob(which))[0])
    encoded.clear()
    TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    again = set(encoded) - {""}
    assert len(again) == 0 if which == "key.json" else 2 <= len(again) <= 3


def test_a_copy_among_the_shards_is_left_alone(conditioner, tmp_path):
    TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)
    shard = next(tmp_path.glob("*.arrow"))
    copy = shutil.copy(shard, tmp_path / f"{shard.stem} (copy).arrow")
    assert len(TextCache.build(conditioner, CAPTIONS, tmp_path, ALONE)) == len(CAPTIONS) + 1
    assert copy.exists()


def test_captions_are_tokenised_once_and_as_the_conditioner_does(
    conditioner, tmp_path, monkeypatch
):
    TokenTable.build(conditioner, CAPTIONS[:4] * 2, tmp_path, ALONE)
    asked = [CAPTIONS[3], None, CAPTIONS[0], ""]
    expected, made, real = conditioner.tokens(asked), [], type(conditioner).tokens
    monkeypatch.setattr(type(conditioner), "tokens", lambda c, t: made.extend(t) or real(c, t))
    table = TokenTable.build(conditioner, CAPTIONS, tmp_path, ALONE)
    assert made == CAPTIONS[4:]
    assert torch.equal(table(asked), expected) and table(asked).dtype == expected.dtype
    with pytest.raises(KeyError, match="a flower unseen"):
        table([CAPTIONS[0], "a flower unseen"])


@pytest.mark.parametrize("sorted_by", [2**64 - 1, 7, 0])
def test_texts_are_told_apart_by_all_bits_and_the_last_of_two_counts(monkeypatch, sorted_by):
    real = texts_module.hashes
    mask = np.array([sorted_by, 2**64 - 1], np.uint64)
    monkeypatch.setattr(texts_module, "hashes", lambda texts: real(texts) & mask)
    monkeypatch.setattr(texts_module, "BLOCK", 3)
    index = TextIndex([pa.chunked_array([CAPTIONS[:4], CAPTIONS[2:]]), pa.chunked_array([[""]])])
    assert index.rows([*CAPTIONS, "", "x"]).tolist() == [0, 1, 4, 5, 6, 7, 8, 9, -1]
    assert index.lacking(["y", *CAPTIONS, "x", "y", "x"]) == ["x", "y"]
    assert TextIndex([]).lacking(["b", "a"]) == ["a", "b"]
