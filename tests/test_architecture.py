"""The house: which room stands on which, and how large a room may be."""

import ast
import io
import sys
import tokenize
from collections import Counter

import pytest

from benchmarks.house import GRAPH, MODULES, imports, room

# From the ground upward: a folder's own files import only from folders above it in this list.
FLOORS = [
    "ldm.core",
    "ldm.settings",
    "ldm",  # the config
    "ldm.store",
    "ldm.diffusion",
    "ldm.schedulers",
    "ldm.models",
    "ldm.conditions",
    "ldm.ports",
    "ldm.data.flowers",
    "ldm.data.pictures",
    "ldm.data.tables",
    "ldm.data",
    "ldm.evaluation.features",
    "ldm.evaluation",
    "ldm.training",
    "ldm.training.tasks",
    "autoencoder.loss",
    "autoencoder",
    "pipelines.calls",
    "pipelines.containers",
    "pipelines.sheets",
    "pipelines.runs",
    "pipelines.published",
    "pipelines",
    "pipelines.evaluation.subject",
    "pipelines.evaluation.parts",
    "pipelines.evaluation",
    "pipelines.report",
    "pipelines.explained",
    "pipelines.commands",
    "scripts",
]
MOST_FILES, MOST_LINES = 16, 300
MOST_MATHEMATICS = 1050  # lines of code of ldm.diffusion


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("ldm.diffusion")])
def test_the_mathematics_imports_torch_and_nothing_else(name):
    """The package itself names its public face, and is therefore as cheap as torch is."""
    roots = {i.split(".")[0] for i in GRAPH[name] if not i.startswith("ldm.diffusion.")}
    assert roots - set(sys.stdlib_module_names) <= {"torch"}


def test_sampling_does_not_need_the_training_loss():
    needed, found = (
        {"ldm.diffusion.samplers", "ldm.diffusion.grids", "ldm.diffusion.guidance"},
        set(),
    )
    while needed := needed - found:
        found |= needed
        needed = {i for name in needed for i in GRAPH[name] & MODULES.keys()}
    assert "ldm.diffusion.plane" in found and "ldm.diffusion.loss" not in found


def test_arrows_between_folders_run_one_way():
    floor = {name: number for number, name in enumerate(FLOORS)}
    assert {room(name) for name in MODULES} == set(FLOORS)
    up = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others & MODULES.keys()
        if floor[room(other)] > floor[room(name)]
    ]
    assert not up, "\n".join(up)


def test_ldm_does_not_know_the_autoencoder_nor_the_pipelines():
    packages = {"ldm": set(), "autoencoder": {"ldm"}, "pipelines": {"ldm", "autoencoder"}}
    for name, others in GRAPH.items():
        if (package := name.split(".")[0]) in packages:
            used = {other.split(".")[0] for other in others & MODULES.keys()}
            assert used <= packages[package] | {package}, f"{name} imports {used}"


def needed_at_start(name):
    """The modules that importing `name` imports: not for types alone, nor within functions."""
    needed, waiting = set(), [name]
    while waiting:
        tree = ast.parse(MODULES[waiting.pop()].read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = set(imports(tree)) - needed
        needed |= found
        waiting += found & MODULES.keys()
    return needed


@pytest.mark.parametrize(
    ("name", "heavy"),
    [("train_ldm", {"open_clip", "matplotlib"}),
     ("pipelines.report.report", {"open_clip", "matplotlib", "diffusers", "transformers",
                                  "accelerate"})],
)  # fmt: skip
def test_a_command_starts_without_what_it_does_not_use(name, heavy):
    assert "torch" in (roots := {one.split(".")[0] for one in needed_at_start(name)})
    assert not roots & heavy


def test_no_module_needs_itself():
    """Depth-first over the imports; a circle is reported as the path around it."""
    done, path = set(), []

    def visit(name):
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name in done or name not in GRAPH:
            return
        path.append(name)
        for child in sorted(GRAPH[name]):
            visit(child)
        path.pop()
        done.add(name)

    for name in sorted(GRAPH):
        visit(name)


def test_no_file_is_long_and_no_folder_is_full():
    long = [n for n, p in MODULES.items() if len(p.read_text("utf-8").splitlines()) > MOST_LINES]
    assert not long
    files = Counter(room(name) for name, p in MODULES.items() if p.name != "__init__.py")
    assert {name: n for name, n in files.items() if n > MOST_FILES} == {}


def lines_of_code(text):
    """How many lines hold code: not those that are blank, a comment or a docstring alone."""
    read = io.StringIO(text).readline
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    told = [t for t in tokenize.generate_tokens(read) if t.type not in quiet and t.string]
    code = {n for t in told for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code)


def test_the_mathematics_stays_small():
    """So that it is read in an hour; docstrings, which have its equations, are not counted."""
    assert lines_of_code('"""A."""\n\nx = """\nb"""  # c\n# d\ndef f():\n    """E.\n    """\n') == 3
    core = [p for n, p in MODULES.items() if n.startswith("ldm.diffusion")]
    assert sum(lines_of_code(p.read_text("utf-8")) for p in core) <= MOST_MATHEMATICS


def test_the_graph_is_not_empty():
    assert "ldm.diffusion.plane" in GRAPH["ldm.diffusion.schedules"]
    assert "ldm.schedulers.spec" in GRAPH["train_ldm"]


def test_packages_do_not_import_on_their_own():
    """Heavy imports stay out of `__init__`: importing a package costs nothing."""
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name not in ("ldm.diffusion", "pipelines"):
            assert not GRAPH[name], f"{name} imports {GRAPH[name]}"
