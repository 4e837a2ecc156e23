"""A whole evaluation of a tiny run: repeatable, split over processes, and harmless in training."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from conftest import tiny_pipeline
from safetensors.torch import load_file
from small_evaluation import AMOUNTS, features_in, small, subject, trained_run

from ldm.core.errors import UserError
from ldm.core.share import Share
from ldm.core.sums import read_sealed
from ldm.evaluation.features.names import load_extractor
from ldm.evaluation.records import jsonable
from ldm.evaluation.sweep import Setting
from ldm.training.ema import EMA
from ldm.training.post_hoc_ema import reconstruct
from pipelines.averaged import average_applied
from pipelines.commands.main import main
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.parts.sweep import Sweep
from pipelines.evaluation.parts.table import PARTS, USUAL
from pipelines.evaluation.quality import Quality
from pipelines.evaluation.results import Results
from pipelines.evaluation.subject.amounts import Amounts
from pipelines.evaluation.subject.evaluated import open_evaluated
from pipelines.evaluation.subject.job import Job
from pipelines.published.card import model_card
from pipelines.runs.record import RunRecord, describe
from pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module", autouse=True)
def smaller():
    with small():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return features_in(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def results(run, features):
    folder = evaluate(str(run), AMOUNTS, features)
    return folder, read_sealed(folder / "results.json")


def test_one_command_gives_the_whole_table(results):
    folder, found = results
    assert set(found) >= set(USUAL) - {"clip"} and "diversity" not in found
    assert set(found["missing"]) == {"clip"}  # no weights on this machine, and it says so
    names = {m["name"] for m in found["metrics"]["samples"]}
    assert names >= {"fd", "kid", "cmmd", "precision", "recall", "density", "coverage"}
    for row in found["metrics"]["samples"]:
        assert row["low"] <= row["value"] <= row["high"] and row["n"] == 20
        assert "trained on nothing" in row["features"]
    assert len(found["levels"]["held_out"]["output"]["t"]) == 20
    assert len(found["sweep"]["points"]) == 4 and len(found["ema"]["lengths"]) == 1
    assert {"samples.png", "nearest.png", "loss_by_level.png", "results.txt"} <= {
        path.name for path in folder.iterdir()
    }
    text = (folder / "results.txt").read_text()
    assert "searched: 60 of 60 training images" in text
    for row in [*found["sweep"]["points"], *found["ema"]["lengths"]]:
        assert f"fd {row['figures'][0]['value']:.4g}  kid" in text
    times = json.loads((folder / "timing.json").read_text())
    assert set(times["predicted"]) == set(times["taken"]) == set(USUAL)


def test_results_are_read_back_as_what_they_were_and_so_are_those_of_older_versions(
    results, tmp_path
):
    folder, found = results
    now = Results.read(folder)
    now.write(tmp_path)
    for name in ("results.json", "results.txt"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    found = json.loads(json.dumps(found))
    found["levels"]["held out"] = found["levels"].pop("held_out")
    found["levels"]["held out, without EMA"] = found["levels"]["train"]
    found["adherence"]["text"] = "a table"
    for part, keys in {"memorisation": ("repeated", "leaked"), "sweep": ("left_out",)}.items():
        for key in keys:
            assert not found[part].pop(key)
    (tmp_path / "results.json").write_text(json.dumps(found))
    old = Results.read(tmp_path)
    levels = now.parts["levels"]
    raw = replace(levels, held_out_without_ema=levels.train)
    assert old == replace(now, parts=now.parts | {"levels": raw})


def test_a_second_evaluation_is_identical(results, run, features, tmp_path):
    folder, found = results
    parts = ["metrics", "adherence", "levels", "likelihood", "memorisation"]
    again = evaluate(str(run), AMOUNTS, features, parts=parts, out=str(tmp_path))
    results = json.loads((again / "results.json").read_text())
    for name in (*parts, "weights", "data", "amounts"):
        assert results[name] == found[name]
    for name in ("samples.png", "nearest.png"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_one_part_again_leaves_the_others_as_they_were(results, run, features):
    folder, found = results
    evaluate(str(run), AMOUNTS, features, parts=["levels"])
    assert read_sealed(folder / "results.json") == found
    times = json.loads((folder / "timing.json").read_text())
    assert set(times["taken"]) == {"levels"}


def together(world, work):
    """work(share) on `world` threads, each a process as far as Share can tell."""
    barrier, slots, found = threading.Barrier(world), [None] * world, [None] * world

    def gather(rank, mine):
        slots[rank] = mine
        barrier.wait()
        joined = [item for part in slots for item in part]
        barrier.wait()
        return joined

    def one(rank):
        found[rank] = work(Share(rank, world, lambda mine: gather(rank, mine)))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_number_of_processes_changes_nothing(features, tmp_path):
    subjects = [subject(folder=tmp_path / name) for name in ("alone", "first", "second")]
    extractor = load_extractor(features)

    def work(who, share):
        who.folder.mkdir()
        job = Job(replace(who, share=share), extractor, AMOUNTS)
        return [jsonable(PARTS[name].run(job)) for name in ("metrics", "levels", "likelihood")]

    alone = work(subjects[0], Share())
    for found in together(2, lambda share: work(subjects[1 + share.rank], share)):
        assert found == alone


@pytest.mark.slow
def test_two_real_processes_write_the_same_file(run, features, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    environment = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for world, out in ((1, one), (2, two)):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        evaluation = ["-m", "pipelines.commands.main", "evaluate", str(run), "--features", features]
        options = ["--samples", "20", "--sweep-samples", "20", "--skip", "clip", "--out", str(out)]
        command = [sys.executable, *launcher, *evaluation, *options]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.search(rf"processes +{world}\n", done.stdout), done.stdout
    assert (one / "results.json").read_bytes() == (two / "results.json").read_bytes()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("interval", [(0.0, 1e9), (0.4, 2.0)])
def test_the_cost_of_a_setting_is_what_the_network_does(sampler, guidance, interval, tmp_path):
    who = subject(folder=tmp_path)
    seen = []
    who.pipe.unet.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    setting = Setting(sampler, 4, guidance, interval)
    images = who.sample(["a red flower"] * 16, setting)
    assert images.shape == (16, 3, 16, 16) and images.dtype == torch.uint8
    assert sum(seen) == 16 * who.evaluations(setting)


def test_samples_are_those_of_the_pipeline_one_by_one(tmp_path):
    who = subject(folder=tmp_path)
    prompts = who.prompts(18)
    images = who.sample(prompts)
    assert not torch.equal(images[0], images[1])
    seeds = []
    pipe = who.pipe

    def record(prompt, **options):
        seeds.extend(options["seed"])
        return pipe(prompt, **options)

    who.pipe = type("Recorder", (), {"__call__": staticmethod(record), "settings": pipe.settings,
                                     "model": pipe.model})()  # fmt: skip
    who.sample(prompts)
    for i in (0, 17):
        one = pipe(prompts[i], seed=[seeds[i]], output_type="pt").images
        assert ((one * 255).round() - images[i].float()).abs().max() <= 1


def test_other_weights_are_in_place_within_the_block_only(tmp_path):
    who = subject(folder=tmp_path)
    before = {k: v.clone() for k, v in who.pipe.unet.state_dict().items()}
    other = {f"unet.{k}": v + 1 for k, v in before.items()}
    with who.weights(other):
        assert all(torch.equal(v, before[k] + 1) for k, v in who.pipe.unet.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in who.pipe.unet.state_dict().items())


def test_export_writes_the_average_that_was_asked_for(run, tmp_path):
    average_applied(run, 0.08, tmp_path)
    expected = reconstruct(run / "ldm" / "ema", 0.08)
    found = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in found.items():
        assert torch.equal(value, expected[f"unet.{name}"])


def test_an_exported_average_is_what_the_card_and_the_run_speak_of(run, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    pipe = tiny_pipeline(sampler="predictor_corrector")  # which stock diffusers does not have
    pipe.save_pretrained(copy / "pipeline", stock=False)
    before = model_card(pipe, "gardener/tiny", RunRecord.read(copy))
    assert "EMA 0.9" in before and "| validation/loss |" in before
    assert average_applied(copy, 0.08) == copy / "pipeline"
    assert "averaged over a relative length of 0.08" in describe(RunRecord.read(copy))["pipeline"]
    pipe = TextToImagePipeline.from_pretrained(copy)
    assert pipe.spec.sampler == "predictor_corrector"
    card = model_card(pipe, "gardener/tiny", RunRecord.read(copy))
    assert "weights averaged over a relative length of 0.08" in card
    assert "EMA 0.9" not in card and "| validation/loss |" not in card
    pipe.save_pretrained(copy / "pipeline", stock=False)  # as the end of a training does
    assert RunRecord.read(copy).ema_length is None


def test_a_run_is_the_same_by_any_of_its_names_and_another_model_is_not(
    results, run, features, monkeypatch
):
    folder, found = results
    (run.parent / "runs").symlink_to(run.parent)
    monkeypatch.chdir(run.parent)
    for name in ("tiny", "runs/tiny/", "runs/tiny/pipeline"):
        evaluate(name, AMOUNTS, features, parts=["levels"])
        now = read_sealed(folder / "results.json")
        assert now == found | {"model": name}
    shutil.copytree(run / "pipeline", run.parent / "elsewhere" / "tiny")
    with pytest.raises(UserError, match="runs/tiny is another run, so say with --out"):
        open_evaluated("elsewhere/tiny", data="drawn")


def test_a_sweep_leaves_out_what_the_schedule_has_no_steps_for(features, tmp_path):
    who = subject(folder=tmp_path)
    who.pipe.spec = replace(who.pipe.spec, grid="lcm", grid_args={"original": 10})
    job = Job(who, load_extractor(features), AMOUNTS)
    assert Sweep.cost(job).samples == 3 * AMOUNTS.sweep_samples
    found = Sweep.run(job)
    assert [p.setting.steps for p in found.points] == [1, 2, 2]
    assert found.left_out == ["dpmpp_2m 20 steps, guidance 1"]


def test_quality_in_training_leaves_the_training_as_it_is(features, tmp_path):
    """Weights, optimizer and torch's generator are bitwise equal with and without it."""

    def train(evaluating):
        torch.manual_seed(0)
        who = subject()
        unet = who.pipe.unet.train()
        for module in unet.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        optimizer = torch.optim.AdamW(unet.parameters(), 1e-3)
        ema = EMA(unet, 0.9)
        quality = None
        if evaluating:
            quality = Quality(who.model, who.pipe.defaults, who.sources, tmp_path, 16, features)
        for step in range(3):
            x, t = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 500.0])
            loss = unet(x, t, torch.randn(2, 5, 32)).sample.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(step + 1)
            if quality is not None:
                with ema.applied():
                    figures = quality()
                assert figures.keys() >= {"quality/fd", "quality/kid", "quality/adherence"}
                assert unet.training and all(p.requires_grad for p in unet.parameters())
        moments = [s["exp_avg"] for s in optimizer.state_dict()["state"].values()]
        return [*unet.state_dict().values(), *moments, torch.random.get_rng_state()]

    plain, evaluated = train(False), train(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, evaluated, strict=True))


def test_the_commands_do_what_they_say(run, features, tmp_path, capsys):
    options = ["--samples", "20", "--features", features, "--only", "adherence"]
    assert main(["evaluate", str(run), *options, "--out", str(tmp_path / "e")]) == 0
    said = capsys.readouterr().out
    assert "colour" in said and "of what was said" in said
    assert "adherence" in json.loads((tmp_path / "e" / "results.json").read_text())
    assert main(["export", str(run), "--ema", "0.1", "--out", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p" / "model_index.json").is_file()
    assert main(["export", str(run), "--ema", "0.9", "--out", str(tmp_path / "p")]) == 2
    for option in ("--skip", "--only"):
        assert main(["evaluate", str(run), option, "everything"]) == 2
        assert "'everything' is no part" in capsys.readouterr().err


def test_mistakes_end_in_a_sentence(run, tmp_path):
    with pytest.raises(UserError, match="unknown part"):
        evaluate(str(run), parts=["fid"])
    with pytest.raises(UserError, match="at least 20 samples"):
        evaluate(str(run), Amounts(samples=5))
    with pytest.raises(UserError, match="--data"):
        open_evaluated(str(run / "pipeline" / "unet" / ".."))
    with pytest.raises(UserError, match="inception are named, and others would be trained"):
        evaluate(str(run), features="inception", train=True, out=str(tmp_path))
    with pytest.raises(UserError, match="nowhere"):
        evaluate("nowhere", data="drawn", out=str(tmp_path))
