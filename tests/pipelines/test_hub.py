"""A model goes up to the Hub with its card and comes down again the same, over real HTTP."""

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import yaml
from conftest import generator, quiet, tiny_pipeline, write_run
from fake_hub import FakeHub
from huggingface_hub import HfApi

from ldm.config import load_config
from ldm.core.errors import UserError
from pipelines.calls.defaults import StockDefaults
from pipelines.published.card import model_card
from pipelines.published.hub import push
from pipelines.runs.record import RunRecord
from pipelines.text_to_image import TextToImagePipeline

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return RunRecord.read(write_run(tmp_path_factory.mktemp("runs")))


def front_matter(card):
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), body


SCRIPT = """
    import sys, numpy
    from conftest import generator, quiet
    from autoencoder.model import load_autoencoder
    from diffusers import DiffusionPipeline
    from ldm.conditions.conditioner import build_conditioner
    from ldm.config import ConditioningConfig
    from ldm.models.unet import build_unet
    from ldm.core.errors import UserError
    from pipelines import TextToImagePipeline
    from pipelines.commands.main import main

    run, out = sys.argv[1:]
    assert main(["push", run, "tiny-flowers", "--license", "mit", "--private"]) == 0
    pipe = quiet(TextToImagePipeline.from_pretrained(run))
    pipe.push_to_hub("team/plain", commit_message="plain")
    for name, token in (("mine", "hf_wrong"), ("not a name!", None)):
        try:
            pipe.push_to_hub(name, token=token)
        except UserError as error:
            print(error)

    name = "gardener/tiny-flowers"  # each part of a published pipeline is found by its name
    conditioner = build_conditioner(ConditioningConfig("clip", path=name))
    unet = build_unet(
        {"init": name}, sample_size=8, in_channels=4, out_channels=4,
        cross_attention_dim=conditioner.context_dim,
    )
    for mine, theirs in (
        (pipe.unet, unet), (pipe.vae, load_autoencoder(name)),
        (pipe.text_encoder, conditioner.encoder),
    ):
        weights = theirs.state_dict()
        assert all(weights[k].equal(v) for k, v in mine.state_dict().items())

    call = dict(num_inference_steps=5, guidance_scale=3.0, output_type="np")
    stock = quiet(DiffusionPipeline.from_pretrained("gardener/tiny-flowers"))
    numpy.save(out + "/stock.npy", stock("a red flower", generator=generator(0), **call).images)
    for name in ("gardener/tiny-flowers", "team/plain", "gardener/absent"):
        try:
            ours = quiet(TextToImagePipeline.from_pretrained(name))
        except UserError as error:
            print(error)
            continue
        assert ours.defaults.num_inference_steps == 5, ours.defaults
        images = ours("a red flower", generator=generator(0), output_type="np").images
        numpy.save(out + "/" + name.replace("/", " ") + ".npy", images)
"""


def test_round_trip_up_and_down_and_what_the_hub_refuses(tmp_path, run):
    # in a process of its own, because the Hub's address is read when huggingface_hub is imported
    with FakeHub() as hub:
        environment = os.environ | hub.environment(tmp_path / "cache") | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", dedent(SCRIPT), run.folder, tmp_path]
        done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        url, refused, misnamed, absent = done.stdout.splitlines()
        assert url == f"{hub.url}/gardener/tiny-flowers"
        assert "the Hub refused 'mine'" in refused and "hf auth login" in refused
        assert "'not a name!' cannot be published" in misnamed
        assert "gardener/absent cannot be loaded: 404" in absent
        assert set(hub.repositories) == {"gardener/tiny-flowers", "team/plain"}
        assert hub.private == {"gardener/tiny-flowers"}

        files = hub.repositories["gardener/tiny-flowers"]
        assert {"README.md", "samples.png", "model_index.json", "ldm.json"} <= set(files)
        assert files["samples.png"] == run.samples.read_bytes()
        assert "samples.png" not in hub.repositories["team/plain"]
    data, body = front_matter(files["README.md"].decode())
    assert data["license"] == "mit" and data["library_name"] == "diffusers"
    assert 'DiffusionPipeline.from_pretrained("gardener/tiny-flowers")' in body
    call = {"generator": generator(0), "output_type": "np"}
    expected = tiny_pipeline()("a red flower", **call).images
    for name in ("stock", "gardener tiny-flowers", "team plain"):
        assert np.abs(np.load(tmp_path / f"{name}.npy") - expected).max() < 1e-4


def test_a_hub_that_does_not_answer_is_said_in_a_sentence(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("pipelines.published.hub.HfApi", partial(HfApi, endpoint=endpoint))
    with pytest.raises(UserError, match=r"'gardener/tiny' cannot be published: .*refused"):
        tiny_pipeline("none").push_to_hub("gardener/tiny", token="hf_any")


def test_a_secret_is_not_published_nor_anything_made_on_the_hub(run, monkeypatch):
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: pytest.fail("made a repository"))
    secret = "hf_" + "aB3dE6gH9j" * 4
    data = replace(run.config.data, caption=secret)
    leaky = replace(run, config=replace(run.config, data=data))
    with pytest.raises(UserError, match="model card would publish a Hugging Face token") as told:
        push(tiny_pipeline("none"), "name", run=leaky)
    assert secret not in str(told.value)


def test_a_reference_to_the_environment_is_published_as_it_stands(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "what nobody guesses")
    config = load_config(overrides=["data.caption=${oc.env:HF_TOKEN}"])
    card = model_card(tiny_pipeline("none"), "name", replace(run, config=config))
    assert "${oc.env:HF_TOKEN}" in card and "what nobody guesses" not in card


def test_the_card_says_what_the_model_is_and_how_it_was_trained(run):
    card = model_card(tiny_pipeline(), "gardener/tiny", run, license="mit", picture=True)
    data, body = front_matter(card)
    assert data["pipeline_tag"] == "text-to-image" and "latent-diffusion" in data["tags"]
    assert "16 x 16 pixel images through 4 x 8 x 8 latents" in body
    assert "![Samples" in body and "## Limitations" in body
    assert "num_inference_steps=5, guidance_scale=3.0" in body
    assert "20 of 40 steps" in body and "| validation/loss | 0.25 |" in body
    configuration = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert configuration["diffusion"]["prediction"] == "v"


def test_a_card_without_a_run_claims_nothing_about_training(run):
    data, body = front_matter(model_card(tiny_pipeline("class"), "gardener/tiny"))
    assert "license" not in data
    assert "one of 3 class names: daisy, oxeye daisy, rose" in body and 'pipe("daisy"' in body
    assert "## Training" not in body and "![" not in body


def test_the_card_does_not_publish_where_the_data_lies(run, tmp_path):
    photos = tmp_path / "home" / "photos"
    photos.mkdir(parents=True)
    config = replace(
        run.config,
        data=replace(run.config.data, source=str(photos)),
        conditioning=replace(run.config.conditioning, path=str(tmp_path / "clip")),
        autoencoder=replace(run.config.autoencoder, features=f"trained:{tmp_path}/features"),
    )
    card = model_card(tiny_pipeline(), "gardener/tiny", replace(run, config=config))
    assert "a local data set, `photos`" in card
    assert "path: clip\n" in card and "features: trained:features\n" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    "interval",
    [
        (0.2, 3.0),
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in [(0.0, 4.0), (0.3, math.inf), (50.0, 60.0)]
        ),
    ],
)
@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddim", 10), ("heun", 7), ("dpmpp_2m", 7), ("euler", 11)]
)
def test_the_cards_stock_code_guides_between_the_same_levels(tmp_path, interval, sampler, steps):
    pipe = tiny_pipeline(sampler=sampler)
    pipe.defaults = StockDefaults(steps, 5.0, interval)
    pipe.save_pretrained(tmp_path)
    again = quiet(TextToImagePipeline.from_pretrained(tmp_path))
    call = {"generator": generator(0), "output_type": "np"}
    ours = again("a red flower", **call).images[0]
    everywhere = again("a red flower", guidance_interval=(0, math.inf), **call).images[0]
    assert np.abs(ours - everywhere).max() > 1e-3
    code = model_card(pipe, str(tmp_path)).split("```python\n")[1].split("```")[0]
    scope = {"call": call | {"generator": generator(0)}}
    exec(code.replace(").images", ", **call).images"), scope)
    assert np.abs(scope["image"] - ours).max() < 2e-4


def test_quotes_in_a_prompt_do_not_break_the_example(run):
    prompt = 'a "red" flower \\ é'
    sample = replace(run.config.sample, prompts=(prompt,))
    card = model_card(
        tiny_pipeline(), "g/t", replace(run, config=replace(run.config, sample=sample))
    )
    line = next(line for line in card.splitlines() if line.startswith("image = pipe("))
    text = line.removeprefix("image = pipe(").split(", num_inference")[0]
    assert json.loads(text) == prompt and eval(text) == prompt
