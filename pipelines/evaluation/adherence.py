"""How often a model's pictures show the petal colour that their prompt asks for."""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from ldm.core.errors import UserError
from ldm.core.files import refuse_unwritable, write_json, write_text, written
from ldm.evaluation.adherence import Row, adherence, asked, table
from ldm.evaluation.records import jsonable
from pipelines.many import many
from pipelines.sheets.grid import captioned_grid
from pipelines.text_to_image import TextToImagePipeline

PROMPTS = ("a red flower", "a yellow flower", "a purple flower", "a white flower")
SHOWN = 8  # images of each prompt in the picture


def measure_adherence(
    pipe: TextToImagePipeline,
    folder: Path,
    prompts: Sequence[str] = PROMPTS,
    count: int = 100,
    measure: str = "colour",
    batch: int = 50,
    guidance_scale: float | None = None,
) -> list[Row]:
    """Sample `count` images for each prompt and measure them.

    Writes folder/adherence.json, .txt and .png, the first few images of each prompt. `measure` is
    a key of ldm.evaluation.adherence.MEASURES, `guidance_scale` the model's own unless given.
    Raises UserError for a prompt that does not ask for what is measured.
    """
    for prompt in prompts:
        if measure not in asked(prompt):
            raise UserError(f"the prompt {prompt!r} asks for no {measure} that can be measured")
    refuse_unwritable(folder / "adherence.png")
    pipe.set_progress_bar_config(disable=True)
    rows, shown = [], []
    with tqdm(total=count * len(prompts), desc="sampling", unit="img") as bar:
        for prompt in prompts:
            wanted = [prompt] * count
            images = many(pipe, wanted, 0, batch, bar.update, guidance_scale=guidance_scale)
            rows.append(adherence(prompt, measure, images))
            shown.append((prompt, images[:SHOWN]))
    write_json(folder / "adherence.json", jsonable(rows))
    write_text(folder / "adherence.txt", table(rows) + "\n")
    with written(folder / "adherence.png") as file:
        captioned_grid(shown).save(file)
    return rows
