"""`ldm adherence`: whether flowers have the colour that was asked for."""

from argparse import ArgumentParser, Namespace

from ldm.core.errors import UserError
from ldm.core.text import say, say_table
from ldm.settings.fields import place
from pipelines.commands.arguments import number, positive
from pipelines.commands.loading import loaded


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    parser.add_argument("--n", type=positive, default=100, help="images for each prompt")
    parser.add_argument(
        "--guidance-scale", type=number, help="as in the model's folder unless given"
    )
    parser.add_argument(
        "--measure",
        default="colour",
        choices=("colour", "count", "bloom"),
        help="petal colour or count of drawn flowers, or the colour of a photographed bloom",
    )


def run(args: Namespace) -> None:
    """Measure how often a model's flowers have the colour that the prompt asks for."""
    from ldm.evaluation.adherence import table
    from pipelines.evaluation.adherence import PROMPTS, measure_adherence
    from pipelines.runs.record import RunRecord

    run = RunRecord.read(args.run)
    if run.export is None:
        raise UserError(f"{run.folder} has no pipeline yet: train it to the end")
    pipe = loaded(str(run.export))
    rows = measure_adherence(
        pipe,
        run.folder,
        args.prompts or PROMPTS,
        count=args.n,
        measure=args.measure,
        guidance_scale=args.guidance_scale,
    )
    say(table(rows))
    say_table({"picture": str(run.folder / "adherence.png"), "pipeline": str(run.export)})
