"""Titles and pictures for the console: found, newest, bounded; and only thumbnails leave."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moontide.errors import Misconfigured
from serving.http import console_catalog
from serving.http.console_catalog import Card, Catalog
from serving.http.console_pictures import Thumbnails
from tests.pictures import picture

pytestmark = pytest.mark.unit
EVIL = "<script>alert(1)</script> hat"
ROWS = [
    {"item_id": "hat-1", "title": "Red felt hat", "category": "Hats", "image": "p/hat.jpg", "source_version": 1},
    {"item_id": "hat-2", "title": "Blue FELT cap", "category": None, "image": None, "source_version": 1},
    {"item_id": "x", "title": EVIL, "category": "Hats", "image": "../secret.jpg", "source_version": 1},
    {"item_id": "old", "title": "Felt, before", "source_version": 1},
    {"item_id": "gone", "title": "Felt, deleted", "source_version": 1},
    {"item_id": "old", "title": "Wool, now", "source_version": 3},
    {"item_id": "old", "title": "Silk, between", "source_version": 2},
    {"item_id": "gone", "title": None, "source_version": 2, "deleted": True},
    {"item_id": "bare", "title": None, "category": None, "image": "http://127.0.0.1:1/a.jpg"},
    {"item_id": "bytes", "title": "50% off (felt)", "image_bytes": picture(2, (300, 150))},
    {"item_id": "junk", "title": "Junk", "image_bytes": b"<svg onload=alert(1)>"},
]
SCHEMA = pa.schema(
    [
        ("item_id", pa.string()), ("title", pa.string()), ("category", pa.string()), ("image", pa.string()),
        ("image_bytes", pa.binary()), ("source_version", pa.int64()), ("deleted", pa.bool_()),
    ]
)  # fmt: skip


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.setattr(console_catalog, "_BATCH_ROWS", 3)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "hat.jpg").write_bytes(picture(1, (400, 200)))
    pq.write_table(pa.Table.from_pylist(ROWS, SCHEMA), tmp_path / "catalog.parquet", row_group_size=4)
    return Catalog(tmp_path / "catalog.parquet")


def found(catalog, text, most=10):
    return [card.item_id for card in catalog.search(text, most)]


def test_search_by_id_then_by_every_word_of_the_title(catalog):
    assert found(catalog, "hat") == ["hat-1", "hat-2", "x"]
    assert found(catalog, "felt") == ["hat-1", "hat-2", "old", "bytes"]
    assert found(catalog, "FELT red") == ["hat-1"]
    assert found(catalog, "felt", 2) == ["hat-1", "hat-2"]
    assert found(catalog, "hat-2") == ["hat-2"]


@pytest.mark.parametrize(
    ("text", "items"),
    [("", []), ("   ", []), ("%", ["bytes"]), (".*", []), ("(", ["x", "bytes"]), ("\\", []), ("felt zzz", []), ("é" * 50, [])],
)
def test_search_takes_words_as_they_are(catalog, text, items):
    assert found(catalog, text) == items


def test_the_newest_version_counts_and_a_deleted_item_is_gone(catalog):
    cards = catalog.cards(["old", "gone", "none", "hat-1", "x", "bare"])
    assert list(cards) == ["old", "hat-1", "x", "bare"]
    assert cards["old"].title == "Wool, now"
    assert cards["x"].title == EVIL
    assert cards["bare"] == Card("bare", "", "", True)
    assert catalog.cards([]) == {}


def test_all_ids_but_those_of_deleting_rows(catalog):
    ids = [item for batch in catalog.ids() for item in batch]
    assert ids == ["hat-1", "hat-2", "x", "old", "gone", "old", "old", "bare", "bytes", "junk"]


def test_a_catalog_of_two_columns_is_enough(tmp_path):
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": ["one", None]}), tmp_path / "c.parquet")
    small = Catalog(tmp_path / "c.parquet")
    assert small.cards(["a", "b"]) == {"a": Card("a", "one"), "b": Card("b")}
    assert small.search("one", 5) == [Card("a", "one")]
    assert small.picture("a") is None
    assert list(small.ids()) == [["a", "b"]]


def test_no_rows_and_what_is_no_catalog(tmp_path):
    pq.write_table(pa.table({"item_id": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert Catalog(tmp_path / "c.parquet").search("a", 3) == []
    (tmp_path / "text").write_text("item_id,title\n")
    pq.write_table(pa.table({"item_id": [1], "title": ["a"]}), tmp_path / "ints.parquet")
    pq.write_table(pa.table({"title": ["a"]}), tmp_path / "none.parquet")
    for name in ("text", "nothing", "ints.parquet", "none.parquet"):
        with pytest.raises(Misconfigured, match="expected a catalog in Parquet with item_id"):
            Catalog(tmp_path / name).search("a", 3)


def size(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        return image.size


def test_thumbnails_are_small_jpegs_made_here(catalog):
    thumbnails = Thumbnails(catalog)
    assert size(thumbnails.of("hat-1", 96)) == (96, 48)
    assert size(thumbnails.of("bytes", 192)) == (192, 96)


@pytest.mark.parametrize("item", ["x", "bare", "junk", "hat-2", "none", "gone"])
def test_what_lies_elsewhere_or_is_no_picture_is_not_shown(catalog, item):
    (catalog.path.parent.parent / "secret.jpg").write_bytes(picture(3))
    assert Thumbnails(catalog).of(item, 96) is None


def test_thumbnails_are_remembered_up_to_a_bound(catalog, monkeypatch):
    monkeypatch.setattr("serving.http.console_pictures._KEPT", 2)
    thumbnails, asked = Thumbnails(catalog), []
    real = catalog.picture
    monkeypatch.setattr(catalog, "picture", lambda item: asked.append(item) or real(item))
    for item in ("hat-1", "hat-1", "bytes", "none", "none", "hat-1"):
        thumbnails.of(item, 96)
    assert asked == ["hat-1", "bytes", "none", "hat-1"]


def test_a_picture_that_the_catalog_gets_later_is_shown(catalog):
    thumbnails = Thumbnails(catalog)
    assert thumbnails.of("bare", 96) is None
    rows = pq.read_table(catalog.path).to_pylist()
    image = next(row["image"] for row in rows if row["item_id"] == "hat-1")
    for row in rows:
        row["image"] = image if row["item_id"] == "bare" else row["image"]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(catalog.path)), catalog.path)
    assert size(thumbnails.of("bare", 96)) == (96, 48)
