"""Images from untrusted hands: limits are checked before anything is decoded.

H and W are the model's input height and width.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from encoders.item import Reason, Unencodable
from moontide.errors import Misconfigured, Transient

T = TypeVar("T")
FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_BYTES: Final = 10 * 1024 * 1024
MAX_PIXELS: Final = 25_000_000
# Fetching a URL that an event names is a request forged in our name; object stores are reached with our own keys.
NEVER_ALLOWED: Final = frozenset({"http", "https", "ftp", "file", "local", "data", "sftp", "ssh", "smb", "webhdfs"})
_EXIF_ORIENTATION: Final = 0x0112
_THUMBNAIL_QUALITY: Final = 82
_DECODE_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, KeyError, IndexError,
                         TypeError)  # fmt: skip
#: What says something of the machine, and nothing of the file that was named.
_BROKEN: Final = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
                            errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET})  # fmt: skip
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class ImageLoader:
    """Reads image bytes from where an item may point.

    Args:
        root: the only folder below which local paths are read, also through symbolic links; None refuses them all.
        schemes: object-store schemes that may be read through fsspec, e.g. ``("s3", "gs")``; ``http`` is never one.
        max_bytes: largest file.
        max_pixels: largest width times height, as the header states it.

    Raises:
        Misconfigured: a scheme that is never allowed.
    """

    root: str | os.PathLike[str] | None = None
    schemes: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        refused = NEVER_ALLOWED.intersection(scheme.lower() for scheme in self.schemes)
        if refused:
            raise Misconfigured(
                f"image schemes: expected object stores such as s3 or gs, got {sorted(refused)}; "
                "download such images before they enter moontide, or pass their bytes"
            )

    def read(self, image: bytes | str) -> bytes:
        """The file's bytes, at most `max_bytes`.

        Raises:
            Unencodable: refused, missing or too large.
            Transient: disk or object store failed.
            Misconfigured: an allowed scheme whose fsspec package is not installed.
        """
        if isinstance(image, str):
            data = self._read_uri(image) if "://" in image else self._read_local(image)
        else:
            data = bytes(image)
        if len(data) > self.max_bytes:
            raise Unencodable(Reason.IMAGE_TOO_LARGE, f"expected at most {self.max_bytes} bytes, got more")
        if not data:
            raise Unencodable(Reason.IMAGE_UNREADABLE, "expected an image, got 0 bytes")
        return data

    def _read_local(self, name: str) -> bytes:
        if self.root is None:
            raise Unencodable(Reason.IMAGE_REFUSED, "got a local path; set ImageLoader(root=...) or pass bytes")
        root = Path(self.root).resolve()
        try:
            path = (root / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            _require_working_disk(error)
            raise Unencodable(Reason.IMAGE_MISSING, f"not a usable path ({type(error).__name__})") from error
        if not path.is_relative_to(root):
            raise Unencodable(Reason.IMAGE_REFUSED, "expected a path below the loader's root, got one outside")
        try:
            return _read_regular_file(path, self.max_bytes + 1)
        except (OSError, ValueError) as error:
            _require_working_disk(error)
            raise Unencodable(Reason.IMAGE_MISSING, f"cannot be read ({type(error).__name__})") from error

    def _read_uri(self, uri: str) -> bytes:
        scheme = uri.partition("://")[0].lower()
        if scheme not in self.schemes:
            raise Unencodable(Reason.IMAGE_REFUSED, f"scheme {scheme[:20]!r} is not among the allowed {list(self.schemes)}")
        # "::" chains file systems in fsspec: a second scheme would slip in behind an allowed one.
        if "::" in uri:
            raise Unencodable(Reason.IMAGE_REFUSED, "chained URIs are never read")
        try:
            with fsspec.open(uri, "rb") as file:
                data: bytes = file.read(self.max_bytes + 1)
                return data
        except (FileNotFoundError, IsADirectoryError, ValueError) as error:
            raise Unencodable(Reason.IMAGE_MISSING, f"no such object ({type(error).__name__})") from error
        except PermissionError as error:
            # S3 says so of an object that is not there, and whoever names one of a stranger's must not stop the rest.
            detail = f"image store {scheme}: permission denied, or no such object; give this process the right to read and list"
            raise Unencodable(Reason.IMAGE_REFUSED, detail) from error
        except ImportError as error:
            raise Misconfigured(f"image store {scheme}: expected its fsspec package, got none; install it") from error
        except OSError as error:
            raise Transient(f"image store {scheme}: {type(error).__name__}; retry") from error


def decode(data: bytes, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an image file's first frame, upright, on white, stretched to `size` = (H, W).

    Raises:
        Unencodable: not a JPEG, PNG or WEBP, damaged, or more than `max_pixels`.
    """
    return decode_sizes(data, (size,), max_pixels=max_pixels)[0]


def decode_sizes(data: bytes, sizes: Sequence[tuple[int, int]], *, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.uint8], ...]:
    """As `decode`, once for each of `sizes`, the largest first; the file is decoded once.

    A JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that is twice the largest size: that is fast, and sharp.
    """
    # Twice the target keeps the later resize sharp, whichever way the picture is turned.
    side = 2 * max(max(size) for size in sizes)
    return _decoded(data, side, max_pixels, lambda upright: tuple(_resized(upright, size) for size in sizes))


def thumbnail(data: bytes, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """A JPEG of the same picture, its proportions kept, at most `side` x `side` and never larger than it was.

    It is encoded anew from pixels: nothing else that the file held (EXIF, profiles, what follows the image) is in it.

    Raises:
        Unencodable: as `decode`.
    """

    def encoded(upright: Image.Image) -> bytes:
        upright.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        pixels, file = Image.new("RGB", upright.size), io.BytesIO()
        pixels.paste(upright)
        pixels.save(file, "JPEG", quality=_THUMBNAIL_QUALITY)
        return file.getvalue()

    return _decoded(data, 2 * side, max_pixels, encoded)


def image_root(uri: str) -> str | None:
    """Folder that the image paths of a catalog are relative to; None where the catalog is remote.

    The folder that was named, or the one beside its file; a folder called ``*.parquet`` counts as a file.
    """
    if "://" in uri:
        return None
    path = Path(uri).absolute()
    return str(path if path.is_dir() and path.suffix != ".parquet" else path.parent)


def _decoded(data: bytes, side: int, max_pixels: int, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the picture, upright and RGB; a JPEG may be decoded smaller, but not below `side`.

    Raises:
        Unencodable: as `decode`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise Unencodable(
                        Reason.IMAGE_TOO_LARGE, f"expected at most {max_pixels} pixels, got {image.width}x{image.height}"
                    )
                image.draft("RGB", (side, side))
                return use(_upright(_to_rgb(image), image))
    except _BOMBS as error:
        raise Unencodable(Reason.IMAGE_TOO_LARGE, f"expected at most {max_pixels} pixels, got far more") from error
    except _DECODE_ERRORS as error:
        raise Unencodable(
            Reason.IMAGE_UNREADABLE, f"expected a whole {', '.join(FORMATS)} file ({type(error).__name__})"
        ) from error


def _resized(upright: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0), dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image, dtype=np.int64)
        return Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, (255, 255, 255))
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        # Pixels behind a damaged EXIF block are still good.
        return rgb
    if orientation == 1:
        return rgb
    rgb.getexif()[_EXIF_ORIENTATION] = orientation
    turned: Image.Image = ImageOps.exif_transpose(rgb)
    return turned


def _require_working_disk(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in _BROKEN:
        raise Transient(f"image folder: expected to read it, got {errno.errorcode[error.errno]}; retry") from error


def _read_regular_file(path: Path, limit: int) -> bytes:
    # O_NONBLOCK: opening a FIFO would otherwise wait for a writer for ever.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise FileNotFoundError("not a regular file")
        return file.read(limit)
