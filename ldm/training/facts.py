"""What a run's weights mean nothing without, and how it is held to that when it is resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ldm.config import Config
from ldm.core.errors import UserError
from ldm.core.fingerprint import fingerprint, vocabulary_hash
from ldm.data.example import Source
from ldm.models.networks import kind_of
from ldm.ports.model import Model

Facts = Mapping[str, Any]  # JSON, by names as a sentence has them

# Arguments of a model that leave its function alone: sizes it only suggests, how its weights were
# drawn, what is dropped while it learns, what a library keeps there for itself.
_IDLE = (
    *("sample_size", "force_upcast", "dtype", "torch_dtype", "initializer_range"),
    *("initializer_factor", "dropout", "attention_dropout", "dropout_rate", "classifier_dropout"),
    *("architectures", "transformers_version", "id2label", "label2id", "problem_type"),
    *("return_dict", "output_hidden_states", "output_attentions", "use_cache"),
)


def settings(module: Any, *but: str) -> dict[str, Any]:
    """The arguments that a model's function depends on besides its weights."""
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else module.config
    left = (*_IDLE, *but)
    return {k: v for k, v in sorted(config.items()) if k not in left and not k.startswith("_")}


def latent_diffusion_facts(config: Config, model: Model) -> dict[str, Any]:
    """Those of stage 2, but for the statistics of its latents. The codec is as it was loaded."""
    vae, conditioner = model.codec.module, model.text
    meant, standardize = config.diffusion, config.autoencoder.standardize
    rescaled = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    facts = {
        "data.resolution": config.data.resolution,
        "the autoencoder": fingerprint(nn.ModuleList([vae])),  # its weights alone
        "the autoencoder's": settings(vae, *(rescaled if standardize else ())),
        "autoencoder.standardize": standardize,
        "conditioning.kind": config.conditioning.kind,
        "the classes": conditioner.words,
        "the tokens of a caption": conditioner.length,
        "the tokenizer": vocabulary_hash(conditioner.tokenizer),
        "the text encoder's": settings(conditioner.encoder),
        "diffusion.prediction": [meant.prediction, meant.prediction_args],
        "diffusion.schedule": [meant.schedule, meant.schedule_args],
        f"the {kind_of(model.network).name}'s": settings(model.network),
        "train.optimizer": config.train.optimizer,
    }
    if not conditioner.trainable:
        facts["the text encoder"] = fingerprint(nn.ModuleList([conditioner.encoder]))
    return facts


def autoencoder_facts(config: Config, vae: nn.Module) -> dict[str, Any]:
    """Those of stage 1; the weights of the loss's terms are no part of them."""
    options, loss = config.autoencoder, config.autoencoder.loss
    terms: dict[str, str] = {"reconstruction": loss.reconstruction}
    if loss.perceptual:
        terms["perceptual_network"] = loss.perceptual_network
    return {
        "data.resolution": config.data.resolution,
        "autoencoder.trainable": options.trainable,
        "autoencoder.train.optimizer": options.train.optimizer,
        "the autoencoder's": settings(vae),
        "the posterior": "a sample" if loss.kl or options.trainable == "decoder" else "its mean",
        "the loss's": terms,
        "the adversary": loss.adversarial_kind if loss.adversarial else None,
    }


def training_data(source: Source) -> dict[str, str]:
    """Fingerprints of what may change between sessions, and is told where it does."""
    return {
        "the training images": source.image_fingerprint,
        "the captions or classes of the training images": source.fingerprint,
    }


def refuse_other_facts(folder: Path, before: Facts, now: Facts) -> None:
    """Raise UserError where one of `now` is not what the checkpoints in `folder` were made with.

    What `before` does not know, as an older version wrote it, is not compared; nor are keys of a
    mapping that only one of the two has, such as the arguments of another version of a library.
    """
    for name, fact in json.loads(json.dumps(now)).items():
        if name not in before:
            continue
        was = before[name]
        if isinstance(was, dict) and isinstance(fact, dict):
            inside = {f"{name} {key}": value for key, value in fact.items()}
            refuse_other_facts(folder, {f"{name} {key}": v for key, v in was.items()}, inside)
        elif was != fact:
            raise UserError(
                f"the checkpoints in {folder} were made with {name} {_short(was)}, and "
                f"this is {_short(fact)}: restore it, or give another name=... for a new run"
            )


def _short(fact: Any) -> str:
    text = fact if isinstance(fact, str) else json.dumps(fact)
    return text if len(text) <= 80 else f"{text[:76]} ..."
