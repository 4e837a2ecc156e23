"""Publish a pipeline: the stock folder, a picture, and a model card that says what it is."""

import json
from dataclasses import asdict
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ldm.core.document import written
from ldm.core.files import write_text
from ldm.core.secrets import secret_in
from ldm.diffusion.guidance import within
from ldm.errors import UserError
from ldm.unet import parameter_count
from pipelines.defaults import DEFAULTS_FILE
from pipelines.runs import RunRecord

if TYPE_CHECKING:
    from pipelines.base import LatentPipeline

PICTURE = "samples.png"
# what its client raises where nothing answers: httpx's or, of later releases, httpx2's
_TRANSPORT = cast(type[Exception], HfHubHTTPError.__bases__[0])
_UNGUIDED = 1.000001  # at 1 a stock pipeline would not prepare the negative prompt
TAGS = ["text-to-image", "latent-diffusion", "diffusion"]


def push(
    pipeline: "LatentPipeline",
    name: str,
    *,
    run: RunRecord | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a latent diffusion pipeline",
    license: str | None = None,
) -> str:
    """Upload the pipeline with its card to the Hub as `name` or owner/name; returns its address.

    Raises UserError where the Hub refuses, or cannot be reached, and before anything is made there
    where what would be published holds a secret.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pipeline.save_pretrained(folder)
        if run is not None and run.samples is not None and run.ema_length is None:
            copyfile(run.samples, folder / PICTURE)
        _refuse_secrets(model_card(pipeline, name, run, license), folder / DEFAULTS_FILE)
        try:
            url = api.create_repo(name, private=private, exist_ok=True)
            card = model_card(pipeline, url.repo_id, run, license, (folder / PICTURE).exists())
            write_text(folder / "README.md", card)
            api.upload_folder(
                repo_id=url.repo_id, folder_path=folder, commit_message=commit_message
            )
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            hint = "; log in with `hf auth login`, or pass a token" if status in (401, 403) else ""
            raise UserError(f"the Hub refused {name!r}: {_first_line(error)}{hint}") from None
        except (HFValidationError, _TRANSPORT, OSError) as error:
            raise UserError(f"{name!r} cannot be published: {_first_line(error)}") from None
    return str(url)


def _refuse_secrets(card: str, *files: Path) -> None:
    """Raise UserError for a token or password in the card, or in a file that goes with it."""
    texts = {"the model card": card}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    for name, text in texts.items():
        if found := secret_in(text):
            raise UserError(
                f"{name} would publish {found}: take it out of the run's config.yaml, and have it "
                "replaced where it was issued"
            )


def model_card(
    pipeline: "LatentPipeline",
    name: str,
    run: RunRecord | None = None,
    license: str | None = None,
    picture: bool = False,
) -> str:
    """The README.md of a published model: what it is, how to use it, what it was trained on."""
    data = ModelCardData(
        license=license, library_name="diffusers", pipeline_tag="text-to-image", tags=TAGS
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name.rsplit('/', 1)[-1]}",
        _summary(pipeline),
        f"![Samples, each row from one prompt]({PICTURE})" if picture else "",
        _usage(pipeline, name, _example(pipeline, run)),
        _training(run) if run is not None else "",
        _LIMITATIONS,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _example(pipeline: "LatentPipeline", run: RunRecord | None) -> str:
    """A prompt that the model understands."""
    words = pipeline.conditioner.words
    if words is not None:
        return words[0] if words else ""
    prompts = run.config.sample.prompts if run is not None else ()
    return prompts[0] if prompts else "a red flower"


def _summary(pipeline: "LatentPipeline") -> str:
    _, rows, columns = shape = pipeline.latent_shape(None, None)
    words = pipeline.conditioner.words
    takes = (
        "text prompts"
        if words is None
        else f"one of {len(words)} class names: {', '.join(words[:20])}"
        + (" and more" if len(words) > 20 else "")
        if words
        else "no prompt"
    )
    counts = {
        "U-Net": parameter_count(pipeline.unet),
        "autoencoder": parameter_count(pipeline.vae),
        "text encoder": parameter_count(pipeline.text_encoder),
    }
    sizes = ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in counts.items())
    return (
        f"A latent diffusion model that makes {columns * pipeline.factor} x "
        f"{rows * pipeline.factor} pixel images through {' x '.join(map(str, shape))} latents. "
        f"It takes {takes}. Parameters: {sizes}. "
        f"It predicts {pipeline.spec.prediction_name} on a {pipeline.spec.schedule_name} schedule."
    )


def _usage(pipeline: "LatentPipeline", name: str, prompt: str) -> str:
    steps = pipeline.defaults.num_inference_steps
    text = json.dumps(prompt, ensure_ascii=False)
    callback, guided = _stock_guidance(pipeline)
    return f"""## Use

With stock diffusers:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({json.dumps(name)})
{callback}image = pipe({text}, num_inference_steps={steps}, {guided}).images[0]
```

With the package it was trained with, which knows its {steps} steps and its guidance, and gives
each image a seed of its own:

```python
from pipelines import TextToImagePipeline

pipe = TextToImagePipeline.from_pretrained({json.dumps(name)})
image = pipe({text}, seed=0).images[0]
```"""


def _stock_guidance(pipeline: "LatentPipeline") -> tuple[str, str]:
    """A callback's definition and the arguments for a stock pipeline, which knows no interval."""
    steps, guidance = pipeline.settings()
    levels = pipeline.spec.levels(steps)[:-1]
    inside = [k for k, level in enumerate(levels) if within(level, guidance.interval)]
    if guidance.scale <= 1 or len(inside) == steps:
        return "", f"guidance_scale={guidance.scale}"
    if not inside:
        return "", "guidance_scale=1.0"
    upcoming = "(step + 2) // 2" if pipeline.spec.sampler == "heun" else "step + 1"
    callback = f"""

def guide(pipe, step, t, kwargs):  # in some of these {steps} steps only
    inside = {inside[0]} <= {upcoming} <= {inside[-1]}
    pipe._guidance_scale = {guidance.scale} if inside else {_UNGUIDED}
    return kwargs


"""
    first = _UNGUIDED if inside[0] else guidance.scale
    return callback, f"guidance_scale={first}, callback_on_step_end=guide"


def _training(run: RunRecord) -> str:
    config = run.config
    source = _without_folders(config.data.source)
    if source != config.data.source or Path(source).exists():
        source = f"a local data set, `{Path(source).name}`"
    average = f"EMA {config.train.ema_decay:g}"
    if run.ema_length is not None:
        average = f"weights averaged over a relative length of {run.ema_length:g}"
    lines = [
        "## Training",
        f"Data: {source}, at {config.data.resolution} x {config.data.resolution} pixels. "
        f"Conditioning: {config.conditioning.kind}. "
        f"{run.step('ldm')} of {config.train.steps} steps of {config.train.batch_size} images, "
        f"learning rate {config.train.learning_rate:g}, {average}.",
    ]
    if run.ema_length is None and (figures := _figures(run)):  # they are of training's own EMA
        lines += ["| figure at the last step | value |\n|---|---|\n" + "\n".join(figures)]
    yaml = written(_without_folders(asdict(config))).rstrip()
    lines += [f"<details><summary>Configuration</summary>\n\n```yaml\n{yaml}\n```\n\n</details>"]
    return "\n\n".join(lines)


def _without_folders(value: Any) -> Any:
    """Settings with only the name of each absolute path: nobody's folders are published."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    if not isinstance(value, str) or "://" in value:
        return value
    kind, colon, place = value.rpartition(":")  # such as trained:/home/me/features
    path = Path(place).expanduser()
    return f"{kind}{colon}{path.name}" if path.is_absolute() else value


def _figures(run: RunRecord) -> list[str]:
    shown = [k for k in run.keys("ldm") if k == "loss" or k.startswith("validation/")]
    values = {key: run.last("ldm", key) for key in shown}
    return [f"| {key} | {value:.5g} |" for key, value in values.items() if value is not None]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_LIMITATIONS = """## Limitations

It knows what its training images and captions show, at its training resolution, and inherits their
gaps and biases. Prompts about anything else give something that resembles the training data. Long
prompts are cut at the text encoder's length. There is no safety filter."""
