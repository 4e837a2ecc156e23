"""The house as its imports say it: the graph that the architecture test reads, and a picture of it.

    python -m benchmarks.house    # draws docs/pictures/house.svg

A room is a folder of Python files; what it says of itself is its docstring's first sentence. Rooms
stand above all that they import; an arrow that follows from others is left out.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from html import escape
from itertools import pairwise
from math import fsum
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "house.svg"
PACKAGES = ("ldm", "autoencoder", "pipelines")
SCRIPTS = "scripts"  # the room of what stands at the root
Graph = Mapping[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of the packages and every script at the root: dotted name -> path."""
    scripts = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    paths = [*scripts, *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))]
    names = {}
    for path in sorted(paths):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports(tree: ast.Module) -> Iterator[str]:
    """The dotted names that a file imports: inside functions and for type checkers as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"import {node.module} by its full name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in whole)


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
GRAPH = {name: set(imports(tree)) for name, tree in TREES.items()}


def room(name: str) -> str:
    """The folder that a module is in."""
    if MODULES[name].name == "__init__.py":
        return name
    return name.rpartition(".")[0] or SCRIPTS


def rooms() -> dict[str, set[str]]:
    """Every room and those that it imports from."""
    found: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, others in GRAPH.items():
        found[room(name)] |= {room(other) for other in others & MODULES.keys()} - {room(name)}
    return found


def reduced(graph: Graph) -> dict[str, set[str]]:
    """The graph without the arrows that follow from others. It must have no circle."""
    below: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in below:
            below[name] = graph[name].union(*map(reach, graph[name]))
        return below[name]

    return {a: {b for b in bs if not any(b in reach(c) for c in bs)} for a, bs in graph.items()}


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each room, above what it imports, and as near as that allows to who imports it.

    Ends on the roof with whoever is imported by nobody.
    """
    users = {name: {a for a, bs in graph.items() if name in bs} for name in graph}
    floor: dict[str, int] = {}

    def lowest(name: str) -> int:
        if name not in floor:
            floor[name] = 1 + max(map(lowest, graph[name]), default=-1)
        return floor[name]

    for name in sorted(graph, key=lowest, reverse=True):
        if users[name] and len(users[name]) >= len(graph[name]):
            floor[name] = min(floor[user] for user in users[name]) - 1
    return floor


# --- the picture: rooms in rows, arrows through lanes of their own ---

BOX, LANE, GAP, HEIGHT, STOREY = 222, 14, 16, 58, 88  # pixels
WINGS = {
    "ldm": "#2f6fb3",
    "ldm.data": "#3a8a4d",
    "ldm.evaluation": "#a07412",
    "autoencoder": "#bb5a2a",
    "pipelines": "#7a52b3",
    SCRIPTS: "#b23a5e",
}
STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #222 }
.name { font-size: 13.5px; font-weight: 600 } .about { font-size: 11px; fill: #555 }
.box { fill: #fff } .arrow { fill: none; stroke: #9aa1a9; stroke-width: 1.4 } .tip { fill: #9aa1a9 }
@media (prefers-color-scheme: dark) {
  text { fill: #eee } .about { fill: #b5bac0 } .box { fill: #161b22 }
  .arrow { stroke: #6e7681 } .tip { fill: #6e7681 }
}"""

Node = tuple[str, ...]  # (room,), or (user, used, floor): the lane of an arrow on a floor between


def chains(arrows: Graph, floor: Mapping[str, int]) -> list[list[Node]]:
    """The nodes that each arrow passes, from the room that imports down to the imported one."""
    return [
        [(a,), *((a, b, str(k)) for k in range(floor[a] - 1, floor[b], -1)), (b,)]
        for a in sorted(arrows)
        for b in sorted(arrows[a])
    ]


def width(node: Node) -> float:
    return BOX if len(node) == 1 else LANE


def placed(rows: list[list[Node]], paths: list[list[Node]]) -> dict[Node, float]:
    """The middle of each node, in pixels: near its neighbours, none overlapping another."""
    near: dict[Node, list[Node]] = defaultdict(list)
    for path in paths:
        for a, b in pairwise(path):
            near[a].append(b)
            near[b].append(a)
    x = {}
    for row in rows:
        for i, node in enumerate(row):
            x[node] = (i - (len(row) - 1) / 2) * (BOX + GAP)
    for sweep in range(200):
        for row in rows if sweep % 2 else reversed(rows):
            wish = {n: fsum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in row}
            row.sort(key=lambda node: (wish[node], node))
            at = [wish[node] for node in row]
            for _ in range(60):  # push apart what overlaps, both sides alike
                for i, (a, b) in enumerate(pairwise(row)):
                    lack = (width(a) + width(b)) / 2 + GAP - (at[i + 1] - at[i])
                    if lack > 0:
                        at[i], at[i + 1] = at[i] - lack / 2, at[i + 1] + lack / 2
            x.update(zip(row, at, strict=True))
    return x


def drawn() -> str:
    """The house as SVG, readable on light and on dark; the same text for the same imports."""
    graph = rooms()
    arrows, floor = reduced(graph), floors(graph)
    paths = chains(arrows, floor)
    rows: list[list[Node]] = [[] for _ in range(max(floor.values()) + 1)]
    for node in sorted({node for path in paths for node in path} | {(name,) for name in graph}):
        rows[floor[node[0]] if len(node) == 1 else int(node[2])].append(node)
    x = placed(rows, paths)
    left = min(x[node] - width(node) / 2 for node in x) - GAP
    right = max(x[node] + width(node) / 2 for node in x) + GAP
    top = {k: (len(rows) - 1 - k) * STOREY + GAP for k in range(len(rows))}
    lines, boxes = [], []
    for path in paths:
        lines += _arrow(path, x, top, floor)
    for name in sorted(graph):
        boxes += _box(name, x[(name,)], top[floor[name]])
    size = f"{left:.0f} 0 {right - left:.0f} {len(rows) * STOREY - STOREY + HEIGHT + 2 * GAP}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img">'
    about = "<title>The rooms of the house; an arrow leads to what a room imports</title>"
    return "\n".join([head, about, f"<style>{STYLE}\n</style>", *lines, *boxes, "</svg>"]) + "\n"


def _arrow(
    path: list[Node], x: Mapping[Node, float], top: Mapping[int, int], floor: Mapping[str, int]
) -> list[str]:
    start, end = path[0], path[-1]
    points = [(x[start], float(top[floor[start[0]]] + HEIGHT))]
    for node in path[1:-1]:
        y = top[int(node[2])]
        points += [(x[node], y), (x[node], y + HEIGHT)]
    points.append((x[end], top[floor[end[0]]] - 7.0))
    d = f"M{points[0][0]:.0f},{points[0][1]:.0f}"
    for (ax, ay), (bx, by) in pairwise(points):
        half = (by - ay) / 2
        d += f" C{ax:.0f},{ay + half:.0f} {bx:.0f},{by - half:.0f} {bx:.0f},{by:.0f}"
    tip, y = x[end], top[floor[end[0]]]
    return [
        f'<path class="arrow" d="{d}"/>',
        f'<path class="tip" d="M{tip:.0f},{y} l-4,-8 h8 z"/>',
    ]


def _box(name: str, middle: float, y: int) -> list[str]:
    wing = max((w for w in WINGS if f"{name}.".startswith(f"{w}.")), key=len)
    if name == SCRIPTS:
        about = ", ".join(MODULES[n].name for n in sorted(MODULES) if room(n) == SCRIPTS)
    else:
        told = ast.get_docstring(TREES[name]) or ""
        about = told.partition(". ")[0].splitlines()[0].rstrip(".").replace("`", "") if told else ""
    texts = wrap(about, 35)[:2]
    first = y + HEIGHT / 2 + 5 - 7.5 * len(texts)
    return [
        f'<rect class="box" x="{middle - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HEIGHT}" '
        f'rx="7" stroke="{WINGS[wing]}" stroke-width="1.8"/>',
        f'<text class="name" x="{middle:.0f}" y="{first:.0f}" text-anchor="middle">{name}</text>',
        *(
            f'<text class="about" x="{middle:.0f}" y="{first + 16 + 14 * i:.0f}" '
            f'text-anchor="middle">{escape(text)}</text>'
            for i, text in enumerate(texts)
        ),
    ]


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8", newline="\n")
    print(PICTURE)
