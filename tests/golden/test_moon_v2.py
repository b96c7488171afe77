"""Leading codes of fixed items for the shipped encoder: a silent change of model, tokenizer or decoding fails here.

After an intended change, which is a new space version, run this file as a program: it writes the expected values anew, and the digest
and number of dimensions in `feature_repo/spaces.toml`.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import Encoder, Item
from moontide import Embeddings, EmbeddingSpace
from moontide.live import load_spaces

pytestmark = pytest.mark.golden

ROOT = Path(__file__).parents[2]
ARTIFACT = ROOT / "artifacts" / "moon_v2"
SPACES = ROOT / "feature_repo" / "spaces.toml"
EXPECTED = Path(__file__).with_name("moon_v2.json")
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


def test_the_feature_repository_serves_the_shipped_encoder() -> None:
    live = load_spaces(SPACES).live(ARTIFACT.name)
    assert live.space == Encoder.load(ARTIFACT, threads=1).space
    assert live.artifact == ARTIFACT


def _write() -> None:
    got = _encode()
    _name(got.space)
    ids = [item.item_id for item in _items()]
    body = {
        "digest": got.space.encoder_digest,
        "codes": {item_id: got.codes[row, :LEADING].tolist() for row, item_id in enumerate(ids)},
        "scale": {item_id: float(got.scale[row]) for row, item_id in enumerate(ids)},
    }
    EXPECTED.write_text(json.dumps(body, indent=1) + "\n")


def _name(space: EmbeddingSpace) -> None:
    text = SPACES.read_text(encoding="utf-8")
    text = re.sub(r'^encoder_digest = ".*"$', f'encoder_digest = "{space.encoder_digest}"', text, count=1, flags=re.MULTILINE)
    SPACES.write_text(re.sub(r"^dim = \d+$", f"dim = {space.dim}", text, count=1, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    _write()
