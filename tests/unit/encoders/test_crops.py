"""Core crops: tight around a product on a plain ground, the whole picture when nothing stands out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoders.crops import BORDER, core_crop

pytestmark = pytest.mark.unit


def _product(height: int, width: int, box: tuple[int, int, int, int], ground: int = 255) -> NDArray[np.uint8]:
    pixels = np.full((height, width, 3), ground, np.uint8)
    pixels[box[0] : box[2], box[1] : box[3]] = (180, 40, 60)
    return pixels


@pytest.mark.parametrize("ground", [255, 0, 128])
@pytest.mark.parametrize("shape", [(128, 128), (256, 192), (100, 300)])
def test_a_product_on_a_plain_ground_is_framed(shape: tuple[int, int], ground: int) -> None:
    height, width = shape
    inside = (height // 4, width // 3, 3 * height // 4, 5 * width // 6)
    top, left, bottom, right = BORDER(_product(height, width, inside, ground))
    for got, edge, side in zip((top, left, bottom, right), inside, (height, width) * 2, strict=True):
        assert abs(got - edge) <= 0.09 * side
    assert (bottom - top) * (right - left) < 0.5 * height * width


def test_a_small_product_in_a_corner_gets_no_box_below_three_tenths() -> None:
    box = BORDER(_product(100, 100, (4, 80, 20, 97)))
    assert box[0] <= 4 and box[2] >= 20 and box[1] <= 80 and box[3] >= 97
    assert 30 <= box[2] - box[0] <= 40 and 30 <= box[3] - box[1] <= 40


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_picture_is_kept_whole(level: int) -> None:
    assert BORDER(np.full((80, 60, 3), level, np.uint8)) == (0, 0, 80, 60)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_kept_whole(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    small = np.random.default_rng(seed).integers(0, 256, (64, 48, 3), np.uint8)
    for pixels in (noise, small):
        top, left, bottom, right = BORDER(pixels)
        assert (bottom - top) * (right - left) >= 0.8 * pixels.shape[0] * pixels.shape[1]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.integers(1, 256))
@settings(max_examples=60, deadline=None)
def test_every_picture_has_a_box_within_it(height: int, width: int, seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width, 3)).astype(np.uint8)
    top, left, bottom, right = BORDER(pixels)
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    assert bottom - top >= min(0.3 * height, height) - 1 and right - left >= 0.3 * width - 1
    assert core_crop(pixels, (8, 6)).shape == (8, 6, 3)


def test_the_crop_is_the_box_stretched_and_another_cropper_may_choose_it() -> None:
    pixels = _product(60, 60, (20, 20, 40, 40))
    crop = core_crop(pixels, (10, 12), cropper=lambda _: (20, 20, 40, 40))
    assert crop.shape == (10, 12, 3) and crop.dtype == np.uint8
    assert (crop == (180, 40, 60)).all()
    whole = np.full((9, 9, 3), 7, np.uint8)
    assert np.array_equal(core_crop(whole, (9, 9)), whole)
