"""`ldm push`: a run on the Hub."""

from argparse import ArgumentParser, Namespace

from ldm.core.errors import UserError
from ldm.core.text import say
from ldm.settings.fields import place
from pipelines.commands.loading import loaded


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=place, metavar="RUN", help="runs/NAME, or NAME")
    parser.add_argument("name", metavar="NAME", help="on the Hub: name, or owner/name")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--license", help="such as mit or cc-by-4.0; that of your images may bind")
    parser.add_argument("--message", help="of the commit")


def run(args: Namespace) -> None:
    """Publish a run's pipeline on the Hub, with a model card."""
    from pipelines.published.hub import push as push_to_hub
    from pipelines.runs.record import RunRecord

    run = RunRecord.read(args.run)
    if run.export is None:
        raise UserError(f"{run.folder} has no pipeline yet: train it to the end")
    pipe = loaded(str(run.export))
    message = args.message or f"Upload {run.config.name}, trained for {run.step('ldm')} steps"
    url = push_to_hub(
        pipe, args.name, run=run, private=args.private, license=args.license, commit_message=message
    )
    say(url)
