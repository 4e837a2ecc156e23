"""`ldm export`: a run's pipeline, anew."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ldm.core.text import say
from ldm.settings.fields import place
from pipelines.commands.arguments import number
from pipelines.commands.loading import quiet_libraries


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument(
        "--ema",
        type=number,
        required=True,
        metavar="LENGTH",
        help="over 0, at most 0.288: 0.1 is about the last tenth of the training",
    )
    parser.add_argument("--out", type=place, metavar="FOLDER", help="RUN/pipeline unless given")


def run(args: Namespace) -> None:
    """Write a run's pipeline folder again, with an average of the weights of another length."""
    from pipelines.averaged import average_applied

    quiet_libraries()
    folder = average_applied(args.run, args.ema, args.out and Path(args.out))
    say(f"{folder}: weights averaged over a relative length of {args.ema:g}")
