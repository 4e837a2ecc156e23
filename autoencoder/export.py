"""What stage 1 leaves behind: a stock diffusers AutoencoderKL folder, and how healthy it is."""

import shutil

import torch

from autoencoder.cache import LatentCache
from autoencoder.evaluation import HEALTH
from autoencoder.model import export_folder, standardize
from autoencoder.objective import Reconstructor
from ldm.data.example import Source
from ldm.training.run import Run


@torch.no_grad()
def export(run: Run, model: Reconstructor, source: Source) -> None:
    """Save `model` as it is, its latents standardised over all of `source`.

    An autoencoder of which only the decoder was trained keeps its latents as they are: diffusion
    models that were trained in them still fit.
    """
    vae, config = model.vae, run.config
    if config.autoencoder.standardize and not model.decoder_only:
        scratch = run.folder / "latents"
        cache = LatentCache.build(
            vae, source, config, scratch, config.seed, run.device, title="measuring the latents"
        )
        standardize(vae, *cache.statistics)
        run.accelerator.wait_for_everyone()
        if run.main:
            shutil.rmtree(scratch)
    if run.main:
        folder = export_folder(config)
        partial = folder.with_name(f".{folder.name}")  # a folder is there only when it is whole
        vae.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        run.say((run.folder / HEALTH).read_text())
        run.say(f"the autoencoder is in {folder}")
    run.accelerator.wait_for_everyone()
