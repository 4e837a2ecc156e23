"""`ldm evaluate`: all figures of a model."""

from argparse import ArgumentParser, Namespace

from ldm.core.errors import UserError
from ldm.settings.fields import place
from pipelines.commands.loading import quiet_libraries


def arguments(parser: ArgumentParser) -> None:
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


def run(args: Namespace) -> None:
    """Measure a model: quality, adherence, likelihood, memorisation, and how best to sample it."""
    from pipelines.evaluation.evaluate import evaluate
    from pipelines.evaluation.parts.table import PARTS, USUAL
    from pipelines.evaluation.subject.amounts import Amounts

    quiet_libraries()
    only, skipped = (said.split(",") if said else [] for said in (args.only, args.skip))
    if unknown := [name for name in only + skipped if name not in PARTS]:
        raise UserError(f"{unknown[0]!r} is no part: there are {', '.join(PARTS)}")
    evaluate(
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
