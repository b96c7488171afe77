"""Values no file should hold, and files that hold them: the row is rejected, never the run."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.images import image_root
from jobs import compact_log, training_pairs
from jobs._catalog import Rules, check, open_catalog, read_catalog
from jobs._encode import _known_at
from jobs._simtier import open_ids, read_pairs, rejects_of
from jobs._tables import bad_text, event_days
from moontide import Misconfigured, schemas

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000
RULES = Rules(now_us=NOW, title_max_chars=100)


def row(**changed):
    values = {
        "item_id": pa.array(["a"]),
        "title": pa.array(["t"]),
        "price": pa.array([1.0]),
        "source_version": pa.array([1], pa.int64()),
        "event_timestamp": pa.array([NOW], schemas.TIMESTAMP),
    }
    values.update(changed)
    return pa.RecordBatch.from_arrays(list(values.values()), names=list(values))


def reason(batch):
    return check(batch, RULES, source=0, first_row=0)["reason"].to_pylist()


def test_a_price_that_float32_cannot_hold():
    assert reason(row(price=pa.array([1e39]))) == ["bad_price"]
    assert reason(row(price=pa.array([3e38]))) == [None]
    assert reason(row(price=pa.array([None], pa.float64()))) == [None]


@pytest.mark.parametrize(
    "version",
    [pa.array([2**63], pa.uint64()), pa.array([decimal.Decimal("1.5")]), pa.array([1.5]), pa.array([decimal.Decimal(2**70)])],
)
def test_a_version_that_int64_cannot_hold(version):
    assert reason(row(source_version=version)) == ["no_version"]


@pytest.mark.parametrize(
    "version", [pa.array([7], pa.uint64()), pa.array([decimal.Decimal("7")]), pa.array([7.0]), pa.array([7.0], pa.float16())]
)
def test_a_version_of_another_type_that_int64_can_hold(version):
    assert check(row(source_version=version), RULES, source=0, first_row=0)["source_version"].to_pylist() == [7]


def test_words_of_a_dictionary_that_are_no_text():
    raw = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    words = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    titles = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1], pa.int32()), words)
    assert bad_text(titles).tolist() == [True, False, False, True]
    batch = row(title=pa.DictionaryArray.from_arrays(pa.array([1], pa.int32()), words))
    assert reason(batch) == ["bad_text"]


def test_times_outside_the_calendar_and_of_two_kinds(tmp_path):
    good = row()
    pq.write_table(pa.Table.from_batches([good]), tmp_path / "a.parquet")
    wild = row(event_timestamp=pa.array([2**62], pa.timestamp("us", tz="UTC")))
    pq.write_table(pa.Table.from_batches([wild]), tmp_path / "b.parquet")
    naive = row(event_timestamp=pa.array([NOW + 86_400_000_000], pa.timestamp("us")))
    pq.write_table(pa.Table.from_batches([naive]), tmp_path / "c.parquet")
    table = open_catalog(str(tmp_path), snapshot_us=None)
    assert event_days(table) == 2
    found = [b["reason"].to_pylist() for n in range(3) for b in read_catalog(table, n, RULES, batch_rows=10)]
    assert found == [[None], ["event_time_out_of_range"], ["event_time_out_of_range"]]


def test_only_content_that_was_known_keeps_the_time_it_was_known():
    # The second version was known with two contents, one of them twice: spaces hash what they read of an item.
    hashes = pa.array([["h1"], ["h1", "h2", "h2"], ["h1"], None, []], pa.list_(pa.string()))
    since = pa.array([[100], [100, 300, 200], [100], None, []], pa.list_(pa.int64()))
    nothing = {name: pa.nulls(5, pa.int64()) for name in ("head_version", "head_known_us")}
    part = pa.RecordBatch.from_pydict(
        {"known_hash": hashes, "known_us": since, "source_version": [1] * 5, "head_hash": pa.nulls(5, pa.string()), **nothing}
    )
    assert np.array_equal(_known_at(part, ["h1", "h2", "h2", "h3", "h3"], 900), [100, 200, 900, 900, 900])
    assert np.array_equal(_known_at(part, ["h"] * 5, np.arange(5)), np.arange(5))
    assert len(_known_at(part.slice(0, 0), [], 900)) == 0


def test_content_that_comes_back_is_known_from_now_on():
    gone = "0" * 32
    part = pa.RecordBatch.from_pydict(
        {
            "source_version": [1] * 6,
            "known_hash": [["a", gone], [gone, "a"], ["a", gone, "a"], ["a", "b"], ["a", "b", "a"], [gone, "a"]],
            "known_us": [[100, 200], [100, 200], [100, 200, 300], [100, 200], [100, 200, 300], [100, 200]],
            "head_version": [None, None, None, 1, 1, 1],
            "head_hash": [None, None, None, "b", "a", "a"],
            "head_known_us": [None, None, None, 200, 300, 200],
        }
    )
    assert _known_at(part, ["a"] * 6, 900).tolist() == [900, 200, 300, 900, 300, 200]
    assert _known_at(part, [gone] * 6, 900).tolist() == [200, 900, 900, 900, 900, 900]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_a_time_that_overflows_microseconds_is_out_of_range(unit):
    assert reason(row(event_timestamp=pa.array([2**61], pa.timestamp(unit, tz="UTC")))) == ["event_time_out_of_range"]
    assert reason(row(event_timestamp=pa.array([-(2**61)], pa.timestamp(unit)))) == ["event_time_out_of_range"]
    assert reason(row(event_timestamp=pa.array([None], pa.timestamp(unit)))) == ["no_event_time"]


def test_dates_are_times():
    found = check(row(event_timestamp=pa.array([1], pa.date32())), RULES, source=0, first_row=0)
    assert found["event_us"].to_pylist() == [86_400_000_000]


def test_a_price_of_any_whole_number_is_a_price():
    assert reason(row(price=pa.array([2**62 + 1], pa.int64()))) == [None]


def test_columns_named_twice_are_refused():
    twice = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("title", pa.string())])
    with pytest.raises(Misconfigured, match=r"once.*title"):
        schemas.require_columns(twice, schemas.CATALOG, ("item_id",), where="x")


def test_damaged_pages_name_the_file(tmp_path):
    path = tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"item_id": [f"i{n}" for n in range(5_000)], "title": ["x"] * 5_000}), path, compression="none")
    raw = bytearray(path.read_bytes())
    raw[4:400] = b"\xff" * 396
    path.write_bytes(bytes(raw))
    table = open_catalog(str(path), snapshot_us=NOW)
    with pytest.raises(Misconfigured, match=r"catalog\.parquet.*damaged"):
        list(read_catalog(table, 0, RULES, batch_rows=100))


def test_a_folder_of_the_layout_and_an_empty_path(tmp_path):
    pq.write_table(pa.table({"item_id": ["a"], "title": ["t"]}), tmp_path / "catalog.parquet")
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "behaviours.parquet")
    table = open_catalog(str(tmp_path), snapshot_us=NOW)
    assert table.rows == 1
    assert image_root(table.uri) == str(tmp_path)
    with pytest.raises(Misconfigured, match="empty"):
        open_catalog("", snapshot_us=NOW)


def test_pairs_that_are_no_text_are_rejected_and_the_others_stay(tmp_path):
    raw = pa.array([b"u1", b"\xff\xfe", None], pa.binary())
    users = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"user_id": users, "item_id": ["a", "b", "c"]}), tmp_path / "pairs.parquet")
    table = open_ids(str(tmp_path), ("user_id", "item_id"), what="pairs")
    assert [b.to_pylist() for b in read_pairs(table, table.units[0])] == [[{"user_id": "u1", "item_id": "a"}]]
    found = list(rejects_of(table))
    assert [(r.row, r.item_id, r.reason) for r in found] == [(1, "b", "bad_text"), (2, "c", "invalid_id")]
    assert "None" in found[1].detail


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (training_pairs, ["--data", "x", "--out", "y", "--cutoff", "1969-01-01"]),
        (training_pairs, ["--data", "x", "--out", "y", "--cutoff", "2020-13-40"]),
        (training_pairs, ["--data", "x", "--out", "y", "--seed", "99999999999999999999"]),
        (training_pairs, ["--data", "x", "--out", "y", "--seed", "-1"]),
        (training_pairs, ["--data", "x", "--out", "y", "--pairs-per-group", "99999999999999999999"]),
        (compact_log, ["--older-than", "99999999999999"]),
        (compact_log, ["--grace", "-1"]),
    ],
)
def test_values_out_of_their_range_are_wrong_use(program, flags, capsys):
    with pytest.raises(SystemExit) as left:
        program.main(flags)
    assert left.value.code == 2
    assert f"argument {flags[-2]}: expected" in capsys.readouterr().err
