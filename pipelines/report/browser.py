"""A headless browser, where there is one: what a page looks like, and whether it complains."""

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.core.errors import UserError
from ldm.core.files import written

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Collected from the first moment on, and left in the document when everything has loaded.
PROBE = """<script>
const complaints = [];
addEventListener('error', e => complaints.push(String(e.message || e.target.src)), true);
addEventListener('load', () => {
  const shown = document.createElement('pre'), body = document.body;
  const style = getComputedStyle(body), charts = [...document.querySelectorAll('svg[role=img]')];
  shown.id = 'probe';
  shown.textContent = JSON.stringify({
    complaints, width: body.clientWidth, needed: body.scrollWidth,
    background: style.backgroundColor, ink: style.color,
    pictures: [...document.images].map(i => [i.alt, i.naturalWidth, i.naturalHeight]),
    charts: charts.map(chart => chart.getBoundingClientRect().width),
  });
  body.append(shown);
});
</script>"""


def browser() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _run(page: Path, width: int, height: int, dark: bool, *options: str) -> tuple[str, str]:
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
        _run(page, width, height, dark, f"--screenshot={raw}")
        if not raw.is_file():
            raise UserError(f"the browser {browser()} made no picture of {page}")
        with Image.open(raw, formats=("PNG",)) as picture, written(out) as file:
            picture.convert("RGB").save(file)
    return out


def inspect(page: Path, width: int = 1200, dark: bool = False) -> dict[str, Any]:
    """What a page is like in a window: complaints, widths, colours, sizes of its pictures.

    Raises UserError where there is no browser.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        # windows are at least 500 pixels wide; a page in a narrower root is laid out as a phone's
        root = f"<style>html {{ width: {width}px }}</style>"
        copy.write_text(page.read_text().replace("<head>", "<head>" + root + PROBE, 1))
        dom, log = _run(copy, width, 1000, dark, "--dump-dom")
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    if found is None:
        raise UserError(f"the browser {browser()} could not load {page}")
    told = json.loads(unescape(found.group(1)))
    told["complaints"] += re.findall(r"CONSOLE.*", log)
    return told
