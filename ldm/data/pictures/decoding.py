"""Any image file becomes upright 8-bit sRGB, or a BadImage that says why not."""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, ImageOps

from ldm.data.pictures.bad import BadImage
from ldm.data.pictures.colours import to_rgb
from ldm.data.pictures.jpeg import ends_in_grey, lengthened
from ldm.data.pictures.png import MAGIC, pared
from ldm.data.pictures.profiles import ADOBE, ADOBE_GAMMA, profile
from ldm.data.pictures.samples import deepened, mend, raw_mode

VERSION = 2  # a part of every cache's key: another one reads some images as other pixels
# Pictures, and no programs, documents or films. The last two need a plugin of Pillow's.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF", "JXL")
MOST_PIXELS = 178_956_970  # that are decoded: from there on Pillow sees a decompression bomb
MANY_PIXELS = MOST_PIXELS // 2  # JPEGs of more are decoded at half their size, others one by one
LONGEST_SIDE = 65_535  # as of a JPEG: what is longer is damaged, and takes minutes
MOST_BYTES = 2**31
OTHERS = {  # how files begin that are often met under a picture's name
    rb"\s*<(!doctype|html|\?xml|svg)": "a web page, SVG or XML",
    rb"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    rb"....ftyp(hei|hev|mif|msf)": "HEIC, which Pillow reads with the plugin pillow-heif only",
    rb"....ftyp": "a film",
    rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript",
    rb"%PDF": "PDF",
    rb"PK\x03\x04|\x1f\x8b": "an archive",
}
QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of warnings.filters
_turn = threading.Lock()  # of threads that decode MANY_PIXELS


def _new_turn() -> None:
    """In a process that was forked while a thread had its turn nobody would ever give it back."""
    global _turn
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_new_turn)


def decode(data: str | Path | bytes, name: str) -> Image.Image:
    """Open a file or its bytes: sRGB, upright, transparency over white, the first frame.

    Raises BadImage for what is missing, broken, truncated, no picture or larger than MOST_PIXELS.
    """
    try:
        with _quiet():
            return _decoded(data if isinstance(data, bytes) else _read(data))
    except Image.DecompressionBombError:
        raise BadImage(name, "oversized, a decompression bomb") from None
    except FileNotFoundError:
        raise BadImage(name, "there is no such file") from None
    except Refused as refused:
        raise BadImage(name, str(refused)) from None
    except Exception as error:  # a decoder that meets broken bytes may raise anything
        reason = " ".join(str(error).split())
        if not reason or not isinstance(error, OSError | ValueError | SyntaxError):
            reason = f"{type(error).__name__} {reason}".rstrip()
        raise BadImage(name, f"cannot be decoded: {reason}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as training sees it: a new one, upright, in sRGB, transparency over white.

    Raises ValueError where it has deep samples whose range cannot be told.
    """
    with _quiet():
        return to_rgb(_upright(image))


class Refused(ValueError):
    """A file that is sound, perhaps, but is not to be read."""


@contextmanager
def _quiet() -> Iterator[None]:
    """What Pillow warns of is refused or harmless here.

    warnings.catch_warnings is not for threads: of two that overlap, one's filters stay for good.
    """
    warnings.filters.insert(0, QUIET)  # type: ignore[attr-defined]  # it is a list
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody has put another list in its place
            warnings.filters.remove(QUIET)  # type: ignore[attr-defined]


def _read(path: str | Path) -> bytes:
    """A whole file, so that one which changes meanwhile cannot end the process under a decoder."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise Refused("is not a file but a folder, a pipe or a device")
    if about.st_size > MOST_BYTES:
        raise Refused(f"oversized, {about.st_size:,} bytes")
    return Path(path).read_bytes()


def _opened(data: bytes) -> ImageFile.ImageFile:
    """A picture, its header read: as Image.open, but of FORMATS only and without a limit."""
    Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is not None and accepts is not None and accepts(data[:16]) is True:
            return factory(BytesIO(data), "")  # without a name nothing is mapped into memory
    if not data:
        raise Refused("is empty")
    for begins, told in OTHERS.items():
        if re.match(begins, data[:64], re.IGNORECASE | re.DOTALL):
            raise Refused(f"is no picture that is read, but {told}")
    raise Refused(f"is no picture of a kind that is read: {', '.join(FORMATS[:-2])}")


def _decoded(data: bytes) -> Image.Image:
    icc: bytes | None = None
    if data.startswith(MAGIC):
        data, icc = pared(data)
    with _opened(data) as image:
        if icc is not None:
            image.info["icc_profile"] = icc
        width, height = image.size
        many = width * height > MANY_PIXELS
        jpeg = image.format in ("JPEG", "MPO")
        half = (width // 2, height // 2) if many and jpeg else None
        if half:
            image.draft(None, half)
        if image.width * image.height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
            raise Refused(f"oversized, {width}x{height} pixels")
        with _turn if many else nullcontext():
            mend(image)
            raw = raw_mode(image)
            image.load()
            if jpeg and ends_in_grey(image) and _is_cut(image, data, half):
                raise Refused("is cut off, though an end was put to it")
            if "icc_profile" not in image.info and _is_adobe_rgb(image):
                image.info["icc_profile"] = profile(ADOBE, ADOBE_GAMMA)
            whole = deepened(_upright(image), raw, lambda: _opened(data), _upright)
            return to_rgb(whole)


def _is_cut(image: Image.Image, data: bytes, size: tuple[int, int] | None) -> bool:
    """Whether a JPEG, decoded at a draft's `size` if there is one, would go on after its data."""
    try:
        with _opened(lengthened(data)) as longer:
            if size:
                longer.draft(None, size)
            return longer.tobytes() != image.tobytes()
    except OSError:
        return False


def _upright(image: Image.Image) -> Image.Image:
    """By its EXIF orientation; itself where it stands upright already."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
        return (turned and ImageOps.exif_transpose(image)) or image
    except Exception:  # the pixels are fine; only the EXIF block is broken
        return image


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Cameras say so without a profile: EXIF's colour space 2, or uncalibrated with R03 (DCF)."""
    try:
        exif = image.getexif()
        if not exif:
            return False
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        if space == 65535:
            return exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
        return space == 2
    except Exception:
        return False
