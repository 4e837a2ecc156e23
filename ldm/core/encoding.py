"""Bytes that are known to be text, in whichever encoding that can be known for sure."""

import codecs
import re
import unicodedata

from ldm.core.errors import UserError

_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ISO_2022 = re.compile(rb"\x1b(\$[@AB]|\$\([CD]|\$\)[ACG])")  # Japanese, Korean, Chinese
_NO_CHARACTER = {"Cc", "Cn", "Co", "Cs"}  # controls, unassigned, private, surrogates


def decoded(data: bytes, where: object) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark or unmistakably without one.

    Line ends stay as they are. Raises UserError that names the line of `where` for bytes in any
    other encoding: no byte says which of the many that is.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                if encoding == "utf-32-le":
                    continue  # UTF-16 whose first character is NUL
                raise _refusal(data, where, encoding.upper(), len(mark), error) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = _without_mark(data, 1 / 16) if 0 in data else None
        if wide is None:
            raise _refusal(data, where, "UTF-8", 0, error) from None
        return wide
    if found := _ISO_2022.search(data):
        line = 1 + len(re.findall(rb"\r\n|\r|\n", data[: found.start()]))
        raise UserError(
            f"{where}, line {line} is not UTF-8 but ISO 2022, as its escapes at byte "
            f"{found.start()} say: save it as UTF-8"
        )
    wide = _without_mark(data, 1 / 2) if 0 in data else None
    return text if wide is None else wide


def _without_mark(data: bytes, least: float) -> str | None:
    """UTF-16 or UTF-32 without its mark, by where its NULs stand; None where it is neither.

    Of the units of UTF-16, each of ASCII has its NUL on the same side; `least` of all must be so.
    """
    low, high = data[::2].count(0), data[1::2].count(0)  # bytes of 0 at even and at odd places
    if 8 * min(low, high) < max(low, high) >= least * len(data) / 2:
        encodings = ["utf-16-le" if high > low else "utf-16-be"]
    else:
        encodings = ["utf-32-le", "utf-32-be"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if all(c in "\t\n\r" or unicodedata.category(c) not in _NO_CHARACTER for c in set(text)):
            return text
    return None


def _refusal(
    data: bytes, where: object, encoding: str, mark: int, error: UnicodeDecodeError
) -> UserError:
    place = mark + error.start
    line = 1 + len(re.findall(rb"\r\n|\r|\n", data[:place]))
    return UserError(
        f"{where}, line {line} is not {encoding} ({error.reason} at byte {place}): save it as UTF-8"
    )
