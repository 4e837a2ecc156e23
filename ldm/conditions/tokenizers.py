"""Tokenizers that are built here, offline: CLIP's byte pairs, and class names as whole words."""

import gzip
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, models, normalizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from ldm.core.errors import UserError

NULL = "<null>"  # the word of "no class"; also what "" is padded with


def clip_bpe_tokenizer(length: int = 77) -> CLIPTokenizer:
    """CLIP's tokenizer (49,408 byte pairs), built offline from the file that open_clip ships.

    Special tokens written out in a caption are split like any other text.
    """
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    characters = list(bytes_to_unicode().values())
    # As in CLIP: the first line is a header, and the list is cut so that the vocabulary,
    # two special tokens included, has 49,408 entries.
    merges: Any = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    words = [
        *characters,
        *(character + "</w>" for character in characters),
        *("".join(pair) for pair in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        model_max_length=length,
        split_special_tokens=True,
    )


def word_tokenizer(names: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are whole class names (spaces and all); "" is the null word.

    Case is ignored unless two names differ by nothing else.
    """
    clean = [name.strip() for name in names]
    lowered = [name.lower() for name in clean]
    fold = len(set(lowered)) == len(lowered)
    words = lowered if fold else clean
    if len(set(words)) != len(words) or "" in words or NULL in words:
        raise UserError(f"class names must be distinct, not empty and not {NULL!r}: {list(names)}")
    vocabulary = {NULL: 0} | {word: index for index, word in enumerate(words, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=NULL))
    steps = [normalizers.Strip()] + [normalizers.Lowercase()] * fold
    tokenizer.normalizer = normalizers.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=NULL, unk_token=NULL, model_max_length=1
    )
