"""Heat maps put their mass on the region that made the vector."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders.evaluation.heatmap import HeatMap, class_activation, edges, jpeg, occlusion, overlay, pixels_of
from encoders.images import decode
from encoders.item import Item
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit


def noise(count=1, side=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def quadrant(pixels):
    """An encoder that sees the lower right quarter only."""
    half = pixels.shape[1] // 2
    return pixels[:, half:, half:].reshape(len(pixels), -1).astype(np.float32) - 127.5


def test_the_mass_lies_in_the_only_quadrant_that_counts():
    (found,) = occlusion(quadrant, noise(), grid=4)
    assert found.cosine == pytest.approx(1.0, abs=1e-5)
    assert found.values.shape == (4, 4) and (found.values[2:, 2:] > 0.01).all()
    np.testing.assert_allclose(found.values[:2], 0, atol=1e-5)
    np.testing.assert_allclose(found.values[:, :2], 0, atol=1e-5)


@pytest.mark.parametrize("blur", [False, True])
def test_blur_and_mean_colour_agree_on_where(blur):
    (found,) = occlusion(quadrant, noise(), grid=2, blur=blur)
    assert found.values.argmax() == 3 and found.values[1, 1] > 10 * np.abs(found.values.ravel()[:3]).max()


def test_a_region_that_works_against_the_target_is_below_zero():
    def detail(pixels):
        wide = pixels.astype(np.float32)
        return np.stack([wide[:, :, :28].std(axis=(1, 2, 3)), wide[:, :, 28:].std(axis=(1, 2, 3))], axis=1)

    (found,) = occlusion(detail, noise(), np.array([[1.0, 0.0]], np.float32), grid=2)
    assert (found.values[:, 0] > 0.01).all() and (found.values[:, 1] < -0.01).all()


def test_chunks_change_nothing():
    pictures = noise(9)
    together = occlusion(quadrant, pictures, grid=3)
    alone = [occlusion(quadrant, picture[None], grid=3)[0] for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-6)


def test_no_picture_constant_picture_and_a_zero_vector():
    assert occlusion(quadrant, noise(0)) == []
    flat = np.full((1, 56, 56, 3), 90, np.uint8)
    (constant,) = occlusion(quadrant, flat)
    assert constant.strongest < 1e-5
    (absent,) = occlusion(lambda pixels: np.zeros((len(pixels), 3), np.float32), flat)
    assert absent.strongest == 0 and absent.cosine == 0
    assert overlay(flat[0], absent).size == (160, 160)


def test_wrong_use_is_named():
    with pytest.raises(Misconfigured, match="at least 57 x 57"):
        occlusion(quadrant, noise(), grid=57)
    with pytest.raises(Misconfigured, match="1 targets"):
        occlusion(quadrant, noise(), np.zeros((2, 3), np.float32))


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_regions_cover_a_side_without_gap_or_overlap(length, data):
    grid = data.draw(st.integers(1, length))
    found = edges(length, grid)
    assert found[0] == 0 and found[-1] == length and all(a < b for a, b in zip(found, found[1:], strict=False))


def test_class_activation_is_an_exact_split():
    draw = np.random.default_rng(1)
    features = draw.standard_normal((5, 4, 3)).astype(np.float32)
    weight, target = draw.standard_normal((8, 5)).astype(np.float32), draw.standard_normal(8).astype(np.float32)
    shares = class_activation(features, weight, target)
    assert shares.shape == (4, 3)
    assert shares.sum() == pytest.approx(float(target @ (weight @ features.mean(axis=(1, 2)))), abs=1e-4)


def test_the_overlay_is_orange_where_it_helps_and_blue_where_it_harms():
    grey = np.full((40, 80, 3), 128, np.uint8)
    values = np.zeros((2, 2), np.float32)
    values[0, 0], values[1, 1] = 0.4, -0.4
    drawn = np.asarray(overlay(grey, HeatMap(values, 1.0), side=80)).astype(int)
    assert drawn.shape == (40, 80, 3)
    assert drawn[3, 3, 0] - drawn[3, 3, 2] > 80 and drawn[36, 76, 2] - drawn[36, 76, 0] > 80
    with Image.open(io.BytesIO(jpeg(overlay(grey, HeatMap(values, 1.0))))) as file:
        assert file.format == "JPEG" and file.size == (160, 80)


def test_the_shipped_encoder_is_asked_as_it_serves(encoder, make_image):
    data = make_image(5)
    limits = encoder.artifact.preprocessing
    pixels = decode(data, (limits.height, limits.width))[None]
    own = encoder.floats(encoder.prepare([Item("a", image=data)]))
    np.testing.assert_allclose(pixels_of(encoder)(pixels), own, atol=1e-5)
    (found,) = occlusion(pixels_of(encoder), pixels, own, grid=3)
    assert found.cosine == pytest.approx(1.0, abs=1e-4) and found.strongest > 0.001
