"""Rows of sales, behaviours and searches are checked; texts with attributes; the folder of pairs; shares of the head."""

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.training.pairs import CARD
from jobs import training_pairs
from jobs._pairs_card import head_share
from jobs._pairs_content import enriched
from jobs._pairs_items import ITEMS, open_items
from jobs._pairs_items import _table as table_of
from jobs._pairs_rows import AFTER_CUTOFF, ROWS, ReadRows, detail_of, open_rows
from jobs._pairs_write import ROWS as PAIR_ROWS
from jobs._pairs_write import PairFolder, WritePairs
from moontide import schemas
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit
NOW, CUTOFF = 10_000_000_000, 2_000
TIME = schemas.TIMESTAMP


def rows_of(folder, what, **columns):
    types = {"event_timestamp": TIME, "InvoiceDate": pa.timestamp("ns"), "Quantity": pa.int64()}
    table = pa.table({name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()})
    pq.write_table(table, folder / f"{what}.parquet")
    return open_rows(str(folder), what), table


def checked(folder, what, **columns):
    rows, table = rows_of(folder, what, **columns)
    reader = ReadRows(rows, 3, NOW, CUTOFF)
    found = pa.Table.from_batches(list(reader(iter([pa.record_batch({"id": pa.array(range(len(rows.table.units)))})]))), ROWS)
    assert found.schema == ROWS
    assert found["place"].to_pylist() == [3] * table.num_rows
    assert found["row"].to_pylist() == list(range(table.num_rows))
    return found.to_pylist()


@pytest.mark.parametrize(
    ("basket", "item", "time", "quantity", "reason"),
    [
        ("b1", "x", 5, 1, None),
        ("C1", "x", 5, 1, "cancelled"),
        ("Cart-17", "x", 5, 1, None),
        ("C", "x", 5, 1, None),
        ("b1", "x", 5, 0, "cancelled"),
        ("b1", "x", 5, None, None),
        (None, "x", 5, 1, "no_id"),
        ("b1", "  ", 5, 1, "no_id"),
        ("b1", "x", None, 1, "no_event_time"),
        ("b1", "x", -1, 1, "event_time_out_of_range"),
        ("b1", "x", NOW + 300_000_001, 1, "event_time_out_of_range"),
        ("b1", "x", CUTOFF - 1, 1, None),
        ("b1", "x", CUTOFF, 1, AFTER_CUTOFF),
        ("C1", "x", CUTOFF, 1, "cancelled"),
    ],
)
def test_a_sale_is_checked_under_the_names_public_data_has(tmp_path, basket, item, time, quantity, reason):
    nanos = None if time is None else time * 1_000
    [row] = checked(tmp_path, "transactions", InvoiceNo=[basket], StockCode=[item], InvoiceDate=[nanos], Quantity=[quantity])
    assert (row["reason"], row["basket_id"], row["event_us"]) == (reason, basket, time)
    if reason not in (None, AFTER_CUTOFF):
        assert detail_of(reason).startswith("expected")


@pytest.mark.parametrize(
    ("text", "image", "item", "action", "reason"),
    [
        ("red shoe", None, None, None, None),
        (None, "x.jpg", "i", "purchase", None),
        (" ", "", "i", "purchase", "no_query"),
        (None, None, None, None, "no_query"),
        ("red", None, "i", None, "bad_action"),
        ("red", None, "i", "x" * 65, "bad_action"),
    ],
)
def test_a_search_needs_a_query_and_an_action_where_it_names_an_item(tmp_path, text, image, item, action, reason):
    columns = {"user_id": ["u"], "query_text": [text], "query_image": [image], "item_id": [item], "action": [action]}
    [row] = checked(tmp_path, "searches", event_timestamp=[5], **columns)
    assert row["reason"] == reason
    assert row["session_id"] is None


def test_behaviours_need_ids_and_an_action(tmp_path):
    columns = {"user_id": ["u", "u u", "u"], "item_id": ["i", "i", "i"], "action": ["click", "click", ""]}
    found = checked(tmp_path, "behaviours", event_timestamp=[5, 5, 5], **columns)
    assert [row["reason"] for row in found] == [None, "invalid_id", "bad_action"]


def test_text_that_is_not_utf_8_is_rejected_and_no_rows_are_no_rows(tmp_path):
    bad = pa.array([b"\xff", b"ok"]).view(pa.string())
    table = pa.table({"user_id": ["u", "u"], "query_text": bad, "event_timestamp": pa.array([5, 5], TIME)})
    rows, _ = rows_of(tmp_path, "searches", user_id=["u"], query_text=["a"], event_timestamp=[5])
    found = ReadRows(rows, 0, NOW, None).check(table.to_batches()[0], source=0, first_row=0)
    assert found["reason"].to_pylist() == ["bad_text", None]
    assert len(ReadRows(rows, 0, NOW, None).check(table.to_batches()[0].slice(0, 0), source=0, first_row=0)) == 0


def test_a_table_without_its_columns_says_which(tmp_path):
    assert open_rows(str(tmp_path), "searches") is None
    with pytest.raises(Misconfigured, match="query_text or query_image"):
        rows_of(tmp_path, "searches", user_id=["u"], event_timestamp=[5])
    with pytest.raises(Misconfigured, match="basket_id"):
        rows_of(tmp_path, "transactions", item_id=["u"], event_timestamp=[5])


@pytest.mark.parametrize(
    ("title", "attributes", "category", "expected"),
    [
        ("Hoodie", "red; Wool", "Men/Tops/Hoodies", "Hoodie; red; Wool; Hoodies"),
        ("Two  spaces", None, "", None),
        (" Red  hoodie ", ";; RED ;red", "Red hoodie/", "Red hoodie; RED"),
        ("", "red", "Men", None),
        (None, "red", "Men", None),
    ],
)
def test_a_text_with_attributes_names_everything_once(title, attributes, category, expected):
    assert enriched(title, attributes, category) == expected


@pytest.mark.parametrize(
    ("histogram", "head", "share"),
    [([], 0.1, 0.0), ([(5, 1)], 0.01, 1.0), ([(1, 9), (11, 1)], 0.1, 0.55), ([(2, 10)], 0.2, 0.2), ([(4, 3), (1, 8)], 0.18, 0.4)],
)
def test_the_head_is_the_items_with_most_pairs(histogram, head, share):
    assert head_share(histogram, head) == share


def batch(*items):
    columns = {f.name: [None] * len(items) for f in PAIR_ROWS} | {
        "query_text": ["q"] * len(items), "item_id": list(items), "kind": ["search"] * len(items), "event_us": [7] * len(items),
        "purchased": [True] * len(items), "weight": [1.0] * len(items), "log_q": [-1.0] * len(items),
    }  # fmt: skip
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in PAIR_ROWS], schema=PAIR_ROWS)


def run_once(out, *items):
    folder = PairFolder(out)
    folder.require_ours()
    folder.open()
    (folder.part / ".part-00000-9").write_bytes(b"left by another attempt")
    list(WritePairs(folder.part)(iter([batch(*items)])))
    return folder


def test_a_new_folder_replaces_the_old_whole_and_a_killed_run_leaves_the_old(tmp_path):
    out = tmp_path / "pairs"
    run_once(out, "a").commit({"pairs": 1})
    assert pq.read_table(out / "part-00000.parquet").schema.equals(schemas.TRAINING_PAIRS)
    assert sorted(p.name for p in out.iterdir()) == [CARD, "part-00000.parquet"]
    run_once(out, "b", "c")
    assert pq.read_table(out / "part-00000.parquet")["item_id"].to_pylist() == ["a"]
    run_once(out, "d").commit({"pairs": 2})
    assert pq.read_table(out / "part-00000.parquet")["item_id"].to_pylist() == ["d"]
    assert json.loads((out / CARD).read_text()) == {"pairs": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["pairs"]


def test_a_run_killed_between_its_two_renames_is_undone_by_the_next(tmp_path):
    out = tmp_path / "pairs"
    run_once(out, "a").commit({})
    out.rename(tmp_path / ".pairs.old")
    run_once(out, "b")
    assert pq.read_table(out / "part-00000.parquet")["item_id"].to_pylist() == ["a"]


def test_a_partition_without_rows_writes_no_file(tmp_path):
    assert list(WritePairs(tmp_path)(iter([]))) == []
    assert list(tmp_path.iterdir()) == []


def test_what_this_job_did_not_write_is_never_replaced(tmp_path, capsys):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    assert training_pairs.main(["--home", str(tmp_path), "--data", "x", "--out", str(tmp_path / "letters")]) == 1
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "letters" / "love.txt").read_text() == "dear"


def test_an_item_of_a_csv_is_named_by_its_row_of_the_file(tmp_path):
    rows = ["item_id,title,is_product", "P,POSTAGE,False", ",Lid,True", "a,Vase,True", "b," + "x" * 10_001 + ",True"]
    (tmp_path / "items.csv").write_text("\n".join(rows))
    found = table_of(open_items(str(tmp_path), None, None).examples)
    assert found.schema == ITEMS
    assert [(row["item_id"], row["row"], row["reason"]) for row in found.to_pylist()] == [
        ("a", 2, None),
        ("b", 3, "title_too_long"),
    ]


def test_flags_and_folders_that_are_wrong_end_before_spark_starts(tmp_path, capsys):
    with pytest.raises(SystemExit) as wrong:
        training_pairs.main(["--data", "x", "--out", "y", "--cutoff", "yesterday"])
    assert wrong.value.code == 2
    with pytest.raises(SystemExit) as wrong:
        training_pairs.main(["--data", "x", "--out", "y", "--kinds", "guess"])
    assert wrong.value.code == 2
    capsys.readouterr()
    assert training_pairs.main(["--home", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    assert "items.csv or catalog.parquet" in capsys.readouterr().err
    assert isinstance(training_pairs._parser(), argparse.ArgumentParser)
    assert not Path(tmp_path / "o").exists()
