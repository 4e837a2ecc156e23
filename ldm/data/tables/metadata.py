"""The files beside images that say something about them: JSON lines, CSV, parquet."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm.core.encoding import decoded
from ldm.core.errors import UserError
from ldm.data.tables.columns import NAMES, duplicate, find, listed, named
from ldm.data.tables.delimited import delimited_rows
from ldm.data.tables.rows import Rows


def read_metadata(path: Path, file_column: str | None) -> tuple[list[Any], Rows]:
    """The file that each row names, and the row without it.

    `file_column` names the column of the files; else it is found by its usual names. Raises
    UserError with the line of what cannot be read, or of a row that names no file.
    """
    try:
        rows = READERS[path.suffix.lower()](path, file_column)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    keys = list(dict.fromkeys(key for row in rows.values for key in row))
    column = named(keys, file_column, str(path), "image") if file_column else find(keys, NAMES)
    if rows.values and column is None:
        raise UserError(
            f"{path} does not say which image a row is of: it needs a column 'file_name'; "
            f"its columns are {listed(keys)}"
        )
    names = [row.pop(column or "", None) for row in rows.values]
    for name, line in zip(names, rows.lines, strict=True):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}, {rows.unit} {line} has no {column!r}")
    return names, rows


def _delimited(path: Path, file_column: str | None) -> Rows:
    return delimited_rows(path, file_column)


def _json_lines(path: Path, file_column: str | None) -> Rows:
    """One object a line; or one list of objects in the whole file."""
    text = decoded(path.read_bytes(), path)
    if text.lstrip().startswith("["):
        found = _list(path, text)
        if found is not None:
            return Rows(found, range(1, len(found) + 1), unit="row")
    values, lines = [], []
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} {_fault(error)}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a JSON object of columns")
        if line.count('":') + line.count('" :') > len(row):  # a nested object, or a key twice
            json.loads(line, object_pairs_hook=_unique(f"{path}, line {number}"))
        values.append(row)
        lines.append(number)
    return Rows(values, lines)


def _list(path: Path, text: str) -> list[dict[str, Any]] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None  # said of its line
    objects = isinstance(found, list) and all(isinstance(row, dict) for row in found)
    return found if objects else None


def _fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "cannot be read as JSON: nested too deep"
    return f"cannot be read as JSON: {error}"  # a number of 4,301 digits


def _unique(where: str) -> Callable[[list[tuple[str, Any]]], None]:
    def check(pairs: list[tuple[str, Any]]) -> None:
        twice = duplicate(key for key, _ in pairs)
        if twice is not None:
            raise UserError(f"{where} has the key {twice!r} twice; give each a name of its own")

    return check


def _parquet(path: Path, file_column: str | None) -> Rows:
    """The rows of a parquet file, without its columns of bytes."""
    import pyarrow as pa  # only here, as it takes long to import
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        kept = [f.name for f in table.schema if not pa.types.is_binary(f.type)]
        values = table.select(kept).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as parquet: {reason}") from None
    return Rows(values, range(1, len(values) + 1), unit="row")


READERS: dict[str, Callable[[Path, str | None], Rows]] = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".txt": _delimited,
    ".parquet": _parquet,
}
