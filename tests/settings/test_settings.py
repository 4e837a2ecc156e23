"""What a config says is what was written, or one sentence that names the key."""

import math
import os
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ldm.conditions.conditioner import CONDITIONERS
from ldm.config import Config, SampleConfig, load_config, save_config
from ldm.core.errors import UserError
from ldm.settings.document import EMPTY, written
from ldm.settings.fields import Name, Place, Range, bare, hints, optional, place
from ldm.settings.reading import built, from_yaml, known_keys

KEYS = [key for key in known_keys(Config)]


def hint_of(key: str) -> Any:
    hint = Config
    for part in key.split("."):
        hint = hints(hint)[part]
    return hint


def value_of(config: Config, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


LEAVES = [key for key in KEYS if not is_dataclass(hint_of(key))]
TEXTS = [k for k in LEAVES if bare(hint_of(k)) == (str, [])]


def read_back(config: Config) -> Config:
    return built(Config, from_yaml(Config, written(asdict(config)), "it"))


def read(text: str, *overrides: str) -> Config:
    return load_config(CONFIG.write(text), overrides)


class CONFIG:
    path: Path

    @classmethod
    def write(cls, text: str | bytes) -> Path:
        cls.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return cls.path


@pytest.fixture(autouse=True, scope="module")
def _config(tmp_path_factory):
    CONFIG.path = tmp_path_factory.mktemp("configs") / "c.yaml"


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("data.source=/x/set #1", "data.source", "/x/set #1"),
        ("name=no", "name", "no"),
        ("name=007", "name", "007"),
        ("name=1e3", "name", "1e3"),
        ("name=null", "name", "null"),
        ("data.caption=a: b", "data.caption", "a: b"),
        ("data.caption=key=value", "data.caption", "key=value"),
        ("data.caption='x\"", "data.caption", "'x\""),
        ("data.caption=${x}", "data.caption", "${x}"),
        ("data.caption={a: b}", "data.caption", "{a: b}"),
        ("data.caption=[1]", "data.caption", "[1]"),
        ("data.caption=0.10", "data.caption", "0.10"),
        ("data.caption= x ", "data.caption", " x "),
        ("data.caption=null", "data.caption", None),
        ("data.caption=", "data.caption", None),
        ("data.size=None", "data.size", None),
        ("sample.prompts=a rose", "sample.prompts", ("a rose",)),
        ("sample.prompts=[a rose: close up]", "sample.prompts", ("a rose: close up",)),
        ('sample.prompts=["a, b", c]', "sample.prompts", ("a, b", "c")),
        ("sample.prompts=[it's 5 o'clock, no, 1, null]", "sample.prompts",
         ("it's 5 o'clock", "no", "1", "null")),
        ("sample.prompts=['a #1', b #2]", "sample.prompts", ("a #1", "b #2")),
        ('sample.prompts=[""]', "sample.prompts", ("",)),
        ("sample.prompts=[]", "sample.prompts", ()),
        ("sample.prompts=", "sample.prompts", ()),
        ("sample.prompts=[a] or [b] c", "sample.prompts", ("[a] or [b] c",)),
        ("diffusion.schedule_args={shift: 3}", "diffusion.schedule_args", {"shift": 3}),
        ("diffusion.schedule_args.shift=3.5", "diffusion.schedule_args", {"a": 1, "shift": 3.5}),
        ("diffusion.schedule_args={}", "diffusion.schedule_args", {}),
        ("diffusion.schedule_args=", "diffusion.schedule_args", {}),
        ("diffusion.schedule_args.a=1e-4", "diffusion.schedule_args", {"a": 1e-4}),
        ("diffusion.schedule_args.a=[1, no, x]", "diffusion.schedule_args", {"a": [1, False, "x"]}),
        ("diffusion.schedule_args.a=007", "diffusion.schedule_args", {"a": "007"}),
        ("unet.init=/x #1: y", "unet", {"init": "/x #1: y"}),
        ("unet.a.b=2", "unet", {"a": {"b": 2}}),
        ("data.repeats={red rose: 3}", "data.repeats", {"red rose": 3}),
        ("data.repeats.red rose=3", "data.repeats", {"red rose": 3}),
        ("train.learning_rate=1e-4", "train.learning_rate", 1e-4),
        ("train.steps=1e3", "train.steps", 1000),
        ("train.steps=1_000", "train.steps", 1000),
        ("train.steps=1000.0", "train.steps", 1000),
        ("train={steps: 7}", "train.steps", 7),
        ("train.compile=yes", "train.compile", True),
        ("train.compile=Off", "train.compile", False),
        ("train.mixed_precision=no", "train.mixed_precision", "no"),
        ("train.betas=[0.8, 1e-1]", "train.betas", (0.8, 0.1)),
        ("sample.guidance_interval=[0, inf]", "sample.guidance_interval", (0, math.inf)),
        ("sample.guidance_interval=[0, .inf]", "sample.guidance_interval", (0, math.inf)),
    ],
)  # fmt: skip
def test_an_override_is_read_as_its_field_declares(override, key, expected):
    config = read("diffusion: {schedule_args: {a: 1}}", override)
    assert value_of(config, key) == expected
    assert type(value_of(config, key)) is type(expected)


@pytest.mark.parametrize(
    ("yaml", "key", "expected"),
    [
        ("name: no", "name", "no"),
        ("name: 007", "name", "007"),
        ("name: 2024-01-01", "name", "2024-01-01"),
        ("data: {caption: yes, label: 1.50}", "data.caption", "yes"),
        ("data: {caption: 'null'}", "data.caption", "null"),
        ("data: {caption: null}", "data.caption", None),
        ("train: {mixed_precision: no}", "train.mixed_precision", "no"),
        ("train: {learning_rate: 1e-4}", "train.learning_rate", 1e-4),
        ("train: {compile: no}", "train.compile", False),
        ("sample: {prompts: [a rose: close up, b]}", "sample.prompts", ("a rose: close up", "b")),
        ("sample:\n  prompts:\n    - a rose: close up  # not this\n    - b\n", "sample.prompts",
         ("a rose: close up", "b")),
        ("sample: {prompts: a rose}", "sample.prompts", ("a rose",)),
        ("train:\n", "train.steps", 10_000),
        ("autoencoder: {train: &t {steps: 5, warmup: 1}}\ntrain: {<<: *t, steps: 6}", "train.steps",
         6),
        ("autoencoder: {train: &t {steps: 5, warmup: 1}}\ntrain: {<<: *t}", "train.warmup", 1),
        ("\ufeffname: x", "name", "x"),
        ("name: x\r\noutput: y\r\n", "output", "y"),
        ("", "name", "run"),
        ("# only a comment", "name", "run"),
        ("unet: {a: 1e-4, b: '1e-4', c: yes, d: ~, e: [no, x], f: 010}", "unet",
         {"a": 1e-4, "b": "1e-4", "c": True, "d": None, "e": [False, "x"], "f": "010"}),
        ("diffusion: {schedule_args: {a: '${oc.env:HF_TOKEN}'}}", "diffusion.schedule_args",
         {"a": "${oc.env:HF_TOKEN}"}),
    ],
)  # fmt: skip
def test_a_config_file_is_read_as_its_fields_declare(yaml, key, expected):
    assert value_of(read(yaml), key) == expected


def test_a_file_from_an_editor_of_windows_is_read():
    assert load_config(CONFIG.write("name: é\n".encode("utf-16"))).name == "é"


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 30)]
    return "unet:\n" + "\n".join(f"  {line}" for line in lines)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("name: x\nname: y", r"'name' stands twice \(line 2\)"),
        ("train: {steps: 1, steps: 2}", r"'train\.steps' stands twice"),
        ("unet: {a: 1, a: 2}", r"'unet\.a' stands twice"),
        ("unet: !!python/object/apply:os.system [ls]", r"line 1: tags such as .*os\.system"),
        ("name: !!binary aGk=", "tags such as"),
        ("unet: &u [*u]", "line 1: an alias holds itself"),
        ("unet: &u {a: *u}", "an alias holds itself"),
        (bomb(), "more than 100,000 values"),
        ("unet: " + "[" * 2_000, "is nested too deep"),
        ("unet: " + "{a: " * 2_000, "is nested too deep"),
        ("name: x\n\ttrain: 3", r"line 2 cannot be read as YAML"),
        ("name: [", "cannot be read as YAML"),
        ("name: *nowhere", "undefined alias"),
        ("a: b: c", "cannot be read as YAML"),
        ("- a\n- b", "has no `key: value` lines"),
        ("only words", "has no `key: value` lines"),
        ("name: x\n---\nname: y", "single document"),
        ("name: \0", "cannot be read as YAML"),
        ('name: "a\\0b"', "NUL"),
        ('data: {caption: "\\ud800"}', r"data\.caption=.* half a character"),
        ("? [a, b]\n: 3", "a key must be a single text"),
        ("name: {a: b}", "name takes one value"),
        ("name: [a, b]", "name takes one value"),
        ("train: 3", "train is a section of settings"),
        ("train: [3]", "train is a section of settings"),
        ("train: {steps: 1.5}", r"train\.steps='1\.5' is not a whole number"),
        ("train: {steps: true}", r"train\.steps='true' is not a whole number"),
        ("train: {compile: maybe}", r"train\.compile='maybe' is neither true nor false"),
        ("train: {betas: [1]}", r"train\.betas takes 2 values"),
        ("train: {betas: 0.9}", r"train\.betas takes 2 values"),
        ("train: {step: 3}", r"'train\.step'; the nearest is 'train\.steps'"),
        ("diffusion: {schedule_args: [1]}", r"schedule_args takes \{name: value\}"),
        ("diffusion: {schedule_args: {a: .nan}}", r"schedule_args: a=nan must be a finite number"),
        ("unet: {a: {b: [1, -.inf]}}", r"unet: a: b=-inf must be a finite number"),
        ("unet: {a: " + "9" * 40 + "}", "is too large"),
        ("data: {source: '${oc.env:HOME}/x'}", r"holds \$\{oc\.env:HOME\}, and nothing is looked"),
        ("unet: {init: '${oc.env:HOME}/x'}", r"holds \$\{oc\.env:HOME\}"),
        (b"name: \xff\xfe\xfa", "is not text in UTF-8"),
        (b"x" * ((1 << 20) + 1), "it is no config"),
    ],
)
def test_a_config_file_that_cannot_be_is_one_sentence(yaml, says):
    with pytest.raises(UserError, match=says) as caught:
        load_config(CONFIG.write(yaml))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("path", [".", "nowhere.yaml", "no\0where", "x" * 5000])
def test_a_config_that_is_no_file_is_one_sentence(path):
    with pytest.raises(UserError, match="cannot read the config"):
        load_config(path)


def test_a_config_that_nobody_has_is_told_which_names_there_are():
    with pytest.raises(UserError, match=r"quick: .*; by name there are .*flowers64, .*quickstart"):
        load_config("quick")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sample.prompts=['a, b]", "a quote is not closed"),
        ("sample.prompts=['a' b]", "a quote is not closed before a comma"),
        ("diffusion.schedule_args={a", "cannot be read as YAML"),
        ("diffusion.schedule_args=3", "takes {name: value}"),
        ("train.steps.x=3", r"train\.steps is a single value and has no parts"),
        ("unet.a.b.c=3", r"a is a single value and has no parts"),
        ("data.repeats.a.b=3", "has no parts"),
        ("data.repeats={a: x}", r"data\.repeats: a='x' is not a whole number"),
        ("=3", "unknown config key ''"),
        ("train.=3", "unknown config key 'train.'"),
        ("train=3", "train is a section"),
        (f"train.steps={'9' * 6000}", r"not a whole number"),
        ("data.source=", r"data\.source='' is empty"),
        ("data.source=${oc.env:HOME}/x", "nothing is looked up"),
    ],
)
def test_an_override_that_cannot_be_is_one_sentence(override, says):
    with pytest.raises(UserError, match=says) as caught:
        read("unet: {a: 1}", override)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=1, max_size=20), key=st.sampled_from([*TEXTS, "sample.prompts"]))
@example(text="\ue000 \x85", key="data.caption")
@example(text="0\x85", key="data.image")
@example(text="a\u2028b", key="sample.prompts")
@example(text="\ufeff<<", key="data.label")
def test_any_text_arrives_verbatim_and_a_saved_config_reads_back_to_the_same(
    tmp_path_factory, text, key
):
    assume("\0" not in text and text not in EMPTY and text.strip()[:1] != "[" and text.strip())
    config = load_config(overrides=[f"{key}={text}"])
    found = value_of(config, key)
    assert found == ((text,) if key == "sample.prompts" else text)
    assert read_back(config) == config


def values(hint: Any, key: str) -> st.SearchStrategy:
    """Values that a field may have, made from its type and its marks."""
    if is_dataclass(hint):
        return st.builds(hint, **{k: values(h, k) for k, h in hints(hint).items()})
    if optional(hint):
        return st.none() | values(bare_once(hint), key)
    kind, marks = bare(hint)
    origin, inner = get_origin(kind), get_args(kind)
    limits = next((m for m in marks if isinstance(m, Range)), None)
    if kind is int:
        return st.integers(int(limits.least), int(limits.most) - limits.under)
    if kind is float:
        ends = {"exclude_min": limits.over, "exclude_max": limits.under}
        return st.floats(limits.least, limits.most, **ends, allow_nan=False)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(values(inner[0], key), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(h, key) for h in inner))
    if origin is dict:
        return st.dictionaries(texts, values(inner[1], key), max_size=2)
    if kind is Any:
        return free
    if kind is str:
        problem = [mark.problem for mark in marks]
        return texts.filter(lambda x: not any(p(x) for p in problem) and place(x) == x)
    return {bool: st.booleans()}[kind]


def bare_once(hint: Any) -> Any:
    return next(h for h in get_args(hint) if h is not type(None))


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | (
    st.sampled_from(["no", "007", "1e3", "1e-4", "<<", "null", "~", "a: b", "#", "[a]", "x\ny"])
)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
plain |= st.floats(-1e15, 1e15)
free = st.recursive(
    plain, lambda x: st.lists(x, max_size=2) | st.dictionaries(texts, x, max_size=2), max_leaves=3
)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_config_reads_back_to_the_same(data):
    try:
        config = data.draw(values(Config, ""))
    except UserError as error:  # the one pair that marks cannot tell
        assert "ema_snapshots" in str(error)
        return
    assert read_back(config) == config


def test_a_saved_config_reads_back_to_the_same_whatever_its_texts_are():
    texts = ("\ue000 \x85\u2028", "\ufeff<<", "🌹", "a\tb\n", "- x", "no", " ", "'\"")
    config = load_config(overrides=["data.source=/x/\udcff"])
    config = replace(config, sample=SampleConfig(prompts=texts), unet=dict.fromkeys(texts, "1e-4"))
    save_config(config, CONFIG.path)
    assert load_config(CONFIG.path) == config


BAD = ["nan", ".nan", "inf", "-inf", "-1", "0", "1e30", "-1e30", "1.5", "x", "", "[]", "[1]", "{}",
       "{a: 1}", "true", "null", "[nan, nan]", "[1, 2, 3]", "1e999", "9" * 400, "../x",
       "/", "\ud800", "~", "a\0b", "[[[1]]]", "{a: {b: .nan}}", "${oc.env:HOME}"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_bad_value_of_any_key_is_a_sentence_that_names_it(key):
    for value in BAD:
        try:
            load_config(overrides=[f"{key}={value}"])
        except UserError as error:
            assert key in str(error) and "\n" not in str(error)


def limits(hint: Any):
    """The marks of every number that a hint allows."""
    kind, marks = bare(hint)
    if kind in (int, float):
        yield [mark for mark in marks if isinstance(mark, Range)]
    for inner in get_args(kind) if get_origin(kind) is not Literal else ():
        if inner is not Ellipsis:
            yield from limits(inner)


def test_every_number_of_the_tree_has_its_limits():
    for key in LEAVES:
        for marks in limits(hint_of(key)):
            assert len(marks) == 1, key
            assert all(marks[0].problem(value) for value in (math.nan, -math.inf, -1e30)), key


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.learning_rate=inf", "at most"),
        ("train.ema_decay=1", "below 1"),
        ("train.ema_decay=1.5", "below 1"),
        ("train.betas=[0.9, 1]", "below 1"),
        ("train.epsilon=0", "above 0"),
        ("train.clip=-1", "at least 0"),
        ("train.batch_size=1e12", "at most"),
        ("data.holdout=1", "below 1"),
        ("sample.guidance_scale=nan", "must be a number"),
        ("sample.guidance_interval=[nan, 1]", "must be a number"),
        ("sample.num_inference_steps=0", "at least 1"),
        ("sample.seed=18446744073709551616", "below"),
        ("autoencoder.loss.kl=nan", "must be a number"),
        ("autoencoder.loss.adversarial_start=-2", "at least -1"),
        ("autoencoder.train.epsilon=0", "above 0"),
        ("conditioning.kind=jiont", "is not one of joint, clip, t5, class, none"),
        ("autoencoder.trainable=nothing", "is not one of all, decoder"),
    ],
)
def test_a_number_that_would_be_silently_wrong_is_refused(override, says):
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"^{key}=.*{says}"):
        load_config(overrides=[override])


def test_the_kinds_of_conditioning_are_those_there_are():
    assert get_args(bare(hint_of("conditioning.kind"))[0]) == tuple(CONDITIONERS)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/x", "a/b", "a\\b", "..\\x", "a\0b", "a\nb", "x.", "x ", " x",
     "x" * 201, "é" * 101, "\udcff", "a/../../b", "${oc.env:USER}"],
)  # fmt: skip
def test_a_name_does_not_leave_the_output_folder(name):
    with pytest.raises(UserError, match=r"^name="):
        load_config(overrides=[f"name={name}"])
    with pytest.raises(UserError, match=r"^name="):
        Config(name=name)


def test_names_that_people_give_are_kept():
    for name in (
        "run",
        "run 2",
        "2024-01-01",
        "é",
        "..x",
        "~",
        "a.b",
        "x" * 200,
        "玫瑰",
        "-x",
        "🌹",
    ):
        assert load_config(overrides=[f"name={name}"]).folder == Path("runs") / name


PLACES = ["output", "data.source", "data.validation", "autoencoder.path", "autoencoder.init",
          "autoencoder.features", "autoencoder.loss.perceptual_network", "conditioning.path",
          "sample.quality_features"]  # fmt: skip


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(monkeypatch, tmp_path):
    marked = [k for k in LEAVES if any(isinstance(m, Place) for m in bare(hint_of(k))[1])]
    assert sorted(marked) == sorted([*PLACES, "unet"])
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in PLACES:
        section, _, leaf = key.rpartition(".")
        yaml: Any = {leaf: "~/x"}
        for part in reversed(section.split(".") if section else []):
            yaml = {part: yaml}
        for config in (load_config(overrides=[f"{key}=~/x"]), read(written(yaml))):
            assert value_of(config, key) == f"{tmp_path}/x"
    for config in (load_config(overrides=["unet.init=~/x"]), read("unet: {init: ~/x, a: ~/x}")):
        assert config.unet["init"] == f"{tmp_path}/x" and config.unet.get("a") in (None, "~/x")
    trained = load_config(overrides=["sample.quality_features=trained:~/x"])
    assert trained.sample.quality_features == f"trained:{tmp_path}/x"
    assert place("~nobody-by-this-name/x") == "~nobody-by-this-name/x"
    monkeypatch.chdir(tmp_path)
    os.mkdir("~")
    assert place("~") == "~"  # there is a folder of that name


def test_a_config_in_the_home_folder_is_found(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text("name: x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("~/c.yaml").name == "x"


def test_no_part_of_a_config_reads_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-of-mine")
    for reference in (
        "${oc.env:HF_TOKEN}",
        "${oc.decode:${oc.env:HF_TOKEN}}",
        "$HF_TOKEN",
        "${HF_TOKEN}",
    ):
        config = read(f"data: {{caption: '{reference}'}}", f"conditioning.model.a={reference}")
        assert config.data.caption == config.conditioning.model["a"] == reference
        assert "secret" not in written(asdict(config))


def test_names_of_marks_say_what_they_refuse():
    assert Name().problem("x") is None and Range(0, 1).problem(0.5) is None
