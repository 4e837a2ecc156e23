"""CSV as people and programs write it: any usual delimiter, and no row read as something else."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldm.core.encoding import decoded
from ldm.core.errors import UserError
from ldm.data.tables.columns import LABELS, NAMES, duplicate, find
from ldm.data.tables.rows import Rows

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_LONGEST = 2**31 - 1  # characters in a cell; the module's own limit is 131,072
_IMAGE = re.compile(
    r"\.(jpe?g?|jfif|a?png|webp|gif|bmp|tiff?|avif|jp2|p[pgbn]m|hei[cf]|jxl)$", re.IGNORECASE
)
_TOKENS = re.compile(r"[^\t]+\.\w{3,4}#\d+\t")  # Flickr8k: name.jpg#0, a tab, a caption


def delimited_rows(path: Path, file_column: str | None) -> Rows:
    """The rows of a CSV or TSV file, empty ones left out, as text; a missing cell is no key.

    The delimiter is the one by which the header has a column of file names. Raises UserError with
    the line where a quote is not closed, or where a row has more cells than the header.
    """
    lines = _lines(decoded(path.read_bytes(), path))
    if lines and (told := re.fullmatch(r'"?sep=(.)"?\s*', lines[0])):  # Excel reads it so
        delimiter, first = told[1], 1
    else:
        delimiter, first = None, 0
    while first < len(lines) and not lines[first].strip():
        first += 1
    if first == len(lines):
        return Rows([], [])
    if _TOKENS.match(lines[first]):
        return _tokens(path, lines)
    if delimiter is None:
        delimiter = _delimiter(lines[first], file_column, path.suffix.lower() == ".tsv")
    try:
        return _parsed(path, lines, first, delimiter, file_column)
    except _Unreadable as error:
        if any('\\"' in line or f"\\{delimiter}" in line for line in lines):  # as some escape
            try:
                return _parsed(path, lines, first, delimiter, file_column, "\\")
            except UserError:
                pass
        raise error from None


class _Unreadable(UserError):
    """A quote that is not closed where it should be."""


def _lines(text: str) -> list[str]:
    """The lines with their ends, which are those of old Macs where the first one is."""
    first = re.search(r"\r(?!\n)|\n", text)
    if first and first[0] == "\r":
        return re.findall(r"[^\r]*\r|[^\r]+", text)
    return io.StringIO(text, newline="\n").readlines()


def _tokens(path: Path, lines: list[str]) -> Rows:
    """The rows of name.jpg#0, a tab, a caption: no header, no quotes."""
    values, numbers = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not _TOKENS.match(line):
            raise UserError(f"{path}, line {number} is not a file's name with #0, a tab, a caption")
        name, _, caption = line.rstrip("\r\n").partition("\t")
        values.append({"file_name": name.rpartition("#")[0], "caption": caption})
        numbers.append(number)
    return Rows(values, numbers)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # which is said when the rows are read
        cells = line.split(delimiter)
    return [cell.strip() for cell in cells]


def _delimiter(header: str, file_column: str | None, tabs: bool) -> str:
    """The delimiter by which the header has the column of the files, and the most columns."""

    def fitness(delimiter: str) -> tuple[bool, int]:
        cells = _cells(header, delimiter)
        found = file_column in cells if file_column else find(cells, NAMES) is not None
        return found, len(cells)

    order = sorted(DELIMITERS, key="\t".__eq__, reverse=True) if tabs else list(DELIMITERS)
    return max(order, key=fitness)


def _reader(lines: Sequence[str], delimiter: str, escape: str | None) -> Iterator[list[str]]:
    return csv.reader(
        iter(lines),
        delimiter=delimiter,
        doublequote=escape is None,
        escapechar=escape,
        skipinitialspace=True,
        strict=True,
    )


def _parsed(
    path: Path,
    lines: list[str],
    first: int,
    delimiter: str,
    file_column: str | None,
    escape: str | None = None,
) -> Rows:
    limit = csv.field_size_limit(_LONGEST)
    try:
        return _read(path, lines[first:], first, delimiter, file_column, escape)
    finally:
        csv.field_size_limit(limit)


def _read(
    path: Path,
    lines: list[str],
    skipped: int,
    delimiter: str,
    file_column: str | None,
    escape: str | None,
) -> Rows:
    reader, before = _reader(lines, delimiter, escape), 0  # lines that an earlier reader has read
    header: list[str] = []
    values: list[dict[str, str]] = []
    numbers: list[int] = []
    short: set[int] = set()
    whole = begin = 0
    while True:
        begin = before + reader.line_num  # type: ignore[attr-defined]
        where = f"{path}, line {skipped + begin + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if "new-line" in str(error):
                raise UserError(
                    f"{where} breaks in another way than the lines of the file end: put quotes "
                    "around that text"
                ) from None
            one = before + reader.line_num == begin + 1  # type: ignore[attr-defined]
            plain = _plain(lines[begin], delimiter, len(header)) if one else None
            if plain is None:
                raise _Unreadable(
                    f"{where}: a quote opens in this row and is not closed where its cell ends "
                    f'({error}); close it, and write a quote inside of quotes twice: ""'
                ) from None
            cells, before = plain, begin + 1
            reader = _reader(lines[before:], delimiter, escape)
        end = before + reader.line_num  # type: ignore[attr-defined]
        if end - begin > 1 and _swallowed(cells, delimiter):
            raise _Unreadable(
                f"{where}: a quote opens in this row and is closed only in line {skipped + end}, "
                "with other rows between; close it where its cell ends"
            )
        if not any(map(str.strip, cells)):
            continue
        if not header:
            header = _header(where, cells)
            continue
        if len(cells) > len(header):
            cells, mended = _mended(where, cells, header, lines[begin:end], delimiter, file_column)
            whole += mended
        elif len(cells) < len(header):
            short.add(skipped + begin + 1)
        values.append({k: cell for k, cell in zip(header, cells, strict=False) if k})
        numbers.append(skipped + begin + 1)
    notes: tuple[str, ...] = ()
    if whole:
        notes = (
            f"{whole} of {len(values)} rows of {path} have a {DELIMITERS.get(delimiter, delimiter)}"
            " without quotes in their text, which is read whole",
        )
    if short:
        notes += (
            f"{len(short)} of {len(values)} rows of {path} have fewer cells than the header, so "
            f"that what stands in the last ones is missing: the first in line {min(short)}",
        )
    return Rows(values, numbers, notes, short=frozenset(short))


def _plain(line: str, delimiter: str, count: int) -> list[str] | None:
    """The cells of a row in which some begin with a quoted word, where they are as many as needed.

    In `"big" rose` the quotes are text. In `"a "big" rose"` it is not clear which of them are.
    """
    cells = [cell.strip() for cell in line.rstrip("\r\n").split(delimiter)]
    if len(cells) != count or '\\"' in line:
        return None
    for number, cell in enumerate(cells):
        if cell.startswith('"'):
            if cell.count('"') % 2 or ('"' in cell[1:-1] and cell.endswith('"')):
                return None
            cells[number] = cell[1:-1] if cell.endswith('"') else cell
    return cells


def _swallowed(cells: list[str], delimiter: str) -> bool:
    """Whether a cell of several lines holds lines that are rows, as each names an image."""
    for cell in cells:
        begun, *more = re.split(r"\r\n|\r|\n", cell)
        for line in [begun, *more] if more and delimiter in begun else more:
            if any(_IMAGE.search(part.strip(' "')) for part in line.split(delimiter)):
                return True
    return False


def _header(where: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    while header and not header[-1]:  # a delimiter at the end of the line names no column
        header.pop()
    twice = duplicate(name for name in header if name)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {twice!r}; give each a name of its own")
    image = next(filter(_IMAGE.search, header), None)
    if image is not None:
        raise UserError(
            f"{where} has {image!r} where the names of the columns should be; "
            "put a first line above it, such as file_name,text"
        )
    return header


def _mended(
    where: str,
    cells: list[str],
    header: list[str],
    lines: list[str],
    delimiter: str,
    file_column: str | None,
) -> tuple[list[str], bool]:
    """A row of too many cells, and whether its text was put together again; raises UserError.

    That can be done in a table of two columns, where what is not the file's name is the text.
    """
    surplus = cells[len(header) :]
    if not any(map(str.strip, surplus)):
        return cells[: len(header)], False
    line = lines[0].rstrip("\r\n")
    if f"\\{delimiter}" in line:
        raise _Unreadable(f"{where} has {len(cells)} cells and the header {len(header)}")
    file = file_column if file_column in header else find(header, NAMES)
    quoted = re.search(rf'(^|{re.escape(delimiter)})\s*"', line)  # elsewhere quotes are text
    plain = len(header) == 2 and file is not None and all(header) and not quoted
    other = header[1 - header.index(file)] if plain and file is not None else None
    if other is not None and find([other], LABELS) is None:
        if header[0] == file:
            return [part.strip() for part in line.split(delimiter, 1)], True
        return [part.strip() for part in line.rsplit(delimiter, 1)], True
    raise UserError(
        f"{where} has {len(cells)} cells and the header {len(header)}: put quotes around the text "
        f"that holds a {DELIMITERS.get(delimiter, delimiter)}"
    )
