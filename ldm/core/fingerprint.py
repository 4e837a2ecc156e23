"""What a network is, in hex digits: what is cached or measured was made by it and no other."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """32 hex digits of a module's configuration and weights: the key of what it has cached."""
    config = getattr(module, "config", {})
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    settings = {k: v for k, v in settings.items() if k[0] != "_" and k != "transformers_version"}
    return _hashed(module, 16, repr((sorted(settings.items()), ())))  # () was once for more


def weight_hash(module: nn.Module) -> str:
    """16 hex digits of the weights alone: what results name a network by."""
    return _hashed(module, 8)


def vocabulary_hash(tokenizer: Any) -> str:
    """32 hex digits of a tokenizer's tokens and their ids."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return blake2b(vocabulary.encode(), digest_size=16).hexdigest()


def _hashed(module: nn.Module, size: int, before: str = "") -> str:
    """blake2b in `size` bytes of parameters and buffers."""
    digest = blake2b(before.encode(), digest_size=size)
    feed(digest, module.state_dict())
    return digest.hexdigest()


def feed(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Update one of hashlib's with tensors: name, shape, dtype and bytes, by name."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
