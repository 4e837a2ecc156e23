"""What happens to files: cut, a bit flipped, emptied, gone. For tests of what is read again."""

import os
from pathlib import Path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = {"cut": cut, "flipped": flip, "empty": empty, "deleted": delete}
