"""The same prompts and seeds at every evaluation: how a model comes along, as pictures."""

from collections.abc import Sequence
from pathlib import Path

from ldm.config import SampleConfig
from ldm.core.files import written
from pipelines.grid import captioned_grid
from pipelines.text_to_image import TextToImagePipeline


class Preview:
    """Samples of a pipeline in training, one captioned grid per call."""

    def __init__(
        self,
        pipeline: TextToImagePipeline,
        config: SampleConfig,
        prompts: Sequence[str],
        folder: Path,
    ) -> None:
        self.pipeline, self.config, self.folder = pipeline, config, folder
        self.prompts = list(prompts) or [""]
        pipeline.set_progress_bar_config(disable=True)

    def __call__(self, step: int) -> Path:
        """Sample and write folder/step_NNNNNNN.png."""
        count = self.config.images_per_prompt
        images = self.pipeline(
            self.prompts, num_images_per_prompt=count, seed=self.config.seed
        ).images
        rows = [
            (prompt or "(no prompt)", images[k * count : (k + 1) * count])
            for k, prompt in enumerate(self.prompts)
        ]
        path = self.folder / f"step_{step:07d}.png"
        with written(path) as file:
            captioned_grid(rows).save(file)
        return path
