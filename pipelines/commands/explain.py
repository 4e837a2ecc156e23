"""`ldm explain`: one image, step by step."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ldm.core.text import say
from ldm.settings.fields import place
from pipelines.commands.loading import MODEL


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", default="a red flower", metavar="PROMPT")
    parser.add_argument("--model", type=place, metavar="RUN_OR_NAME", help=MODEL)
    parser.add_argument("--out", type=place, default="explained")


def run(args: Namespace) -> None:
    """Draw how one image comes to be, step by step."""
    from pipelines.explained.explain import explain as draw

    say(draw(Path(args.out), args.model, args.prompt))
