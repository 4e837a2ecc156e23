"""What stage 1 leaves behind: a stock diffusers AutoencoderKL folder, and how healthy it is."""

import shutil

import torch

from autoencoder.cache import LatentCache
from autoencoder.codec import KLCodec
from autoencoder.evaluation import HEALTH
from autoencoder.model import export_damage, export_folder
from autoencoder.reconstructor import Reconstructor
from ldm.core.files import published, write_json, write_text
from ldm.core.sums import MANIFEST, manifest_of
from ldm.data.example import Source
from ldm.training.run import Run

EXPORTED = "exported"  # there while the export is of the last checkpoint


def settled(run: Run, start: int) -> bool:
    """Whether an earlier command exported what is trained, and it is whole; else the note goes.

    To be asked by every process, before the first step after `start`.
    """
    note = run.folder / EXPORTED
    done = start == run.train.steps and note.exists()
    if done and (fault := export_damage(export_folder(run.config))):
        run.say(f"the export is made again: {fault}")
        done = False
    run.share.wait()  # until all have looked
    if run.main and not done:
        note.unlink(missing_ok=True)
    return done


@torch.no_grad()
def export(run: Run, model: Reconstructor, source: Source) -> None:
    """Save `model` as it is, its latents standardised over all of `source`.

    An autoencoder of which only the decoder was trained keeps its latents as they are: diffusion
    models that were trained in them still fit.
    """
    vae, codec, config = model.vae, KLCodec(model.vae), run.config
    if config.autoencoder.standardize and not model.decoder_only:
        scratch = run.folder / "latents"
        cache = LatentCache.build(
            codec,
            source,
            config,
            scratch,
            config.seed,
            run.device,
            run.share,
            title="measuring the latents",
        )
        codec.standardize(*cache.statistics)
        run.share.wait()
        if run.main:
            shutil.rmtree(scratch)
    if run.main:
        folder = export_folder(config)
        with published(folder, index="config.json") as new:
            vae.save_pretrained(new)
            write_json(new / MANIFEST, manifest_of(new))
        write_text(run.folder / EXPORTED, "")
        run.say((run.folder / HEALTH).read_text())
        run.say(f"the autoencoder is in {folder}")
    run.share.wait()
