"""The content hash decides whether an item is encoded again: it must never change by accident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from encoders import Encoder, ImageLoader, Item, Unencodable, hash_content

pytestmark = pytest.mark.unit

ITEM = Item("a", "Red mug", "Holds tea.", "red; clay")


def test_known_values() -> None:
    assert hash_content(ITEM, b"bytes") == "46c5f4222abebfe9e4a0aedc88424378"
    assert hash_content(Item("a", title="Red mug"), None) == "715ae52e8d89f31dee350b513c9e7c81"


def test_only_content_counts() -> None:
    assert hash_content(ITEM, None) == hash_content(replace(ITEM, item_id="b"), None)
    assert hash_content(ITEM, None) == hash_content(replace(ITEM, title=" Red mug\n"), None)
    assert hash_content(replace(ITEM, title="caf\u00e9"), None) == hash_content(replace(ITEM, title="cafe\u0301"), None)
    assert hash_content(Item("a", title="t"), None) == hash_content(Item("a", title="t", description=""), None)


def test_fields_do_not_run_together() -> None:
    hashes = {
        hash_content(ITEM, None),
        hash_content(ITEM, b"x"),
        hash_content(replace(ITEM, title="Red mugHolds tea.", description=None), None),
        hash_content(replace(ITEM, title="Holds tea.", description="Red mug"), None),
        hash_content(replace(ITEM, attributes=None), None),
    }
    assert len(hashes) == 5


def test_a_path_is_hashed_by_its_bytes(artifact_path: Path, tmp_path: Path, make_image) -> None:
    (tmp_path / "a.jpg").write_bytes(make_image(1))
    encoder = Encoder.load(artifact_path, threads=1, images=ImageLoader(root=tmp_path))
    by_path = encoder.content_hash(Item("a", image="a.jpg"))
    assert by_path == encoder.content_hash(Item("a", image=make_image(1)))
    (tmp_path / "a.jpg").write_bytes(make_image(2))
    assert encoder.content_hash(Item("a", image="a.jpg")) != by_path
    with pytest.raises(Unencodable, match="image_missing"):
        encoder.content_hash(Item("a", image="b.jpg"))
