"""What a warm start keeps does not grow by a Python object for each image."""

import gc
import sys
from unittest.mock import patch

from autoencoder.cache import cached_latents
from autoencoder.encoding import Encoder
from autoencoder.model import configured_codec
from benchmarks.many_images import configured, faked, write_rows
from ldm.conditions.conditioner import build_conditioner
from ldm.core.share import ALONE
from ldm.data.repeats import repeated
from ldm.data.source import open_sources
from ldm.training.examples import keyed_examples


def test_a_warm_start_keeps_no_object_for_an_image(tmp_path):
    text = build_conditioner(configured(tmp_path, "joint").conditioning)

    def start(config):
        sources = open_sources(config.data)
        latents = cached_latents(config, configured_codec(config), sources, ALONE, None)
        examples = keyed_examples(config, None, latents, text, ALONE)
        return examples, repeated(latents["train"], {"flower": 2})

    def objects(count):
        folder = tmp_path / str(count)
        write_rows(count, folder, count)
        config = configured(folder, "joint")
        with patch.object(Encoder, "write", faked):
            start(config)
        gc.collect()
        before = sys.getallocatedblocks()
        examples, epoch = start(config)
        gc.collect()
        assert len(examples["train"].latents) * 2 == len(epoch) == 1.9 * count
        return sys.getallocatedblocks() - before

    assert objects(1200) - objects(200) < 100
