"""YAML as text alone: read to nodes that keep what was written, and written to read back the same.

No tags, no references, no environment: a document can name no class and look nothing up.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from ldm.core.errors import UserError

MOST = 100_000  # values, each alias counted where it is used
EMPTY = ("", "~", "null", "Null", "NULL", "None")
YES, NO = ("true", "yes", "on"), ("false", "no", "off")
_KINDS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
_BREAKS = re.compile("[\x85\u2028\u2029]")  # lines end there too, and only "..." escapes them
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", re.I
)


def composed(text: str, where: str) -> Node | None:
    """The node of a document; None of an empty one. Raises UserError, with the line."""
    with _explained(where):
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        if node is not None and _size(node, where, {}) > MOST:
            raise UserError(f"{where} has more than {MOST:,} values")
        return node


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise UserError(f"{where} is nested too deep") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        told = [getattr(error, part, None) for part in ("context", "problem")] if mark else [error]
        reason = " ".join(" ".join(str(part) for part in told if part).split())
        raise UserError(f"{where}{line} cannot be read as YAML: {reason}") from None


def _size(node: Node, where: str, known: dict[int, int]) -> int:
    """How many values a node stands for, with its aliases written out; each is visited once."""
    if id(node) in known:
        if not known[id(node)]:  # we are inside it
            raise UserError(f"{where}, line {node.start_mark.line + 1}: an alias holds itself")
        return known[id(node)]
    if node.tag not in _KINDS:
        line = node.start_mark.line + 1
        raise UserError(f"{where}, line {line}: tags such as {node.tag} are not read")
    known[id(node)] = 0
    children: list[Node] = []
    if isinstance(node, MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_size(child, where, known) for child in children)
    return known[id(node)]


def pairs(node: MappingNode, section: str) -> dict[str, Node]:
    """Names and nodes. What `<<: *other` brings stands behind one's own.

    Raises UserError for a name that stands twice, and for one that is no single text.
    """
    own: dict[str, Node] = {}
    brought: list[Node] = []
    for name, child in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, ScalarNode):
            raise UserError(f"{section or 'config'} (line {line}): a key must be a single text")
        if name.value == "<<" and name.style is None:
            brought += child.value if isinstance(child, SequenceNode) else [child]
        elif name.value in own:
            raise UserError(f"config key {section + name.value!r} stands twice (line {line})")
        else:
            own[name.value] = child
    for other in brought:
        if not isinstance(other, MappingNode):
            raise UserError(f"{section}<< must be followed by another section, as in <<: *name")
        own = pairs(other, section) | own
    return own


def told_by_looks(text: str) -> Any:
    """What a bare text means where no type says it: nothing, yes or no, a number, or itself."""
    if text in EMPTY:
        return None
    if text.lower() in YES + NO and text in (text.lower(), text.title(), text.upper()):
        return text.lower() in YES
    if _WHOLE.fullmatch(text) and len(text) < 400:
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def written(values: Any) -> str:
    """The document of nested dicts, lists, texts and numbers."""
    return yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=False,
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> ScalarNode:
        quoted = value == "<<" or not isinstance(told_by_looks(value), str)
        style = '"' if _BREAKS.search(value) else "'" if quoted else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_representer(tuple, _Dumper.represent_list)
