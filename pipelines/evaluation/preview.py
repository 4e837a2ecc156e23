"""The same prompts and seeds at every evaluation: how a model comes along, as pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from ldm.conditions.conditioner import Conditioner
from ldm.config import SampleConfig
from ldm.core.errors import UserError
from ldm.core.files import written
from ldm.evaluation.measurements import FEWEST
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.calls.defaults import refuse_interval
from pipelines.sampling import NoNumbers
from pipelines.sheets.grid import captioned_grid
from pipelines.text_to_image import TextToImagePipeline


class Preview:
    """Samples of a model in training, one captioned grid per call."""

    def __init__(
        self,
        model: Model,
        config: SampleConfig,
        prompts: Sequence[str],
        folder: Path,
    ) -> None:
        self.pipeline = TextToImagePipeline(model, config)
        self.config, self.folder = config, folder
        self.prompts = list(prompts) or [""]
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, step: int) -> Path | None:
        """Sample and write folder/step_NNNNNNN.png; None from a network that gives no numbers.

        Whether its training has diverged is for the training to say.
        """
        count = self.config.images_per_prompt
        try:
            images = self.pipeline(
                self.prompts, num_images_per_prompt=count, seed=self.config.seed
            ).images
        except NoNumbers:
            warnings.warn(f"no picture of step {step}: the samples are no numbers", stacklevel=2)
            return None
        rows = [
            (prompt or "(no prompt)", images[k * count : (k + 1) * count])
            for k, prompt in enumerate(self.prompts)
        ]
        path = self.folder / f"step_{step:07d}.png"
        with written(path) as file:
            captioned_grid(rows).save(file)
        return path


def refuse_bad_samples(sample: SampleConfig, spec: Spec, conditioner: Conditioner) -> None:
    """Raise, before anything is encoded, what the first preview would."""
    spec.levels(sample.num_inference_steps)
    refuse_interval(sample.guidance_interval)
    if 0 < sample.quality_samples < FEWEST:
        raise UserError(
            f"sample.quality_samples={sample.quality_samples} are too few to tell a distribution "
            f"from: at least {FEWEST}, or 0 for no such figures"
        )
    try:
        conditioner.tokens(sample.prompts or [""])
    except UserError as error:
        raise UserError(
            f"sample.prompts: {error}; with sample.prompts=[] the data's first caption serves"
        ) from None
