"""The local copy of what a name on the Hub has."""

from collections.abc import Sequence
from pathlib import Path
from posixpath import dirname
from typing import Any, cast

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from ldm.core.errors import UserError
from ldm.models.weights import belongs, chosen, variants

# what the Hub's client raises where nothing answers: httpx's or, of later releases, httpx2's
TRANSPORT = cast(type[Exception], HfHubHTTPError.__bases__[0])


def fetched(
    name: str,
    folders: Sequence[str],
    variant: str | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    **options: Any,
) -> Path:
    """Fetch the `folders` of a Hub repository ("" is its own files); returns their place here.

    Of the weights, one variant of each folder; nothing else than descriptions and safetensors.
    `options` are snapshot_download's. Raises UserError where that cannot be.
    """
    try:
        try:
            files = HfApi(token=token).list_repo_files(name, revision=revision)
            wanted = _wanted(name, files, folders, variant)
        except (OfflineModeIsEnabled, TRANSPORT) as error:
            if isinstance(error, HfHubHTTPError):
                raise
            options, wanted = options | {"local_files_only": True}, None
        return Path(
            snapshot_download(
                name, allow_patterns=wanted, revision=revision, token=token, **options
            )
        )
    except LocalEntryNotFoundError:
        raise UserError(
            f"{name} cannot be loaded: it is no folder here, and the Hub cannot be reached"
        ) from None
    except (HfHubHTTPError, HFValidationError, TRANSPORT, OSError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{name} cannot be loaded: {reason}") from None


def _wanted(
    name: str, files: Sequence[str], folders: Sequence[str], variant: str | None
) -> list[str]:
    wanted = []
    inside = {f: {p[len(f) :].lstrip("/"): p for p in files if dirname(p) == f} for f in folders}
    anywhere = variant is not None and any(variant in variants(i) for i in inside.values())
    if not any(variants(here) for here in inside.values()):
        chosen(name, [path for here in inside.values() for path in here.values()], None)  # refuses
    for folder, here in inside.items():
        pick = None
        if variants(here):
            asked = variant if variant in variants(here) or not anywhere else None
            pick = chosen(f"{name}/{folder}".rstrip("/"), list(here), asked)
        wanted += [path for base, path in here.items() if belongs(base, pick)]
    return wanted
