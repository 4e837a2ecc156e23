"""`ldm data`: what a data set looks like."""

from argparse import ArgumentParser, Namespace

from ldm.core.files import refuse_unwritable
from ldm.core.text import say_table
from pipelines.commands.arguments import picture, positive


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data.source=FOLDER ...")
    parser.add_argument("--config", help="a YAML file, or a name such as flowers64")
    parser.add_argument("--out", type=picture, default="data.png")
    parser.add_argument("--n", type=positive, default=24, help="images to show")


def run(args: Namespace) -> None:
    """Show some images of a data set with their captions, and count the captions."""
    from pipelines.commands.look import draw_data, look_at

    refuse_unwritable(args.out)
    source, rows = look_at(args.config, args.overrides)
    rows["picture"] = str(draw_data(source, args.out, args.n))
    say_table(rows)
