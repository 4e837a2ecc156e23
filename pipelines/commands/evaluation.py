"""The commands around an evaluation: evaluate, report, compare and export."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ldm.core.errors import UserError
from ldm.core.text import say
from ldm.settings.fields import place
from pipelines.commands.arguments import number, picture


def evaluate(args: Namespace) -> None:
    """Measure a model: quality, adherence, likelihood, memorisation, and how best to sample it."""
    from pipelines.commands.quiet import quiet_libraries
    from pipelines.evaluation.evaluate import evaluate as run
    from pipelines.evaluation.parts.table import PARTS, USUAL
    from pipelines.evaluation.subject.amounts import Amounts

    quiet_libraries()
    only, skipped = (said.split(",") if said else [] for said in (args.only, args.skip))
    if unknown := [name for name in only + skipped if name not in PARTS]:
        raise UserError(f"{unknown[0]!r} is no part: there are {', '.join(PARTS)}")
    run(
        args.model,
        Amounts(args.samples, args.sweep, args.sweep_samples),
        args.features,
        args.train_features,
        [part for part in PARTS if part in (only or USUAL) and part not in skipped],
        args.data,
        args.caption,
        args.clip,
        args.seed,
        args.out,
    )


def evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=place, metavar="RUN_OR_NAME")
    parser.add_argument(
        "--data", type=place, help="a folder, file or Hub name; a run's own data unless given"
    )
    parser.add_argument("--caption", metavar="COLUMN", help="of captions, where it is not found")
    parser.add_argument("--samples", type=int, default=500, metavar="N")
    parser.add_argument(
        "--features",
        type=place,
        metavar="KIND[:WHERE]",
        help="inception, dinov2, clip, open_clip or trained, and a local folder or name",
    )
    parser.add_argument(
        "--train-features",
        action="store_true",
        help="train a small feature network on the data itself first, where there is none yet",
    )
    parser.add_argument(
        "--clip", type=place, metavar="WHERE", help="open_clip MODEL/WEIGHTS or a folder"
    )
    parser.add_argument("--sweep", choices=("quick", "full", "none"), default="quick")
    parser.add_argument("--sweep-samples", type=int, default=100, metavar="N")
    parser.add_argument("--skip", metavar="PART,PART", help="such as likelihood,sweep")
    parser.add_argument(
        "--only", metavar="PART,PART", help="such as diversity, which is left out otherwise"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=place, metavar="FOLDER", help="RUN/evaluation unless given")


def report(args: Namespace) -> None:
    """Write a run's curves, samples and figures as one HTML page."""
    from pipelines.report.report import report as write

    page = write(args.run, args.out)
    say(page)
    if args.screenshot:
        from pipelines.report.browser import screenshot

        say(screenshot(page, args.screenshot))


def report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("--out", type=place, metavar="FILE", help="RUN/report.html unless given")
    parser.add_argument(
        "--screenshot", type=picture, metavar="FILE", help="a picture of its top, by Chromium"
    )


def compare(args: Namespace) -> None:
    """Lay runs side by side on one HTML page."""
    from pipelines.report.report import compare as write

    say(write(args.runs, args.out))


def compare_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=place, nargs="+", metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("--out", type=place, metavar="FILE", default="compare.html")


def export(args: Namespace) -> None:
    """Write a run's pipeline folder again, with an average of the weights of another length."""
    from pipelines.averaged import average_applied
    from pipelines.commands.quiet import quiet_libraries

    quiet_libraries()
    folder = average_applied(args.run, args.ema, args.out and Path(args.out))
    say(f"{folder}: weights averaged over a relative length of {args.ema:g}")


def export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument(
        "--ema",
        type=number,
        required=True,
        metavar="LENGTH",
        help="over 0, at most 0.288: 0.1 is about the last tenth of the training",
    )
    parser.add_argument("--out", type=place, metavar="FOLDER", help="RUN/pipeline unless given")
