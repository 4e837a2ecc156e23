"""Nothing of the product writes a file but through ldm/core/files.py."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRITES = {
    *("write_text", "write_bytes", "touch", "mkdir", "makedirs", "rename", "savefig", "tofile"),
    *("save", "save_file", "save_pretrained", "to_file", "dump", "copyfile", "symlink_to"),
}
SAFE = {"written", "written_folder", "published", "TemporaryDirectory"}  # blocks to write in
OURS = {  # methods that go through files.py themselves, and two files that are no results
    "state.save(step + 1, self.train.keep_checkpoints)",
    "(folder / 'lock').open('a')",
    "path.rename(next((place for place in free if not place.exists())))",  # somebody else's, aside
    "self.folder.mkdir(parents=True, exist_ok=True)",  # for the lock
}
PATHS = [
    *ROOT.glob("*.py"),
    *(p for package in ("ldm", "autoencoder", "pipelines") for p in (ROOT / package).rglob("*.py")),
]


def writes(call):
    """Whether a call may write a file, by its name, or by its mode where it opens one."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        given = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
        modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        return any(set(mode) <= set("wax+bt") and set(mode) & set("wax+") for mode in modes)
    if name == "replace":  # os.replace, and Path.replace with one argument
        return (len(call.args) == 1 and not call.keywords) or ast.unparse(call.func) == "os.replace"
    if name == "dump":
        return len(call.args) > 1  # yaml.dump gives a text without
    memory = call.args and ast.unparse(call.args[0]) == "buffer"
    return name in WRITES and ast.unparse(call.func) not in ("write_text", "save") and not memory


def outside(tree):
    """The calls that write, but for those in a block that makes them safe."""
    stack = [(tree, False)]
    while stack:
        node, safe = stack.pop()
        if isinstance(node, ast.With):
            calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
            safe = safe or any(ast.unparse(c.func).split(".")[-1] in SAFE for c in calls)
        if isinstance(node, ast.Call) and writes(node) and not safe:
            yield ast.unparse(node)
        stack += [(child, safe) for child in ast.iter_child_nodes(node)]


def test_every_file_is_written_whole_or_not_at_all():
    found = {
        (str(path.relative_to(ROOT)), call)
        for path in PATHS
        for call in outside(ast.parse(path.read_text(encoding="utf-8")))
    }
    own = {(name, call) for name, call in found if name == "ldm/core/files.py"}
    assert own and {call for _, call in found - own} <= OURS, found - own


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')",
        "open(path, 'w')",
        "path.open(mode='ab')",
        "image.save(out)",
        "os.replace(a, b)",
        "temporary.replace(path)",
        "with open(path) as file:\n    json.dump(x, other)",
    ],
)
def test_a_writer_of_its_own_is_found(line):
    assert list(outside(ast.parse(line)))
    inside = f"with written(path) as file:\n{line}".replace("\n", "\n    ")
    assert not list(outside(ast.parse(inside)))
