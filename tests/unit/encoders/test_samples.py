"""Samples that an export is compared with: a broken picture must not cost a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from encoders.data import read_data_set  # noqa: E402
from encoders.training.samples import sample_items, sample_pixels  # noqa: E402
from tests.unit.encoders import tiny_recipe as tiny  # noqa: E402

pytestmark = pytest.mark.unit


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    whole = tiny.picture(1)
    images = {f"{at}.png": whole if at % 2 else whole[:60] for at in range(0, 18)}
    rows = [f"i{at},{tiny.title(at)},images/{at}.png" for at in range(20)]
    data = read_data_set(tiny.folder(tmp_path / "data", "item_id,title,images", rows, images), cutoff=None)
    good = [row for row in data.rows("train") if row % 2 and row < 18]
    pixels = sample_pixels([data], 16, 100)
    assert pixels.shape == (len(good), 16, 16, 3) and pixels.dtype == np.uint8
    items = sample_items([data], "train", 100)
    assert len(items) == len(data.rows("train"))
    assert all(item.image in (None, whole) for item in items)
    assert sample_pixels([], 16, 4).shape == (0, 16, 16, 3) and sample_items([], "val", 4) == []
