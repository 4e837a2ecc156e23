"""`ldm report`: a run as one page."""

from argparse import ArgumentParser, Namespace

from ldm.core.text import say
from ldm.settings.fields import place
from pipelines.commands.arguments import picture


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("--out", type=place, metavar="FILE", help="RUN/report.html unless given")
    parser.add_argument(
        "--screenshot", type=picture, metavar="FILE", help="a picture of its top, by Chromium"
    )


def run(args: Namespace) -> None:
    """Write a run's curves, samples and figures as one HTML page."""
    from pipelines.report.report import report as write

    page = write(args.run, args.out)
    say(page)
    if args.screenshot:
        from pipelines.report.browser import screenshot

        say(screenshot(page, args.screenshot))
