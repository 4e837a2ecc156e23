"""The model card: what a published model is, how it is used, what it was trained on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import ModelCardData

from ldm.diffusion.guidance import within
from ldm.models.networks import kind_of
from ldm.models.unet import parameter_count
from ldm.ports.model import Model
from ldm.settings.document import written
from pipelines.calls.defaults import Defaults, Guidance
from pipelines.runs.record import RunRecord

PICTURE = "samples.png"
_UNGUIDED = 1.000001  # at 1 a stock pipeline would not prepare the negative prompt
TAGS = ["text-to-image", "latent-diffusion", "diffusion"]


class Publishable(Protocol):
    """What a card says of a pipeline, and how it is written."""

    model: Model
    defaults: Defaults

    @property
    def factor(self) -> int: ...
    def settings(self) -> tuple[int, Guidance]: ...
    def latent_shape(self, height: None, width: None) -> tuple[int, int, int]: ...
    def save_pretrained(self, folder: Path) -> None: ...


def model_card(
    pipeline: Publishable,
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


def _example(pipeline: Publishable, run: RunRecord | None) -> str:
    """A prompt that the model understands."""
    words = pipeline.model.text.words
    if words is not None:
        return words[0] if words else ""
    prompts = run.config.sample.prompts if run is not None else ()
    return prompts[0] if prompts else "a red flower"


def _summary(pipeline: Publishable) -> str:
    _, rows, columns = shape = pipeline.latent_shape(None, None)
    words = pipeline.model.text.words
    takes = (
        "text prompts"
        if words is None
        else f"one of {len(words)} class names: {', '.join(words[:20])}"
        + (" and more" if len(words) > 20 else "")
        if words
        else "no prompt"
    )
    model = pipeline.model
    counts = {
        kind_of(model.network).name: parameter_count(model.network),
        "autoencoder": parameter_count(model.codec.module),
        "text encoder": parameter_count(model.text.encoder),
    }
    sizes = ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in counts.items())
    return (
        f"A latent diffusion model that makes {columns * pipeline.factor} x "
        f"{rows * pipeline.factor} pixel images through {' x '.join(map(str, shape))} latents. "
        f"It takes {takes}. Parameters: {sizes}. "
        f"It predicts {model.process.prediction_name} on a {model.process.schedule_name} schedule."
    )


def _usage(pipeline: Publishable, name: str, prompt: str) -> str:
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


def _stock_guidance(pipeline: Publishable) -> tuple[str, str]:
    """A callback's definition and the arguments for a stock pipeline, which knows no interval."""
    steps, guidance = pipeline.settings()
    asked = pipeline.model.process.asked(steps)  # a stock loop counts evaluations of the network
    inside = [k for k, level in enumerate(asked) if within(level, guidance.interval)]
    if guidance.scale <= 1 or len(inside) == len(asked):
        return "", f"guidance_scale={guidance.scale}"
    if not inside:
        return "", "guidance_scale=1.0"
    callback = f"""

def guide(pipe, step, t, kwargs):  # in some of these {steps} steps only
    inside = {inside[0]} <= step + 1 <= {inside[-1]}
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


_LIMITATIONS = """## Limitations

It knows what its training images and captions show, at its training resolution, and inherits their
gaps and biases. Prompts about anything else give something that resembles the training data. Long
prompts are cut at the text encoder's length. There is no safety filter."""
