"""`ldm compare`: runs side by side."""

from argparse import ArgumentParser, Namespace

from ldm.core.text import say
from ldm.settings.fields import place


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=place, nargs="+", metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("--out", type=place, metavar="FILE", default="compare.html")


def run(args: Namespace) -> None:
    """Lay runs side by side on one HTML page."""
    from pipelines.report.report import compare as write

    say(write(args.runs, args.out))
