"""Leading codes of fixed items for the shipped encoder: a silent change of model, tokenizer or decoding fails here.

Run this file as a program to write the expected values anew, after an intended change and with a new space version.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import Encoder, Item
from moontide import Embeddings

pytestmark = pytest.mark.golden

ARTIFACT = Path(__file__).parents[2] / "artifacts" / "moon_v1"
EXPECTED = Path(__file__).with_name("moon_v1.json")
LEADING = 16


def _picture() -> bytes:
    rows, columns = np.mgrid[0:96, 0:96]
    pixels = np.stack([rows * 2, columns * 2, (rows + columns) % 256], axis=2).astype(np.uint8)
    file = io.BytesIO()
    # PNG: JPEG decoders differ by a unit from build to build.
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _items() -> list[Item]:
    return [
        Item("title", title="WHITE HANGING HEART T-LIGHT HOLDER"),
        Item("unicode", title="Café crème Größe 12", attributes="couleur rouge"),
        Item("description", description="A warm hoodie of soft cotton with two pockets."),
        Item("image", image=_picture()),
        Item("all", "Red hoodie", "A warm hoodie of soft cotton.", "red; cotton", _picture()),
    ]


def _encode() -> Embeddings:
    return Encoder.load(ARTIFACT, threads=1).encode(_items())


def test_leading_codes() -> None:
    expected = json.loads(EXPECTED.read_text())
    got = _encode()
    assert got.space.encoder_digest == expected["digest"]
    for row, item in enumerate(_items()):
        codes = got.codes[row, :LEADING].astype(int)
        assert np.abs(codes - expected["codes"][item.item_id]).max() <= 2, item.item_id
        assert got.scale[row] == pytest.approx(expected["scale"][item.item_id], rel=1e-2)


def _write() -> None:
    got = _encode()
    ids = [item.item_id for item in _items()]
    body = {
        "digest": got.space.encoder_digest,
        "codes": {item_id: got.codes[row, :LEADING].tolist() for row, item_id in enumerate(ids)},
        "scale": {item_id: float(got.scale[row]) for row, item_id in enumerate(ids)},
    }
    EXPECTED.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    _write()
