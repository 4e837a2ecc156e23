"""A tree of dataclasses from YAML and key=value.

What a text means is decided by the field it is for, never by its looks: in `name: no` it is a text,
in `compile: no` it is not. Only the values of a free dictionary are told by their looks.
"""

from collections.abc import Iterator
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from ldm.core.errors import UserError
from ldm.settings.document import EMPTY, NO, YES, composed, pairs, told_by_looks
from ldm.settings.fields import bare, expanded, hints, optional

Values = dict[str, Any]  # of a dataclass's fields; those of a section are Values again


def from_yaml(tree: type, text: str, where: str) -> Values:
    """The values that a document gives. Raises UserError for the first that cannot be."""
    node = composed(text, where)
    if node is None:
        return {}
    if not isinstance(node, MappingNode):
        raise UserError(f"{where} has no `key: value` lines")
    return _Reading(tree, text).section(node, tree, "")


def override(tree: type, values: Values, argument: str) -> None:
    """Put what `key=value` says into `values`; a whole list or dictionary replaces the one before.

    Raises UserError for another form, an unknown key, and a value that cannot be.
    """
    key, equals, text = argument.partition("=")
    if not equals:
        raise UserError(f"override {argument!r} is not of the form key=value")
    key = key.strip()
    reading, hint, section = _Reading(tree, text), tree, ""
    *sections, last = key.split(".")
    while sections and is_dataclass(inner := reading.hint_of(hint, sections[0], section)):
        section += f"{sections[0]}."
        values, hint = values.setdefault(sections.pop(0), {}), inner  # type: ignore[assignment]
    if sections:
        return _into_dictionary(reading, values, inner, [*sections, last], key, text)
    hint = reading.hint_of(hint, last, section)
    value = reading.value(_as_node(text, hint, key), hint, key)
    _merge(values, {last: value}) if is_dataclass(hint) else values.update({last: value})


def _into_dictionary(
    reading: "_Reading", values: Values, hint: Any, path: list[str], key: str, text: str
) -> None:
    """Set one value of a free dictionary, which may be one of several within each other."""
    kind, marks = bare(hint)
    name, *between, last = path
    if get_origin(kind) is not dict or (between and get_args(kind)[1] is not Any):
        raise UserError(f"{key}: {key.split('.' + last)[0]} is a single value and has no parts")
    whole = place = values.setdefault(name, {})
    for part in between:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise UserError(f"{key}: {part} is a single value and has no parts")
    inner = get_args(kind)[1]
    place[last] = reading.value(_as_node(text, inner, key), inner, key)
    values[name] = expanded(whole, marks)


def _merge(values: Values, more: Values) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def built(tree: Any, values: Values) -> Any:
    """The dataclass with these values, and its defaults elsewhere."""
    types = hints(tree)
    return tree(
        **{k: built(types[k], v) if is_dataclass(types[k]) else v for k, v in values.items()}
    )


def known_keys(tree: Any, section: str = "") -> Iterator[str]:
    """Every dotted key of a tree."""
    for name, hint in hints(tree).items():
        yield section + name
        if is_dataclass(hint):
            yield from known_keys(hint, f"{section}{name}.")


class _Reading:
    """Values of declared types from the nodes of one document, whose text is at hand."""

    def __init__(self, tree: type, text: str) -> None:
        self.tree, self.text = tree, text

    def hint_of(self, owner: Any, name: str, section: str) -> Any:
        """The type of a field. Raises UserError, naming the nearest key, where there is none."""
        if name in hints(owner):
            return hints(owner)[name]
        key, known = section + name, list(known_keys(self.tree))
        by_leaf = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        hit = get_close_matches(key, known, 1, 0.6)
        leaf = get_close_matches(name, by_leaf, 1, 0.6)
        near = hit[0] if hit else by_leaf[leaf[0]] if leaf else ", ".join(hints(self.tree))
        raise UserError(f"unknown config key {key!r}; the nearest is {near!r}")

    def section(self, node: Node, owner: Any, section: str) -> Values:
        """The values that are given of a dataclass."""
        if not isinstance(node, MappingNode):
            raise UserError(f"{section[:-1]} is a section of settings, and was given one value")
        return {
            name: self.value(child, self.hint_of(owner, name, section), section + name)
            for name, child in pairs(node, section).items()
        }

    def value(self, node: Node, hint: Any, key: str) -> Any:
        """What a node says for a field of this type."""
        empty = isinstance(node, ScalarNode) and node.style is None and node.value in EMPTY
        if empty and optional(hint):
            return None
        kind, marks = bare(hint)
        origin, inner = get_origin(kind), get_args(kind)
        if is_dataclass(kind):
            return {} if empty else self.section(node, kind, f"{key}.")
        if origin is dict:
            return {} if empty else expanded(self._dictionary(node, inner[1], key), marks)
        if origin is tuple:
            return tuple(self._items(node, inner, key))
        if kind is Any:
            return self._free(node, key)
        text = self._text(node, key)
        if kind is str:
            return expanded(text, marks)
        if origin is Literal:
            return text  # `check` tells the choices
        return _number(text.strip(), kind, key)

    def _dictionary(self, node: Node, inner: Any, key: str) -> dict[str, Any]:
        if not isinstance(node, MappingNode):
            raise UserError(f"{key} takes {{name: value}}, and {{}} for none")
        children = pairs(node, f"{key}.")
        return {
            name: self.value(child, inner, f"{key}: {name}") for name, child in children.items()
        }

    def _items(self, node: Node, inner: tuple[Any, ...], key: str) -> Iterator[Any]:
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        if inner[-1] is Ellipsis:
            inner = (inner[0],) * len(nodes)
        if len(nodes) != len(inner):
            raise UserError(f"{key} takes {len(inner)} values in brackets, as in [0, 1]")
        for child, hint in zip(nodes, inner, strict=True):
            yield self.value(child, hint, key)

    def _free(self, node: Node, key: str) -> Any:
        if isinstance(node, MappingNode):
            return self._dictionary(node, Any, key)
        if isinstance(node, SequenceNode):
            return [self._free(child, key) for child in node.value]
        return told_by_looks(node.value) if node.style is None else node.value

    def _text(self, node: Node, key: str) -> str:
        """A text as it was written, also where YAML takes it for a mapping: a rose: close up."""
        if isinstance(node, ScalarNode):
            return node.value
        start = node.start_mark.index
        if isinstance(node, MappingNode) and len(node.value) == 1 and self.text[start] != "{":
            ((_, last),) = node.value
            if isinstance(last, ScalarNode):
                return self.text[start : last.end_mark.index].rstrip()
        raise UserError(f"{key} takes one value, and was given several")


def _number(text: str, kind: Any, key: str) -> Any:
    if kind is bool:
        if text.lower() not in (*YES, *NO, "1", "0"):
            raise UserError(f"{key}={text[:80]!r} is neither true nor false")
        return text.lower() in (*YES, "1")
    try:
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if kind is float:
            return number
        return int(text) if text.lstrip("+-").replace("_", "").isdigit() else _whole(number)
    except (ValueError, OverflowError):
        article = "whole number" if kind is int else "number"
        raise UserError(f"{key}={text[:80]!r} is not a {article}") from None


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError
    return int(number)


def _as_node(text: str, hint: Any, key: str) -> Node:
    """What stands behind key= as a node: verbatim, but for lists and dictionaries."""
    kind, _ = bare(hint)
    verbatim = ScalarNode("tag:yaml.org,2002:str", text)
    opened = text.lstrip()[:1]
    if get_origin(kind) is tuple and get_args(kind)[0] is str:
        if not text.strip():
            return SequenceNode("", [])
        listed = opened == "[" and text.rstrip()[-1] == "]"
        return SequenceNode("", list(_listed(text.strip()[1:-1], key))) if listed else verbatim
    structured = is_dataclass(kind) or kind is Any or get_origin(kind) in (tuple, dict)
    if structured and opened in ("[", "{"):
        return composed(text, f"override {key}") or verbatim
    return verbatim


def _listed(text: str, key: str) -> Iterator[ScalarNode]:
    """The texts between commas; in quotes they may hold commas."""
    while text := text.strip():
        quote = text[0] if text[0] in "\"'" else ""
        if quote:
            item, closed, text = text[1:].partition(quote)
            between, _, text = text.partition(",")
            if not closed or between.strip():
                raise UserError(f"{key}: a quote is not closed before a comma or the bracket")
        else:
            item, _, text = text.partition(",")
        yield ScalarNode("tag:yaml.org,2002:str", item.strip() if not quote else item)
