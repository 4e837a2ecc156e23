"""The arrows between folders run one way, and no two modules need each other."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what a folder's modules may import of this project, besides each other
ALLOWED = {
    "ldm": set(),
    "autoencoder": {"ldm"},
    "pipelines": {"ldm", "autoencoder"},
}
ABOVE = {"training", "evaluation"}  # of ldm's parts, those that no other part imports


def modules():
    """Every module of the packages and every script at the root: dotted name -> path."""
    paths = [
        *ROOT.glob("*.py"),
        *(p for package in ALLOWED for p in (ROOT / package).rglob("*.py")),
    ]
    names = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports(path):
    """The dotted names that a file imports, also inside functions, but not for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in whole)


GRAPH = {name: set(imports(path)) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("ldm.diffusion.")])
def test_the_mathematics_imports_torch_and_nothing_else(name):
    roots = {i.split(".")[0] for i in GRAPH[name] if not i.startswith("ldm.diffusion.")}
    assert roots - set(sys.stdlib_module_names) <= {"torch"}


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_between_packages_run_one_way(package):
    ours = {*ALLOWED, *(p.stem for p in ROOT.glob("*.py"))}
    for name in MODULES:
        if name.split(".")[0] == package:
            used = {i.split(".")[0] for i in GRAPH[name]} & ours
            assert used <= ALLOWED[package] | {package}, f"{name} imports {used}"


def test_parts_of_ldm_do_not_reach_up_into_training_and_evaluation():
    for name in MODULES:
        package, *rest = name.split(".")
        if package == "ldm" and rest and rest[0] not in ABOVE:
            reached = {i for i in GRAPH[name] if i.split(".")[0] == "ldm" and i.split(".")[1:2]}
            reached = {i for i in reached if i.split(".")[1] in ABOVE}
            assert not reached, f"{name} imports {reached}"


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


def test_the_graph_is_not_empty():
    assert "ldm.diffusion.plane" in GRAPH["ldm.diffusion.schedules"]
    assert "ldm.scheduler_config" in GRAPH["train_ldm"]


def test_packages_do_not_import_on_their_own():
    """Heavy imports stay out of `__init__`: importing a package costs nothing."""
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name != "pipelines":
            assert not GRAPH[name], f"{name} imports {GRAPH[name]}"
