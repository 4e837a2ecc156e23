"""What the U-Net attends to: a stock (tokenizer, text encoder) pair, whatever the kind.

Every kind, class labels included, is something that StableDiffusionPipeline accepts as its
`tokenizer` and `text_encoder`, so every kind of model exports to stock diffusers.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    T5EncoderModel,
)

from ldm.conditions.tokenizers import NULL, clip_bpe_tokenizer, word_tokenizer
from ldm.conditions.tokens import attention_mask, token_count, token_ids
from ldm.config import ConditioningConfig
from ldm.core.errors import UserError
from ldm.models.hub import fetched
from ldm.models.weights import load_part, refuse_a_file
from ldm.settings.arguments import refuse_arguments


@dataclass(frozen=True)
class Conditioner:
    """A tokenizer and its encoder, called as StableDiffusionPipeline calls them.

    `trainable` says whether gradients reach the encoder (it is trained along with the U-Net).
    """

    tokenizer: Any  # any transformers tokenizer
    encoder: Any  # an nn.Module: any CLIPTextModel or T5EncoderModel
    trainable: bool

    @property
    def context_dim(self) -> int:
        """D, the width of what the U-Net attends to."""
        return self.encoder.config.hidden_size

    @property
    def length(self) -> int:
        """L, the tokens every caption is padded or truncated to."""
        return self.tokenizer.model_max_length

    @property
    def words(self) -> tuple[str, ...] | None:
        """The class names where the vocabulary is closed; None for text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not isinstance(backend.model, WordLevel):
            return None
        by_index = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return tuple(word for word, _ in by_index if word != NULL)

    def tokens(self, captions: Sequence[str | None]) -> Tensor:
        """Token ids (B, L), int64; None is the empty prompt.

        Raises UserError, naming the nearest one, for a class name that the model does not know.
        """
        texts = ["" if caption is None else caption for caption in captions]
        ids = token_ids(self.tokenizer, texts, self.length)
        if (words := self.words) is not None:
            null = self.tokenizer.convert_tokens_to_ids(NULL)
            for text, (index, *_) in zip(texts, ids.tolist(), strict=True):
                if index == null and text.strip() not in ("", NULL):
                    raise UserError(_unknown_class(text, words))
        return ids

    def rows(self, keys: Sequence[str | None]) -> Tensor:
        """Contexts (B, L, D) of captions; None is the empty prompt."""
        return self.encode(self.tokens(keys))

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Tensor:
        """Token ids (B, L) → context (B, L, D), in the encoder's dtype and on its device.

        `clip_skip` leaves out so many of the encoder's last layers, but not its final norm. Raises
        UserError where it has not as many, or no such norm.
        """
        mask = None
        if getattr(self.encoder.config, "use_attention_mask", False):
            mask = attention_mask(tokens, self.tokenizer)
        with nullcontext() if self.trainable else torch.no_grad():
            device = self.encoder.get_input_embeddings().weight.device
            mask = mask if mask is None else mask.to(device)
            if not clip_skip and (clip_skip is None or not self.encoder.config.num_hidden_layers):
                return self.encoder(tokens.to(device), attention_mask=mask)[0]
            inner: Any = getattr(self.encoder, "text_model", self.encoder)
            if not hasattr(inner, "final_layer_norm"):
                raise UserError(
                    f"clip_skip={clip_skip} is for CLIP's text models, and this is none"
                )
            if clip_skip > (layers := self.encoder.config.num_hidden_layers):
                raise UserError(
                    f"clip_skip={clip_skip}, and this model's text encoder has {layers} layers"
                )
            told = self.encoder(
                tokens.to(device), attention_mask=mask, output_hidden_states=True
            ).hidden_states
            return inner.final_layer_norm(told[-(clip_skip + 1)])

    def truncated(self, caption: str) -> bool:
        """Whether the encoder sees only the beginning of this caption."""
        return token_count(self.tokenizer, caption) > self.length


def build_conditioner(
    config: ConditioningConfig, label_names: Sequence[str] | None = None
) -> Conditioner:
    """The conditioner that a config asks for; `label_names` are the classes of the data set.

    Raises UserError for an unknown kind, argument, name or folder.
    """
    if config.kind not in CONDITIONERS:
        raise UserError(
            f"conditioning.kind {config.kind!r} is not one of {', '.join(CONDITIONERS)}"
        )
    return CONDITIONERS[config.kind](config, label_names)


def _joint(config: ConditioningConfig, label_names: Sequence[str] | None) -> Conditioner:
    """A CLIP text encoder from scratch over CLIP's byte pairs, trained along with the U-Net."""
    if config.path:
        raise UserError(
            f"conditioning.path={config.path} is not read by kind=joint, which starts from random "
            "weights: take kind=clip, or leave it out"
        )
    refuse_arguments("conditioning.model", CLIPTextConfig, config.model)
    arguments: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 4 * config.model.get("hidden_size", 128),
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "projection_dim": config.model.get("hidden_size", 128),
    }
    _refuse_unknown("conditioning.model", config.model, _joint_arguments())
    tokenizer = clip_bpe_tokenizer(
        config.model.get("max_position_embeddings", arguments["max_position_embeddings"])
    )
    try:
        text_config = CLIPTextConfig(
            **arguments | config.model,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        encoder = CLIPTextModel(text_config)
    # transformers' strict dataclasses have an exception tree of their own
    except Exception as error:
        raise UserError(f"conditioning.model: {' '.join(str(error).split())}") from None
    return Conditioner(tokenizer, encoder, trainable=True)


# Follow from the tokenizer, so they are not the user's to set.
_FIXED = ("self", "kwargs", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")


def _joint_arguments() -> list[str]:
    return [name for name in signature(CLIPTextConfig).parameters if name not in _FIXED]


def _clip(config: ConditioningConfig, label_names: Sequence[str] | None) -> Conditioner:
    """A frozen CLIP text encoder, by name or folder (also out of a CLIP or pipeline folder)."""
    tokenizer, encoder = _pretrained(config, CLIPTextModel, ("clip_text_model", "clip"))
    _limit(tokenizer, config, encoder.config.max_position_embeddings)
    return Conditioner(tokenizer, encoder, trainable=False)


def _t5(config: ConditioningConfig, label_names: Sequence[str] | None) -> Conditioner:
    """A frozen T5 encoder, by name or folder.

    `use_attention_mask` is set in its config, which stock pipelines honour too: a caption's tokens
    then do not depend on how much padding follows them.
    """
    tokenizer, encoder = _pretrained(config, T5EncoderModel, ("t5", "mt5", "umt5"))
    encoder.config.use_attention_mask = True
    _limit(tokenizer, config, 77)
    return Conditioner(tokenizer, encoder, trainable=False)


def _limit(tokenizer: Any, config: ConditioningConfig, default: int) -> None:
    """Give the tokenizer a length: `model_max_length` of the config, else what is usable."""
    _refuse_unknown("conditioning.model", config.model, ["model_max_length"], _joint_arguments())
    wanted = config.model.get("model_max_length", min(default, tokenizer.model_max_length))
    tokenizer.model_max_length = wanted


def _pretrained(
    config: ConditioningConfig, encoder_class: Any, types: tuple[str, ...]
) -> tuple[Any, Any]:
    """Tokenizer and frozen encoder from a flat folder or Hub name, or from a pipeline's."""
    if not config.path:
        raise UserError(
            f"conditioning.kind={config.kind} needs conditioning.path=NAME, a folder or Hub name"
        )
    place = Path(config.path).expanduser()
    try:
        if not place.is_dir():
            refuse_a_file(config.path)
            place = fetched(config.path, ("", "text_encoder", "tokenizer"), config.variant)
        whole = (place / "text_encoder").is_dir()
        encoder_place = place / "text_encoder" if whole else place
        found = AutoConfig.from_pretrained(encoder_place).model_type
        if found in types:
            tokenizer = AutoTokenizer.from_pretrained(place / "tokenizer" if whole else place)
            encoder = load_part(encoder_class, encoder_place, config.variant)
            return tokenizer, encoder.float().requires_grad_(False)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"conditioning.path {config.path!r} cannot be read as a tokenizer and text encoder: "
            f"{reason}"
        ) from None
    raise UserError(
        f"conditioning.path {config.path!r} holds a {found} model, and kind={config.kind} reads "
        f"{' or '.join(types)}"
    )


def _class(config: ConditioningConfig, label_names: Sequence[str] | None) -> Conditioner:
    """One learned vector per class: a CLIP text model of no layers over a closed vocabulary."""
    if not label_names:
        raise UserError(
            "conditioning.kind=class needs classes, and this data has none: "
            "name the class column with data.label, or use conditioning.kind=none"
        )
    return _embedding(config, label_names, trainable=True)


def _none(config: ConditioningConfig, label_names: Sequence[str] | None) -> Conditioner:
    """No condition: the context is all zeros, so cross attention adds a constant."""
    conditioner = _embedding(config, (), trainable=False)
    # Zeros, not noise: nothing of it has to be kept to rebuild the same model.
    for parameter in conditioner.encoder.embeddings.parameters():
        nn.init.zeros_(parameter)
    conditioner.encoder.requires_grad_(False).eval()
    return conditioner


def _embedding(config: ConditioningConfig, names: Sequence[str], trainable: bool) -> Conditioner:
    _refuse_unknown("conditioning.model", config.model, ["hidden_size"], _joint_arguments())
    refuse_arguments("conditioning.model", CLIPTextConfig, config.model)
    tokenizer = word_tokenizer(names)
    null: Any = tokenizer.convert_tokens_to_ids(NULL)
    encoder: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.model.get("hidden_size", 128),
            intermediate_size=1,
            projection_dim=1,
            num_hidden_layers=0,
            num_attention_heads=1,
            max_position_embeddings=1,
            pad_token_id=null,
            bos_token_id=null,
            eos_token_id=null,
        )
    )
    return Conditioner(tokenizer, encoder, trainable)


def _refuse_unknown(
    where: str, given: dict[str, Any], known: Sequence[str], idle: Sequence[str] = ()
) -> None:
    """Raise UserError for a key that is neither known nor `idle`.

    Idle keys are of another kind: a config that says kind=joint can be run as kind=none from the
    command line, where a key can be changed and not removed.
    """
    for key in given:
        if key not in known and key not in idle:
            near = get_close_matches(key, known, 1, 0.0)
            raise UserError(f"{where} has no argument {key!r}; the nearest is {near[0]!r}")


def _unknown_class(text: str, words: tuple[str, ...]) -> str:
    if not words:
        return f"this model is unconditional: it takes no prompt, and was given {text!r}"
    near = get_close_matches(text, words, 1, 0.0)[0]
    return f"no class {text!r} in this model; the nearest of its {len(words)} is {near!r}"


CONDITIONERS: dict[str, Callable[[ConditioningConfig, Sequence[str] | None], Conditioner]] = {
    "joint": _joint,
    "clip": _clip,
    "t5": _t5,
    "class": _class,
    "none": _none,
}
