"""Publish a pipeline: the stock folder, a picture, and a model card that says what it is."""

from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import cast

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ldm.core.errors import UserError
from ldm.core.files import write_text
from ldm.core.secrets import secret_in
from pipelines.calls.defaults import DEFAULTS_FILE
from pipelines.published.card import PICTURE, Publishable, model_card
from pipelines.runs.record import RunRecord

# what its client raises where nothing answers: httpx's or, of later releases, httpx2's
_TRANSPORT = cast(type[Exception], HfHubHTTPError.__bases__[0])


def push(
    pipeline: Publishable,
    name: str,
    *,
    run: RunRecord | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a latent diffusion pipeline",
    license: str | None = None,
) -> str:
    """Upload the pipeline with its card to the Hub as `name` or owner/name; returns its address.

    Raises UserError where the Hub refuses, or cannot be reached, and before anything is made there
    where what would be published holds a secret.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pipeline.save_pretrained(folder)
        if run is not None and run.samples is not None and run.ema_length is None:
            copyfile(run.samples, folder / PICTURE)
        _refuse_secrets(model_card(pipeline, name, run, license), folder / DEFAULTS_FILE)
        try:
            url = api.create_repo(name, private=private, exist_ok=True)
            card = model_card(pipeline, url.repo_id, run, license, (folder / PICTURE).exists())
            write_text(folder / "README.md", card)
            api.upload_folder(
                repo_id=url.repo_id, folder_path=folder, commit_message=commit_message
            )
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            hint = "; log in with `hf auth login`, or pass a token" if status in (401, 403) else ""
            raise UserError(f"the Hub refused {name!r}: {_first_line(error)}{hint}") from None
        except (HFValidationError, _TRANSPORT, OSError) as error:
            raise UserError(f"{name!r} cannot be published: {_first_line(error)}") from None
    return str(url)


def _refuse_secrets(card: str, *files: Path) -> None:
    """Raise UserError for a token or password in the card, or in a file that goes with it."""
    texts = {"the model card": card}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    for name, text in texts.items():
        if found := secret_in(text):
            raise UserError(
                f"{name} would publish {found}: take it out of the run's config.yaml, and have it "
                "replaced where it was issued"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
