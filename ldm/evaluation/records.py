"""Figures as JSON, and read back as what they were: dataclasses, NaN for what is not defined."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

R = TypeVar("R", bound="Record")


class Record:
    """A dataclass that is written as JSON and read back typed."""

    def summary(self) -> dict[str, Any]:
        """As JSON; a field that may be left out, and is None, is left out."""
        said = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}  # type: ignore[arg-type]
        kept = {k: v for k, (v, default) in said.items() if v is not None or default is not None}
        return jsonable(kept)

    @classmethod
    def read(cls: type[R], row: Mapping[str, Any]) -> R:
        """The inverse; what `row` has beside the fields is left out.

        Raises ValueError where it is no mapping, or a field without a default is missing.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"{cls.__name__} is no mapping")
        types = get_type_hints(cls)
        known: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            if field.name in row:
                known[field.name] = _value(types[field.name], row[field.name])
            elif field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{cls.__name__} has no {field.name}")
        return cls(**known)


def _value(kind: Any, value: Any) -> Any:
    """`value` of JSON as a field of type `kind` holds it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is UnionType:  # with None
        (kind,) = (k for k in inside if k is not NoneType)
        return None if value is None else _value(kind, value)
    if kind is float:
        return math.nan if value is None else float(value)
    if origin is list:
        return [_value(inside[0], one) for one in value]
    if origin is tuple:
        kinds = inside[:1] * len(value) if inside[-1] is ... else inside
        return tuple(_value(k, one) for k, one in zip(kinds, value, strict=True))
    if origin in (dict, Mapping):
        return {key: _value(inside[1], one) for key, one in value.items()}
    return kind.read(value) if isinstance(kind, type) and issubclass(kind, Record) else value


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it: records as dictionaries, arrays and their scalars as numbers.

    NaN and infinity are null.
    """
    if isinstance(value, Record):
        return jsonable(value.summary())
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    if hasattr(value, "tolist"):  # an array or a scalar of NumPy or torch
        return jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
