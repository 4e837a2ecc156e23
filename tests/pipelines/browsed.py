"""What a browser has to say of a page: complaints, sizes, colours."""

import json
import re
import tempfile
from html import unescape
from pathlib import Path

from ldm.core.errors import UserError
from pipelines.report.browser import browse, browser

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


def inspect(page, width=1200, dark=False):
    """What a page is like in a window: complaints, widths, colours, sizes of its pictures.

    Raises UserError where there is no browser.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        # windows are at least 500 pixels wide; a page in a narrower root is laid out as a phone's
        root = f"<style>html {{ width: {width}px }}</style>"
        copy.write_text(page.read_text().replace("<head>", "<head>" + root + PROBE, 1))
        dom, log = browse(copy, width, 1000, dark, "--dump-dom")
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    if found is None:
        raise UserError(f"the browser {browser()} could not load {page}")
    told = json.loads(unescape(found.group(1)))
    told["complaints"] += re.findall(r"CONSOLE.*", log)
    return told
