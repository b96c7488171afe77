"""Cached features: plain and augmented views in their places, the same from any order of work, no damaged cache believed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from encoders.crops import core_crop  # noqa: E402
from encoders.images import decode  # noqa: E402
from encoders.item import Unencodable  # noqa: E402
from encoders.training.features import CachedFeatures, Frozen, Views  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402

pytestmark = pytest.mark.unit

SIDE = 16


class _Counting:
    """A backbone that is four pixels of the picture; counts the pictures it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        assert x.shape[1:] == (3, SIDE, SIDE) and x.dtype == torch.float32
        return torch.cat([x[:, :, 3, 5], x[:, :1, 12, 9]], dim=1)


def _images(count: int) -> list[bytes]:
    files = []
    for seed in range(count):
        pixels = np.full((40, 32, 3), 250, np.uint8)
        pixels[10:30, 8:20] = np.random.default_rng(seed).integers(0, 200, (20, 12, 3))
        memory = io.BytesIO()
        Image.fromarray(pixels).save(memory, "PNG")
        files.append(memory.getvalue())
    return files


def _frozen() -> Frozen:
    return Frozen(_Counting(), "weights-1")


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("crops", [False, True])
def test_each_view_has_its_place(count: int, crops: bool) -> None:
    images = _images(count)
    built = CachedFeatures.build(images, _frozen(), Views(SIDE, 2, crops=crops))
    assert built.features.shape == (3 + crops, count, 4) and built.features.dtype == np.float16 and built.fresh
    for row, data in enumerate(images):
        plain = decode(data, (SIDE, SIDE))
        expected = [[*plain[3, 5], plain[12, 9, 0]]]
        assert np.allclose(built.features[0, row], np.array(expected[0]) / 255, atol=1e-3)
        if crops:
            crop = core_crop(decode(data, (2 * SIDE, 2 * SIDE)), (SIDE, SIDE))
            assert np.allclose(built.features[-1, row], np.array([*crop[3, 5], crop[12, 9, 0]]) / 255, atol=1e-3)
        assert not np.array_equal(built.features[1, row], built.features[2, row])


def test_neither_batches_nor_threads_nor_order_change_a_row() -> None:
    images = _images(7)
    first = CachedFeatures.build(images, _frozen(), Views(SIDE, 2), batch=1, threads=1).features
    again = CachedFeatures.build([lambda data=data: data for data in images], _frozen(), Views(SIDE, 2), batch=64, threads=4)
    assert np.array_equal(first, again.features)
    turned = CachedFeatures.build(images[::-1], _frozen(), Views(SIDE, 2)).features
    assert np.array_equal(first, turned[:, ::-1])
    other = CachedFeatures.build(images, _frozen(), Views(SIDE, 2, seed=1)).features
    assert np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])


def test_a_cache_is_used_only_for_what_it_was_made_of(tmp_path: Path) -> None:
    images, views = _images(3), Views(SIDE, 1)
    first = CachedFeatures.build(images, _frozen(), views, cache=tmp_path / "new")
    backbone = _frozen()
    again = CachedFeatures.build(images, backbone, views, cache=tmp_path / "new")
    assert not again.fresh and isinstance(again.features, np.memmap) and backbone.features.seen == 0
    assert np.array_equal(first.features, again.features)
    others = (
        (_images(2), views, "weights-1"), (images[::-1], views, "weights-1"), (images, Views(SIDE, 2), "weights-1"),
        (images, Views(SIDE, 1, seed=5), "weights-1"), (images, Views(SIDE, 1, crops=True), "weights-1"), (images, views, "other"),
    )  # fmt: skip
    for files, wanted, digest in others:
        assert CachedFeatures.build(files, Frozen(_Counting(), digest), wanted, cache=tmp_path / "new").fresh


@pytest.mark.parametrize("damage", ["cut", "flipped", "no checksum", "wrong checksum", "empty"])
def test_a_damaged_cache_is_built_anew(tmp_path: Path, damage: str) -> None:
    images, views = _images(3), Views(SIDE, 1)
    first = CachedFeatures.build(images, _frozen(), views, cache=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-5])
    elif damage == "flipped":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no checksum":
        path.with_suffix(".sha256").unlink()
    else:
        path.with_suffix(".sha256").write_bytes(b"\xff" * 64)
    again = CachedFeatures.build(images, _frozen(), views, cache=tmp_path)
    assert again.fresh and np.array_equal(first.features, again.features)
    assert not CachedFeatures.build(images, _frozen(), views, cache=tmp_path).fresh
    assert len(list(tmp_path.iterdir())) == 2


def test_progress_names_speed_and_time_left() -> None:
    said: list[str] = []
    CachedFeatures.build(_images(2), _frozen(), Views(SIDE, 0), say=said.append)
    assert len(said) == 1 and said[0].startswith("features 2/2 pictures, ") and said[0].endswith("s left")


def test_bad_pictures_and_bad_backbones_are_errors(tmp_path: Path) -> None:
    with pytest.raises(Unencodable):
        CachedFeatures.build([*_images(1), b"not a picture"], _frozen(), Views(SIDE, 1), cache=tmp_path)
    assert not list(tmp_path.iterdir())
    for features in (lambda x: x, lambda x: x[:, :, 0, 0] * float("nan"), lambda x: x[:, :, 0, 0] * 1e9):
        with pytest.raises(Misconfigured, match="backbone"):
            CachedFeatures.build(_images(1), Frozen(features, "bad"), Views(SIDE, 0))
