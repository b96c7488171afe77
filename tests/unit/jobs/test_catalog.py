"""Catalog rows: what is good, what is rejected and why, and catalogs that are refused whole."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs._catalog import ROWS, Rules, check, open_catalog, read_catalog
from jobs._tables import event_days
from moontide import schemas
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000
RULES = Rules(NOW, 100)
GOOD = {"item_id": "a1", "title": "red shoe", "price": 1.5, "source_version": 3, "event_timestamp": NOW - 1}


def batch(*rows):
    columns = {f.name: pa.array([{**GOOD, **row}.get(f.name) for row in rows], f.type) for f in schemas.CATALOG}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def reasons(*rows, rules=RULES):
    return check(batch(*rows), rules, source=0, first_row=0)["reason"].to_pylist()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, None),
        ({"item_id": None}, "no_id"),
        ({"item_id": "  "}, "no_id"),
        ({"item_id": "a b"}, "invalid_id"),
        ({"item_id": "x" * 65}, "invalid_id"),
        ({"item_id": "ä"}, "invalid_id"),
        ({"item_id": "a\n"}, "invalid_id"),
        ({"price": float("nan")}, "bad_price"),
        ({"price": float("inf")}, "bad_price"),
        ({"price": None}, None),
        ({"title": "x" * 101}, "title_too_long"),
        ({"title": "x" * 100}, None),
        ({"title": None}, "no_content"),
        ({"title": " \t"}, "no_content"),
        ({"title": None, "image": "a.jpg"}, None),
        ({"title": None, "image_bytes": b""}, "no_content"),
        ({"title": None, "image_bytes": b"x"}, None),
        ({"title": None, "description": "d"}, None),
        ({"title": None, "deleted": True}, None),
        ({"price": float("nan"), "deleted": True}, None),
        ({"source_version": None}, "no_version"),
        ({"event_timestamp": None}, "no_event_time"),
        ({"event_timestamp": NOW + 300_000_000}, None),
        ({"event_timestamp": NOW + 300_000_001}, "event_time_out_of_range"),
        ({"event_timestamp": -1}, "event_time_out_of_range"),
    ],
)
def test_each_row_is_good_or_has_one_reason(row, reason):
    assert reasons(row) == [reason]


def test_empty_batch_and_schema():
    out = check(batch(), RULES, source=0, first_row=0)
    assert out.schema == ROWS
    assert len(out) == 0


def test_a_rejected_row_keeps_place_and_short_id_and_loses_its_content():
    out = check(batch({}, {"item_id": "b" * 5_000, "title": "secret"}), RULES, source=2, first_row=40).to_pylist()
    assert [(r["key"], r["source"], r["row"]) for r in out] == [("a1", 2, 40), (" 2:41", 2, 41)]
    assert out[1]["item_id"] == "b" * 80
    assert out[1]["title"] is None
    assert "expected 1 to 64" in out[1]["detail"]
    assert "secret" not in str(out[1])


def test_text_that_is_not_utf8_is_a_reject_not_a_crash():
    rows = batch({}, {"item_id": "a2"})
    raw = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    rows = rows.set_column(rows.schema.get_field_index("title"), "title", raw)
    assert check(rows, RULES, source=0, first_row=0)["reason"].to_pylist() == [None, "bad_text"]


def test_snapshot_time_fills_version_and_time_only_where_the_catalog_has_none():
    rows = batch({"source_version": None, "event_timestamp": None})
    rules = Rules(NOW, 100, snapshot_us=NOW - 7)
    kept = check(rows, rules, source=0, first_row=0).to_pylist()[0]
    assert (kept["reason"], kept["event_us"]) == ("no_version", NOW - 7)
    bare = rows.drop_columns(["source_version", "event_timestamp"])
    filled = check(bare, rules, source=0, first_row=0).to_pylist()[0]
    assert (filled["reason"], filled["source_version"], filled["event_us"]) == (None, NOW - 7, NOW - 7)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("source_version", pa.array([3], pa.int32()), 3),
        ("source_version", pa.array([3.0]), 3),
        ("source_version", pa.array([3.5]), None),
        ("source_version", pa.array([float("nan")]), None),
        ("title", pa.array(["t"], pa.large_string()), "t"),
        ("title", pa.array(["t"]).dictionary_encode(), "t"),
        ("price", pa.array([2], pa.int64()), 2.0),
    ],
)
def test_types_of_the_same_kind_are_converted(name, values, expected):
    rows = batch({})
    rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    assert check(rows, RULES, source=0, first_row=0)[name].to_pylist() == [expected]


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("ms", tz="UTC"), pa.timestamp("s"), pa.date32()])
def test_times_of_any_unit_and_zone_are_microseconds_utc(kind, tmp_path):
    moment = pa.array([1_672_617_600_000_000], pa.timestamp("us")).cast(kind)
    table = pa.table({"item_id": ["a"], "title": ["t"], "source_version": [1], "event_timestamp": moment})
    pq.write_table(table, tmp_path / "c.parquet")
    catalog = open_catalog(str(tmp_path / "c.parquet"), snapshot_us=None)
    (rows,) = read_catalog(catalog, 0, RULES, batch_rows=10)
    assert rows["event_us"].to_pylist() == [1_672_617_600_000_000]
    assert event_days(catalog) == 1


@given(st.lists(st.sampled_from([{}, {"item_id": None}, {"price": float("nan")}, {"title": None}]), max_size=20))
def test_every_row_comes_back_once_in_order_with_a_key_of_its_own_where_rejected(rows):
    out = check(batch(*[{"item_id": f"i{n}", **row} for n, row in enumerate(rows)]), RULES, source=1, first_row=5)
    assert out["row"].to_pylist() == list(range(5, 5 + len(rows)))
    assert len(set(out["key"].to_pylist())) == len(rows)
    assert [r is None for r in out["reason"].to_pylist()] == [row == {} for row in rows]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_row_numbers_run_through_row_groups_and_start_anew_per_file(tmp_path):
    table = pa.table({"item_id": [f"i{n}" for n in range(10)], "title": ["t"] * 10})
    for name in ("b.parquet", "a.parquet"):
        pq.write_table(table, tmp_path / name, row_group_size=4)
    (tmp_path / "_hidden.parquet").write_bytes(b"no")
    (tmp_path / "notes.txt").write_text("no")
    catalog = open_catalog(str(tmp_path), snapshot_us=NOW)
    assert [f.rsplit("/", 1)[1] for f in catalog.files] == ["a.parquet", "b.parquet"]
    rules = Rules(NOW, 100, NOW)
    places = [
        (r["source"], r["row"])
        for n in range(len(catalog.units))
        for b in read_catalog(catalog, n, rules, batch_rows=3)
        for r in b.to_pylist()
    ]
    assert places == [(s, r) for s in (0, 1) for r in range(10)]
    assert catalog.rows == 20


def test_rows_with_large_images_come_in_small_batches(tmp_path):
    path = write(
        tmp_path / "c.parquet", item_id=[f"i{n}" for n in range(24)], image_bytes=[bytes([n]) * 2_000_000 for n in range(24)]
    )
    catalog = open_catalog(path, snapshot_us=NOW)
    batches = list(read_catalog(catalog, 0, Rules(NOW, 100, NOW), batch_rows=256))
    assert sum(map(len, batches)) == 24
    assert max(b.nbytes for b in batches) < 10 << 20


def test_catalogs_that_are_refused_whole(tmp_path):
    def refused(match, path, snapshot=NOW):
        with pytest.raises(Misconfigured, match=match):
            open_catalog(str(path), snapshot_us=snapshot)

    refused("got nothing", tmp_path / "absent.parquet")
    refused("got none", tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"item_id,title\n")
    refused("expected Parquet", tmp_path / "x.parquet")
    refused("item_id", write(tmp_path / "y.parquet", title=["t"]))
    refused("one of the columns", write(tmp_path / "z.parquet", item_id=["a"], price=[1.0]))
    refused("expected string", write(tmp_path / "k.parquet", item_id=[1], title=["t"]))
    refused("--snapshot-time", write(tmp_path / "v.parquet", item_id=["a"], title=["t"]), None)
    folder = tmp_path / "two"
    folder.mkdir()
    write(folder / "a.parquet", item_id=["a"], title=["t"])
    write(folder / "b.parquet", item_id=["a"], title=["t"], price=[1.0])
    refused("export all files alike", folder)
