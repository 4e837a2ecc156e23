"""`ldm inspect`: how far a run is."""

from argparse import ArgumentParser, Namespace

from ldm.core.text import say_table
from ldm.settings.fields import place
from pipelines.commands.arguments import picture


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("--out", type=picture, help="RUN/curves.png unless given")


def run(args: Namespace) -> None:
    """Say what a run trains, on what and how far it is, and draw its curves."""
    from pipelines.runs.record import RunRecord, describe, draw_curves

    run = RunRecord.read(args.run)
    rows = describe(run)
    if any(run.metrics.values()):
        rows["curves"] = str(draw_curves(run, args.out or run.folder / "curves.png"))
    elif run.metrics:
        rows["curves"] = f"none: {run.without_figures()}"
    say_table(rows)
