"""The `ldm` command: generate, push, inspect, explain and look at data.

Each command is a function of the parsed arguments, its help is the docstring, and it imports what
it needs when it runs, so that `ldm --help` answers at once. More commands: more rows of COMMANDS.
"""

import ldm.core.interrupts  # noqa: F401 - what comes after takes its time

# isort: split

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ldm.core.errors import UserError, exits_with_a_sentence
from ldm.core.files import refuse_unwritable, written
from ldm.core.text import clean, say, shown
from ldm.settings.fields import place
from pipelines.commands import evaluation
from pipelines.commands.arguments import number, picture, picture_or_folder, positive

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

BATCH = 8  # images sampled at once: an image does not depend on it


def generate(args: Namespace) -> None:
    """Sample images from prompts into a PNG, or into a folder of them."""
    import random

    from pipelines.many import many
    from pipelines.sheets.grid import captioned_grid

    out = args.out
    refuse_unwritable(out if out.suffix else out / "0000.png")
    pipe = _pipeline(args.model, args.dtype, args.variant)
    seed = random.randrange(2**31) if args.seed is None else args.seed
    prompts = [clean(prompt) for prompt in args.prompts or [""] for _ in range(args.n)]
    images = many(
        pipe,
        prompts,
        seed,
        BATCH,
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        guidance_interval=args.guidance_interval,
        sampler=args.sampler,
        height=args.height,
        width=args.width,
    )
    if not out.suffix:
        pictures = {out / f"{index:04d}.png": image for index, image in enumerate(images)}
    elif len(images) == 1:
        pictures = {out: images[0]}
    else:
        rows = [(prompts[i], images[i : i + args.n]) for i in range(0, len(images), args.n)]
        pictures = {out: captioned_grid(rows)}
    for path, image in pictures.items():
        with written(path) as file:
            image.save(file)
    say(f"{out}: {len(images)} image{'s' * (len(images) > 1)}, seed {seed}")


def _generate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    parser.add_argument("--model", type=place, required=True, metavar="RUN_OR_NAME", help=_MODEL)
    parser.add_argument(
        "--out", type=picture_or_folder, default="out.png", help="a picture, or a folder of them"
    )
    parser.add_argument("--n", type=positive, default=1, help="images for each prompt")
    parser.add_argument("--seed", type=int, help="of the first image; the next has seed + 1")
    parser.add_argument("--steps", type=positive, help="as in the model's folder unless given")
    parser.add_argument("--guidance-scale", type=number, help="1 or less turns guidance off")
    parser.add_argument(
        "--guidance-interval", type=number, nargs=2, metavar=("LOW", "HIGH"), help="of σ/α"
    )
    parser.add_argument("--sampler", help="ddim, ddpm, euler, dpmpp_2m, dpmpp_2m_sde ...")
    parser.add_argument("--negative-prompt", metavar="TEXT")
    parser.add_argument("--height", type=positive, metavar="PIXELS")
    parser.add_argument("--width", type=positive, metavar="PIXELS")
    parser.add_argument("--variant", help="of its weights, such as fp16")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def adherence(args: Namespace) -> None:
    """Measure how often a model's flowers have the colour that the prompt asks for."""
    from ldm.evaluation.adherence import table
    from pipelines.evaluation.adherence import PROMPTS, measure_adherence
    from pipelines.runs.record import RunRecord

    run = RunRecord.read(args.run)
    if run.export is None:
        raise UserError(f"{run.folder} has no pipeline yet: train it to the end, or export it")
    pipe = _pipeline(str(run.export))
    rows = measure_adherence(
        pipe, run.folder, args.prompts or PROMPTS, count=args.n, measure=args.measure
    )
    say(table(rows))
    _print_table({"picture": str(run.folder / "adherence.png"), "pipeline": str(run.export)})


def _adherence_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    parser.add_argument("--n", type=positive, default=100, help="images for each prompt")
    parser.add_argument(
        "--measure",
        default="colour",
        choices=("colour", "count", "bloom"),
        help="petal colour or count of drawn flowers, or the colour of a photographed bloom",
    )


def push(args: Namespace) -> None:
    """Publish a run's pipeline on the Hub, with a model card."""
    from pipelines.published.hub import push as push_to_hub
    from pipelines.runs.record import RunRecord

    run = RunRecord.read(args.run)
    if run.export is None:
        raise UserError(f"{run.folder} has no pipeline yet: train it to the end, or export it")
    pipe = _pipeline(str(run.export))
    message = args.message or f"Upload {run.config.name}, trained for {run.step('ldm')} steps"
    url = push_to_hub(
        pipe, args.name, run=run, private=args.private, license=args.license, commit_message=message
    )
    say(url)


def _push_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("name", metavar="NAME", help="on the Hub: name, or owner/name")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--license", help="such as mit or cc-by-4.0; that of your images may bind")
    parser.add_argument("--message", help="of the commit")


def inspect(args: Namespace) -> None:
    """Say what a run trains, on what and how far it is, and draw its curves."""
    from pipelines.runs.record import RunRecord, describe, draw_curves

    run = RunRecord.read(args.run)
    rows = describe(run)
    if any(run.metrics.values()):
        rows["curves"] = str(draw_curves(run, args.out or run.folder / "curves.png"))
    elif run.metrics:
        rows["curves"] = f"none: {run.without_figures()}"
    _print_table(rows)


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("--out", type=picture, help="RUN/curves.png unless given")


def data(args: Namespace) -> None:
    """Show some images of a data set with their captions, and count the captions."""
    from pipelines.commands.look import draw_data, look_at

    refuse_unwritable(args.out)
    source, rows = look_at(args.config, args.overrides)
    rows["picture"] = str(draw_data(source, args.out, args.n))
    _print_table(rows)


def _data_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data.source=FOLDER ...")
    parser.add_argument("--config", help="a YAML file, such as configs/flowers64.yaml")
    parser.add_argument("--out", type=picture, default="data.png")
    parser.add_argument("--n", type=positive, default=24, help="images to show")


def explain(args: Namespace) -> None:
    """Draw how one image comes to be, step by step."""
    from pipelines.explained.explain import explain as draw

    say(draw(Path(args.out), args.model, args.prompt))


def _explain_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", default="a red flower", metavar="PROMPT")
    parser.add_argument("--model", type=place, metavar="RUN_OR_NAME", help=_MODEL)
    parser.add_argument("--out", type=place, default="explained")


class Command(NamedTuple):
    run: Callable[[Namespace], None]
    arguments: Callable[[ArgumentParser], None]


COMMANDS = {
    "generate": Command(generate, _generate_arguments),
    "evaluate": Command(evaluation.evaluate, evaluation.evaluate_arguments),
    "report": Command(evaluation.report, evaluation.report_arguments),
    "compare": Command(evaluation.compare, evaluation.compare_arguments),
    "export": Command(evaluation.export, evaluation.export_arguments),
    "adherence": Command(adherence, _adherence_arguments),
    "inspect": Command(inspect, _inspect_arguments),
    "data": Command(data, _data_arguments),
    "explain": Command(explain, _explain_arguments),
    "push": Command(push, _push_arguments),
}

_MODEL = "runs/NAME, a pipeline folder, or a name on the Hub"


@exits_with_a_sentence
def main(arguments: list[str] | None = None) -> None:
    """The `ldm` command; `arguments` are those of the command line unless given."""
    parser = ArgumentParser(
        "ldm", description="Sample, inspect and publish latent diffusion models."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        about = str(command.run.__doc__)
        sub = commands.add_parser(name, help=about.rstrip("."), description=about)
        command.arguments(sub)
        sub.set_defaults(command=command.run)
    args = parser.parse_args(arguments)
    args.command(args)


def _pipeline(
    model: str, dtype: str = "float32", variant: str | None = None
) -> "TextToImagePipeline":
    """Load a model onto the GPU where there is one, without the libraries' loading bars."""
    import torch

    from pipelines.commands.quiet import quiet_libraries
    from pipelines.text_to_image import TextToImagePipeline

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path("runs") / model
    name = folder if (folder / "pipeline").is_dir() else model
    return TextToImagePipeline.from_pretrained(
        name, dtype=getattr(torch, dtype), device=device, variant=variant
    )


def _print_table(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for key, value in rows.items():
        say(f"{key:<{width}}  {shown(value)}")


if __name__ == "__main__":
    raise SystemExit(main())
