"""Images from untrusted hands: bombs, escapes and odd files end in a reason, never in memory or in a traceback."""

from __future__ import annotations

import io
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import ImageLoader, Reason, Unencodable
from encoders.images import decode, decode_sizes, thumbnail
from moontide import Misconfigured, Transient

pytestmark = pytest.mark.unit

SIZE = (96, 96)


def _reason(data: bytes, **limits: int) -> Reason:
    with pytest.raises(Unencodable) as caught:
        decode(data, SIZE, **limits)
    return caught.value.reason


def _png(width: int, height: int, *, rows: int | None = None) -> bytes:
    """A PNG of one colour in a few kilobytes; with `rows`, one that ends after that many."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((1, 0, 0, 0, 0))
    pixels = zlib.compress((b"\0" + bytes((width + 7) // 8)) * (height if rows is None else rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_allowed_formats(make_image, kind: str) -> None:
    pixels = decode(make_image(3, (200, 300), kind), SIZE)
    assert pixels.shape == (96, 96, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "ICO"])
def test_other_formats_are_unreadable(make_image, kind: str) -> None:
    assert _reason(make_image(0, kind=kind)) is Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"GIF89a", b"\xff\xd8\xff", b"%PDF-1.7", b"<svg/>"])
def test_rubbish_is_unreadable(data: bytes) -> None:
    assert _reason(data) is Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_anywhere_is_unreadable(make_image, kind: str) -> None:
    whole = make_image(5, (120, 90), kind)
    for part in (0.1, 0.5, 0.9):
        assert _reason(whole[: int(len(whole) * part)]) is Reason.IMAGE_UNREADABLE, part


def test_a_bomb_is_refused_from_its_header() -> None:
    bomb = _png(9000, 9000)
    assert len(bomb) < 20_000
    tracemalloc.start()
    assert _reason(bomb) is Reason.IMAGE_TOO_LARGE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    # Beyond Pillow's own limit it is Pillow that refuses.
    assert _reason(_png(20_000, 20_000, rows=1)) is Reason.IMAGE_TOO_LARGE


def test_pixel_cap_is_inclusive(make_image) -> None:
    data = make_image(0, (50, 40))
    assert decode(data, SIZE, max_pixels=2000).shape == (96, 96, 3)
    assert _reason(data, max_pixels=1999) is Reason.IMAGE_TOO_LARGE


def test_byte_cap(make_image, tmp_path: Path) -> None:
    data = make_image(0)
    (tmp_path / "a.jpg").write_bytes(data)
    assert ImageLoader(max_bytes=len(data)).read(data) == data
    for image in (data, "a.jpg"):
        with pytest.raises(Unencodable, match="image_too_large"):
            ImageLoader(root=tmp_path, max_bytes=len(data) - 1).read(image)


def test_only_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (decode(file.getvalue(), SIZE).mean(axis=(0, 1)).argmax()) == 0


def test_modes_end_as_rgb_on_white(make_image) -> None:
    clear = io.BytesIO()
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(clear, "PNG")
    assert decode(clear.getvalue(), SIZE).min() == 255
    for mode, kind in (("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG")):
        assert decode(make_image(1, kind=kind, mode=mode), SIZE).shape == (96, 96, 3)
    deep = io.BytesIO()
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(deep, "PNG")
    assert abs(int(decode(deep.getvalue(), SIZE).mean()) - 156) <= 1


def test_orientation_is_applied() -> None:
    left_dark = Image.fromarray(np.tile(np.repeat(np.array([0, 255], np.uint8), 32), (64, 1))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    left_dark.save(file, "JPEG", exif=exif.tobytes())
    pixels = decode(file.getvalue(), SIZE).astype(int)
    assert pixels[:40].mean() < 60 < 200 < pixels[56:].mean()


def test_local_paths_stay_below_the_root(tmp_path: Path, make_image) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    for folder in (root / "sub", outside):
        (folder / "a.jpg").write_bytes(make_image(0))
    (root / "link.jpg").symlink_to(outside / "a.jpg")
    (root / "linked").symlink_to(outside)
    (root / "inner.jpg").symlink_to(root / "sub" / "a.jpg")
    loader = ImageLoader(root=root)
    for good in ("sub/a.jpg", "sub/../sub/a.jpg", "inner.jpg", str(root / "sub" / "a.jpg")):
        assert loader.read(good)
    for bad in ("../outside/a.jpg", "link.jpg", "linked/a.jpg", str(outside / "a.jpg"), "/etc/passwd", "../../etc/passwd"):
        with pytest.raises(Unencodable, match="image_refused"):
            loader.read(bad)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nothing.jpg", "nul\0byte", "n" * 5000):
        with pytest.raises(Unencodable, match="image_missing"):
            ImageLoader(root=tmp_path).read(name)


def test_no_root_no_local_files() -> None:
    with pytest.raises(Unencodable, match="image_refused"):
        ImageLoader().read("a.jpg")


@pytest.mark.parametrize("uri", ["http://h/a.jpg", "https://h/a.jpg", "file:///etc/passwd", "s3://b/a.jpg", "HTTP://h/a",
                                 "memory::http://h/a.jpg", "simplecache::memory://a", "data:image/png;base64,AA", "://"])  # fmt: skip
def test_uris_are_refused_unless_allowed(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Unencodable, match="image_refused|image_missing"):
        ImageLoader(root=tmp_path).read(uri)


def test_an_allowed_scheme_is_read(make_image) -> None:
    import fsspec

    with fsspec.open("memory://encoders-test/a.jpg", "wb") as file:
        file.write(make_image(0))
    loader = ImageLoader(schemes=("memory",))
    assert loader.read("memory://encoders-test/a.jpg") == make_image(0)
    with pytest.raises(Unencodable, match="image_missing"):
        loader.read("memory://encoders-test/b.jpg")
    with pytest.raises(Unencodable, match="image_refused"):
        loader.read("memory://encoders-test/a.jpg::file:///etc/passwd")
    with pytest.raises(Unencodable, match="image_too_large"):
        ImageLoader(schemes=("memory",), max_bytes=10).read("memory://encoders-test/a.jpg")


def test_a_failing_store_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr("encoders.images.fsspec.open", fail)
    with pytest.raises(Transient):
        ImageLoader(schemes=("memory",)).read("memory://a.jpg")


def test_a_failing_disk_is_transient_and_blames_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_image) -> None:
    import errno

    (tmp_path / "a.jpg").write_bytes(make_image(0))
    loader = ImageLoader(root=tmp_path)
    for code, kind in (
        (errno.EMFILE, Transient),
        (errno.EIO, Transient),
        (errno.EACCES, Unencodable),
        (errno.ENOENT, Unencodable),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("encoders.images.os.open", lambda *_, code=code: _raise(code))
            with pytest.raises(kind):
                loader.read("a.jpg")
    assert loader.read("a.jpg") == make_image(0)


def _raise(code: int) -> None:
    raise OSError(code, "no")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(PermissionError(), Unencodable), (ValueError("Bad bucket name"), Unencodable), (ImportError("s3fs"), Misconfigured)],
)
def test_what_an_event_names_stops_nobody(raised: Exception, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's bucket, or a name that is none, says something of the item alone."""

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("encoders.images.fsspec.open", fail)
    with pytest.raises(kind):
        ImageLoader(schemes=("s3",)).read("s3://b/a.jpg")


@pytest.mark.parametrize("scheme", ["http", "HTTPS", "file", "local"])
def test_schemes_that_can_never_be_allowed(scheme: str) -> None:
    with pytest.raises(Misconfigured, match="object stores"):
        ImageLoader(schemes=(scheme,))


def test_a_large_jpeg_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000), (200, 30, 30)).save(file, "JPEG")
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(image: Image.Image, *args: object, **named: object) -> Image.Image:
        sizes.append(image.size)
        return resize(image, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    pixels = decode(file.getvalue(), (128, 128))
    assert sizes[0] == (500, 375)
    assert np.abs(pixels.astype(int) - (200, 30, 30)).max() <= 3


def test_several_sizes_of_one_file(make_image) -> None:
    data = make_image(4, (300, 200))
    small, large = decode_sizes(data, ((32, 32), (64, 48)))
    assert small.shape == (32, 32, 3)
    assert large.shape == (64, 48, 3)
    assert np.abs(decode(data, (32, 32)).astype(int) - small).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("size", "expected"), [((400, 100), (96, 24)), ((100, 400), (24, 96)), ((40, 30), (40, 30))])
def test_a_thumbnail_keeps_proportions_and_is_never_larger(make_image, kind: str, size, expected) -> None:
    with Image.open(io.BytesIO(thumbnail(make_image(1, size, kind), 96))) as small:
        assert (small.format, small.mode, small.size) == ("JPEG", "RGB", expected)


def test_a_thumbnail_is_pixels_and_nothing_else_of_the_file(make_image) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    with Image.open(io.BytesIO(make_image(1, (200, 100)))) as image:
        file = io.BytesIO()
        image.save(file, "JPEG", exif=exif, comment=b"a secret word")
    data = file.getvalue() + b"<script>a secret tail</script>"
    assert data.count(b"secret") == 3
    small = thumbnail(data, 64)
    assert b"secret" not in small and b"Exif" not in small
    with Image.open(io.BytesIO(small)) as turned:
        assert turned.size == (32, 64)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff"])
def test_a_thumbnail_of_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(Unencodable):
        thumbnail(data, 64)
    with pytest.raises(Unencodable) as caught:
        thumbnail(_png(6_000, 6_000), 64)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
