"""The sampler that CONTRIBUTING shows how to add, added: nothing but its entry knows its name."""

import re
from pathlib import Path

import torch
from conftest import tiny_pipeline

from ldm.diffusion.exact import as_network, mixture
from ldm.diffusion.guidance import within
from ldm.diffusion.samplers import SAMPLERS, Sampler
from ldm.evaluation.sweep import Setting
from pipelines.calls.defaults import StockDefaults
from pipelines.evaluation.subject.evaluated import Evaluated
from pipelines.published.card import model_card

STEPS, INTERVAL = 8, (0.3, 4.0)


def test_the_sampler_of_the_contributing_page_works_everywhere(monkeypatch, tmp_path):
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = next(c for c in re.findall(r"```python\n(.*?)```", page, re.S) if "def restart(" in c)
    exec(code, scope := {"Sampler": Sampler})
    entry = re.search(r'`"restart": (.*),`', page)[1]
    monkeypatch.setitem(SAMPLERS, "restart", eval(entry, scope))

    pipe = tiny_pipeline(sampler="restart", sampler_args={"back": 2})
    x, *z, points = torch.randn(5, 3, 4, 2, 2, dtype=torch.float64)
    perfect, asked = as_network(mixture(points), pipe.spec.prediction), []

    def network(x, level):
        asked.append(level)
        return perfect(x, level)

    *_, (x, _, _) = pipe.spec.sample(network, x, STEPS, noise=lambda i: z[i])
    assert torch.cdist(x.flatten(1), points.flatten(1)).min(1).values.max() < 1e-3
    assert len(asked) == STEPS + 2 * 2  # two rounds of two steps
    assert [float(a.t) for a in asked] == [float(a.t) for a in pipe.spec.asked(STEPS)]

    def latents(**options):
        return pipe("a rose", STEPS, seed=0, output_type="latent", **options).images

    assert torch.equal(latents(), latents())
    assert not torch.equal(latents(), latents(sampler="ddim"))

    who = Evaluated(pipe, {}, 16, tmp_path)
    assert who.evaluations(Setting("restart", STEPS, 1.0)) == len(asked)
    inside = [within(level, INTERVAL) for level in asked]
    assert who.evaluations(Setting("restart", STEPS, 3.0, INTERVAL)) == len(asked) + sum(inside)

    pipe.defaults = StockDefaults(STEPS, 5.0, INTERVAL)
    (guided,) = re.findall(r"inside = (\d+) <= step \+ 1 <= (\d+)", model_card(pipe, "me/flowers"))
    first, last = inside.index(True), len(inside) - 1 - inside[::-1].index(True)
    assert tuple(map(int, guided)) == (first, last)
