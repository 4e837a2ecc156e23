"""From texts to token ids, with anybody's tokenizer and from any thread."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ldm.core.text import clean

_TURN = Lock()  # a fast tokenizer keeps the truncation and padding of the call before


def token_ids(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """Token ids (B, L), int64, padded or cut to L = `length`."""
    with _TURN:
        return tokenizer(
            _expanded(tokenizer, texts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).input_ids


def token_count(tokenizer: Any, text: str) -> int:
    """How many tokens a text has, uncut."""
    with _TURN:
        return len(tokenizer(_expanded(tokenizer, [text])[0], verbose=False).input_ids)


def attention_mask(tokens: Tensor, tokenizer: Any) -> Tensor:
    """1 on a caption's own tokens, 0 on the padding that follows: (B, L), int64."""
    pad = tokens == tokenizer.pad_token_id
    padding = pad.flip(-1).cumprod(-1).flip(-1)  # the run of pads at the end
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        padding = torch.cat([torch.zeros_like(padding[:, :1]), padding[:, :-1]], 1)  # less its EOS
    return 1 - padding


def _expanded(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts, cleaned, with each learnt word of several vectors spelt out as in stock pipelines.

    Textual inversion (Gal et al. 2022) adds <x>, <x>_1, <x>_2 ... to the tokenizer for such an <x>.
    """
    texts, added = [clean(text) for text in texts], tokenizer.added_tokens_encoder
    words = [word for word in added if f"{word}_1" in added]
    for number, text in enumerate(texts if words else ()):
        found = set(tokenizer.tokenize(text))
        for word in (w for w in words if w in found):
            vectors = [word]
            while (more := f"{word}_{len(vectors)}") in added:
                vectors.append(more)
            text = text.replace(word, " ".join(vectors))
        texts[number] = text
    return texts
