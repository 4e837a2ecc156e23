"""What lies in a folder of images, and how a table's names are found in it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from glob import escape
from pathlib import Path
from unicodedata import normalize

from PIL import Image

from ldm.core.errors import UserError
from ldm.data.pictures.decoding import FORMATS
from ldm.data.tables.splits import role

_OTHERS = (
    ".heic .heif .hif .avif .jxl .jp2 .j2k .jxr .svg .svgz .psd .psb .ai .eps .ps .pdf .xcf .kra "
    ".tga .exr .hdr .ico .icns .dds .pcx .qoi .apng .wmf .emf "
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .orf .rw2 .raf .raw .pef .srw .x3f .3fr .iiq .gpr "
    ".zip .gz .tgz .bz2 .xz .7z .rar .tar "
    ".mp4 .m4v .mov .avi .mkv .webm .gifv .mpg .mpeg .wmv .3gp"
)
UNREAD = frozenset(_OTHERS.split(" "))  # what else people have among their images


@cache
def suffixes() -> frozenset[str]:
    """How the names of pictures end that Pillow reads here, as far as they are to be read."""
    kinds = Image.registered_extensions().items()
    return frozenset(end for end, kind in kinds if kind in FORMATS and kind in Image.OPEN)


class Listing:
    """Every file below a folder, hidden ones left out; folders that are linked are followed.

    A folder that is reached twice is read once, so circles of links end; it is called as a link to
    it where that is a split's name, or has fewer folders above it. Paths are relative to the
    folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._twice: dict[str, str] = {}  # folders by another name than they are read by here
        self.lost = 0  # images that are links to nothing
        self.linked: set[str] = set()  # images that are links
        self.closed: list[str] = []  # folders that may not be read
        walked = list(self._walk())
        self._renamed = self._names_of_links()
        images: list[str] = []
        self.others: list[str] = []
        for at, entries in walked:
            called = self._called(at)
            for name, linked in entries:
                image = suffix(name) in suffixes()
                path = os.path.join(called, name)
                (images if image else self.others).append(path)
                if image and linked:
                    self.linked.add(path)
        self.images = sorted(images, key=lambda path: path.split(os.sep))
        self.others.sort(key=lambda path: path.split(os.sep))

    def _walk(self) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
        """Each folder, and the names of the files in it with whether they are links."""
        seen: dict[tuple[int, int], str] = {}
        folders: list[str] = [""]
        links: list[str] = []
        while folders or links:
            linked = not folders
            if linked:  # what a folder is called without a link counts
                links.sort(reverse=True)
            at = links.pop() if linked else folders.pop()
            place = os.path.join(self.folder, at)
            try:
                state = os.stat(place)
                if (first := seen.setdefault((state.st_dev, state.st_ino), at)) != at:
                    self._twice[at] = first
                    continue
                entries = list(os.scandir(place))
            except OSError as error:
                if not at:
                    raise UserError(f"{place} cannot be read: {error.strerror}") from None
                self.closed.append(at)
                continue
            files: list[tuple[str, bool]] = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is(entry.is_dir):
                    path = os.path.join(at, entry.name)
                    (links if entry.is_symlink() else folders).append(path)
                elif _is(entry.is_file):
                    files.append((entry.name, entry.is_symlink()))
                elif entry.is_symlink() and suffix(entry.name) in suffixes():
                    self.lost += 1
            yield at, files

    def _names_of_links(self) -> dict[str, str]:
        """The folders that are called as a link to them, each with that name."""
        renamed: dict[str, str] = {}
        for link, folder in sorted(self._twice.items(), key=lambda item: (_order(item[0]), item)):
            circle = not folder or link.startswith(folder + os.sep)
            if not circle and _order(link) < _order(folder):
                renamed.setdefault(folder, link)
        if renamed:
            names = {link: self._called(folder, renamed) for link, folder in self._twice.items()}
            names |= {folder: self._called(folder, renamed) for folder in renamed}
            self._twice = {name: called for name, called in names.items() if name != called}
        return renamed

    def _called(self, folder: str, renamed: Mapping[str, str] | None = None) -> str:
        """The best of the names that links give a folder, or one that it lies in; else its own."""
        renamed = self._renamed if renamed is None else renamed
        if not renamed:
            return folder
        names, parts = [folder], folder.split(os.sep)
        for count in range(1, len(parts) + 1):
            if link := renamed.get(os.sep.join(parts[:count])):
                names.append(os.path.join(link, *parts[count:]))
        return min(names, key=_order)

    def notes(self) -> tuple[str, ...]:
        """What a user may not know of the folder, a sentence each."""
        notes = []
        ends = Counter(suffix(path) for path in self.others).most_common()
        unread = {end: n for end, n in ends if end in UNREAD}
        if unread:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in unread.items())
            notes.append(f"{kinds} in {self.folder} cannot be read and are left out")
        if set(self._twice).difference(self._renamed):
            notes.append(
                f"linked folders in {self.folder} that lead to folders that are there already, and "
                f"are left out: {len(set(self._twice).difference(self._renamed))}"
            )
        if self._renamed:
            told = ", ".join(f"{name} as {link}" for name, link in self._renamed.items())
            notes.append(f"folders in {self.folder} that are read as links call them: {told}")
        if self.lost:
            notes.append(f"images in {self.folder} that are links to nothing: {self.lost}")
        if self.closed:
            notes.append(
                f"folders in {self.folder} that may not be read, and are left out: "
                f"{len(self.closed)}, first {self.closed[0]}"
            )
        return tuple(notes)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.images)

    @cached_property
    def _alike(self) -> dict[str, str | None]:
        """The only path of each spelling; None where several are spelt alike."""
        alike: dict[str, str | None] = {}
        for path in self.images:
            key = _folded(path)
            alike[key] = path if key not in alike else None
        return alike

    @cached_property
    def _bare(self) -> dict[str, str | None]:
        """The only path that ends in each name; None where several do."""
        bare: dict[str, str | None] = {}
        for path in self.images:
            key = _folded(path.rpartition(os.sep)[2])
            bare[key] = path if key not in bare else None
        return bare

    def find(self, name: str, beside: str) -> str:
        """The path of the image that a table in the folder `beside` calls `name`.

        Exactly so; else with slashes for backslashes, in another Unicode form or in another case;
        else, for a name without a folder, wherever below `beside` the one image of that name is.
        A path that leaves the folder begins with "../" or is absolute. Where there is no such file,
        it is the path where it should be.
        """
        path = os.path.join(beside, name)
        if path in self._known:
            return path
        tried = spellings(name)
        joined = (os.path.normpath(os.path.join(beside, each)) for each in tried)
        paths = [inside(self.folder, path) for path in joined]
        for path in map(self._once, paths):
            if path in self._known or os.path.isfile(os.path.join(self.folder, path)):
                return path
        found = self._alike.get(_folded(paths[1]))
        if found is None and "/" not in tried[1]:
            found = self._bare.get(_folded(tried[1]))
            if found is not None and not found.startswith(os.path.join(beside, "")):
                found = None
        return found or paths[0]

    def _once(self, path: str) -> str:
        """The path by which the walk came to a file, for one that goes through other links."""
        for link, folder in self._twice.items():
            if path.startswith(link + os.sep):
                return os.path.normpath(os.path.join(folder, path[len(link) + 1 :]))
        return path


def inside(folder: str | Path, path: str) -> str:
    """A path that is absolute or leads out of the folder relative to it, if it leads in again."""
    if leaves(path) and "\0" not in path:  # which realpath does not bear
        for real in (os.path.abspath, os.path.realpath):  # the second follows links
            root = real(folder)
            relative = os.path.relpath(real(os.path.join(root, path)), root)
            if not leaves(relative):
                return relative
    return path


def _order(folder: str) -> tuple[bool, int]:
    """Of the names of one folder, the first in this order says most: of a split, or of a class."""
    parts = folder.split(os.sep)
    return not any(role(part, longer=True) for part in parts), len(parts)


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a circle of links, a folder that may not be read
        return False


def leaves(path: str) -> bool:
    """Whether a normal path lies outside of the folder that it is relative to."""
    return os.path.isabs(path) or path.split(os.sep)[0] == os.pardir


def suffix(name: str) -> str:
    """How a file's name ends, in small letters."""
    return os.path.splitext(name)[1].lower()


def spellings(name: str) -> list[str]:
    """A file's name as it is written; with slashes for backslashes; in the two Unicode forms."""
    plain = name.strip().replace("\\", "/")
    return [name, plain, normalize("NFC", plain), normalize("NFD", plain)]


def _folded(path: str) -> str:
    return normalize("NFC", path.replace("\\", "/")).casefold()


def pattern(path: str) -> str:
    """A path as a pattern, where the brackets in the names of what is there match themselves."""
    if escape(path) == path or os.path.exists(path):
        return escape(path)
    folder, name = os.path.split(path)
    return os.path.join(pattern(folder), name) if folder != path else path


def sound(name: str) -> str:
    r"""A file's name as text: a byte that is not UTF-8 is written \udc80 to \udcff."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
