"""A headless browser, where there is one: what a page looks like."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from ldm.core.errors import UserError
from ldm.core.files import written

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def browse(page: Path, width: int, height: int, dark: bool, *options: str) -> tuple[str, str]:
    """What the browser prints and logs of a page. Raises UserError where there is none."""
    program = browser()
    if program is None:
        raise UserError(f"no browser to look at {page} with: install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=3000",
            *options,
            page.resolve().as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


def screenshot(
    page: Path, out: Path, width: int = 1200, height: int = 1600, dark: bool = False
) -> Path:
    """Write a picture of the top of a page, in the format that the name of `out` says.

    Raises UserError where there is no browser.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "page.png"
        browse(page, width, height, dark, f"--screenshot={raw}")
        if not raw.is_file():
            raise UserError(f"the browser {browser()} made no picture of {page}")
        with Image.open(raw, formats=("PNG",)) as picture, written(out) as file:
            picture.convert("RGB").save(file)
    return out
