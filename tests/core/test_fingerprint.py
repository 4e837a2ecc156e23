from types import SimpleNamespace

import torch
from torch import nn

from ldm.core.fingerprint import fingerprint, vocabulary_hash, weight_hash


def network(bias: float = 0.5, **config: object) -> nn.Module:
    """A network with a configuration, and with a buffer that is a single integer."""
    module = nn.BatchNorm2d(3)
    with torch.no_grad():
        module.weight.copy_(torch.arange(3.0))
        module.bias.fill_(bias)
    given = {"_name": "x", "size": 3, "transformers_version": "1", "act": "silu"}
    module.config = {**given, **config}
    return module


def test_a_network_is_known_by_what_older_files_call_it():
    assert fingerprint(network()) == "f5765b0584739c646d9b817fd34433c0"
    assert weight_hash(network()) == "5ff6c62fc2b74c9d"
    assert fingerprint(nn.ModuleList([network().half()])) == "a0b3c7307f7608d7773011bfce93a243"
    words = SimpleNamespace(get_vocab=lambda: {"rose": 1, "daisy": 0, "Stiefmütterchen": 2})
    assert vocabulary_hash(words) == "7f0dc4ecfab0e9195fcb88492d79ce24"


def test_weights_and_configuration_are_told_apart():
    same, other, wider = network(), network(bias=0.5 + 1e-7), network(size=4)
    assert weight_hash(other) != weight_hash(same) == weight_hash(wider)
    assert len({fingerprint(n) for n in (same, other, wider)}) == 3
    assert fingerprint(network(_name="y", transformers_version="2")) == fingerprint(same)
