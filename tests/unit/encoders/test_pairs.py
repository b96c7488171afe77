"""Training pairs read from Parquet: indices, what is dropped and why, and the cleaning for post-training."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.training.pairs import NO_TIME, QUERY_IMAGE, QUERY_ITEM, QUERY_TEXT, purchases, read_pairs
from moontide import schemas
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit
IDS = ["a", "b", "c", "d"]


def row(**values):
    """A good pair a -> b, with `values` instead."""
    good = {"query_item_id": "a", "item_id": "b", "kind": "basket", "purchased": True, "weight": 1.0, "log_q": -1.0}
    return {f.name: None for f in schemas.TRAINING_PAIRS} | good | values


def written(folder, rows, name="part-00000.parquet"):
    pq.write_table(pa.Table.from_pylist(rows, schema=schemas.TRAINING_PAIRS), folder / name)
    return folder


def text(query, **values):
    return row(query_item_id=None, query_text=query, kind="search", **values)


def test_every_form_of_query_becomes_its_index(tmp_path):
    rows = [
        row(event_timestamp=5, negative_item_id="c"),
        text("red", item_id="c", purchased=False),
        row(query_item_id=None, query_image="x.jpg", kind="same_product", item_id="d", log_q=-2.5, weight=0.5),
        text("blue"),
        text("red", item_id="a"),
    ]
    pairs = read_pairs(written(tmp_path, rows), IDS)
    assert pairs.query_kind.tolist() == [QUERY_ITEM, QUERY_TEXT, QUERY_IMAGE, QUERY_TEXT, QUERY_TEXT]
    assert pairs.query_item.tolist() == [0, -1, -1, -1, -1]
    assert [pairs.texts[i].as_py() if i >= 0 else None for i in pairs.query_text] == [None, "red", None, "blue", "red"]
    assert pairs.query_image.tolist() == [-1, -1, 0, -1, -1]
    assert (pairs.texts.to_pylist(), pairs.images.to_pylist()) == (["red", "blue"], ["x.jpg"])
    assert (pairs.item.tolist(), pairs.negative.tolist()) == ([1, 2, 3, 1, 0], [2, -1, -1, -1, -1])
    assert [schemas.PAIR_KINDS[k] for k in pairs.kind] == ["basket", "search", "same_product", "search", "search"]
    assert pairs.purchased.tolist() == [True, False, True, True, True]
    assert pairs.time_us.tolist() == [5, *[NO_TIME] * 4]
    assert (pairs.weight[2], pairs.log_q[2], pairs.dropped) == (0.5, -2.5, {})
    assert pairs.of_kind("search").tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(item_id="z"), "unknown_item"),
        (row(query_item_id="z"), "unknown_query_item"),
        (row(query_item_id=None), "no_query"),
        (row(query_item_id=None, query_text=""), "no_query"),
        (row(query_text="red"), "two_queries"),
        (row(item_id="a"), "self_pair"),
        (row(kind="guess"), "unknown_kind"),
        (row(weight=0.0), "bad_number"),
        (row(weight=float("inf")), "bad_number"),
        (row(log_q=0.5), "bad_number"),
        (row(log_q=float("nan")), "bad_number"),
    ],
)
def test_a_bad_pair_is_dropped_and_counted(tmp_path, bad, reason):
    pairs = read_pairs(written(tmp_path, [bad, row(), bad]), IDS)
    assert (len(pairs), pairs.item.tolist(), pairs.dropped) == (1, [1], {reason: 2})
    written(tmp_path, [bad])
    with pytest.raises(Misconfigured, match=rf"none can be used \({{'{reason}': 1}}\)"):
        read_pairs(tmp_path, IDS)


@pytest.mark.parametrize(("negative", "reason"), [("z", "unknown_negative"), ("a", "own_negative"), ("b", "own_negative")])
def test_a_negative_that_is_none_leaves_its_pair(tmp_path, negative, reason):
    pairs = read_pairs(written(tmp_path, [row(negative_item_id=negative)]), IDS)
    assert (pairs.negative.tolist(), pairs.dropped) == ([-1], {reason: 1})


def test_files_follow_in_the_order_of_their_names_with_texts_in_common(tmp_path):
    written(tmp_path, [text("b"), text("a")], "part-00001.parquet")
    written(tmp_path, [text("a"), row()], "part-00000.parquet")
    written(tmp_path, [text("hidden")], ".part-7.parquet")
    pairs = read_pairs(tmp_path, IDS)
    assert (pairs.query_text.tolist(), pairs.texts.to_pylist()) == ([0, -1, 1, 0], ["a", "b"])


def test_no_rows_no_files_no_parquet_and_no_columns_say_what_to_do(tmp_path):
    with pytest.raises(Misconfigured, match="got none; run"):
        read_pairs(tmp_path, IDS)
    with pytest.raises(Misconfigured, match="got 0 rows"):
        read_pairs(written(tmp_path, []), IDS)
    (tmp_path / "part-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(Misconfigured, match="expected a Parquet file"):
        read_pairs(tmp_path, IDS)
    pq.write_table(pa.table({"item_id": ["a"], "kind": ["search"]}), tmp_path / "part-00000.parquet")
    with pytest.raises(Misconfigured, match="purchased"):
        read_pairs(tmp_path, IDS)
    plain = pa.table({"item_id": ["a"], "kind": ["search"], "purchased": [True], "weight": [1.0], "log_q": [-1.0]})
    pq.write_table(plain, tmp_path / "part-00000.parquet")
    with pytest.raises(Misconfigured, match="query_item_id"):
        read_pairs(tmp_path, IDS)


def test_columns_that_a_hand_made_file_lacks_are_none(tmp_path):
    plain = pa.table(
        {n: [v] for n, v in row().items() if n in ("query_item_id", "item_id", "kind", "purchased", "weight", "log_q")}
    )
    pq.write_table(plain, tmp_path / "mine.parquet")
    pairs = read_pairs(tmp_path / "mine.parquet", IDS)
    assert (pairs.negative.tolist(), pairs.time_us.tolist(), len(pairs.texts), len(pairs.images)) == ([-1], [NO_TIME], 0, 0)


def test_post_training_keeps_each_purchase_once_and_the_latest(tmp_path):
    rows = [
        row(event_timestamp=5, weight=1.0),
        row(event_timestamp=9, weight=2.0),
        row(event_timestamp=9, weight=3.0),
        row(item_id="c", purchased=False, event_timestamp=99),
        text("a"),
        row(weight=4.0),
        text("a", event_timestamp=1),
    ]
    clean = purchases(read_pairs(written(tmp_path, rows), IDS))
    assert list(zip(clean.weight.tolist(), clean.time_us.tolist(), strict=True)) == [(2.0, 9), (1.0, 1)]
    assert clean.dropped == {"not_purchased": 1, "duplicate": 4}


def test_post_training_without_a_purchase_is_empty_and_says_why(tmp_path):
    clean = purchases(read_pairs(written(tmp_path, [row(purchased=False)]), IDS))
    assert (len(clean), clean.dropped) == (0, {"not_purchased": 1})


pair = st.tuples(st.sampled_from("abcdz"), st.sampled_from("abcdz"), st.booleans(), st.integers(0, 3))


@settings(max_examples=30, deadline=None)
@given(st.lists(pair, max_size=30))
def test_every_pair_is_read_or_counted_and_cleaning_is_idempotent(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("pairs")
    rows = [row(query_item_id=q, item_id=i, purchased=p, event_timestamp=t) for q, i, p, t in found]
    written(folder, [row(), *rows])
    pairs = read_pairs(folder, IDS)
    assert len(pairs) + sum(pairs.dropped.values()) == len(rows) + 1
    clean = purchases(pairs)
    keys = list(zip(clean.query_item.tolist(), clean.item.tolist(), strict=True))
    latest = {}
    for q, i, p, t in found:
        if p and q in IDS and i in IDS and q != i:
            latest[IDS.index(q), IDS.index(i)] = max(t, latest.get((IDS.index(q), IDS.index(i)), NO_TIME))
    latest.setdefault((0, 1), NO_TIME)
    assert dict(zip(keys, clean.time_us.tolist(), strict=True)) == latest
    assert len(keys) == len(set(keys))
    again = purchases(clean)
    assert (again.item.tolist(), again.dropped) == (clean.item.tolist(), clean.dropped)


def test_half_a_million_pairs_take_about_a_second_of_processor_and_little_memory(tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"item:{n}" for n in range(4_000)]
    a, b = rng.integers(0, 4_000, (2, 500_000))
    b[a == b] = (b[a == b] + 1) % 4_000
    names = np.array(ids, object)
    columns = {
        "query_item_id": names[a], "item_id": names[b], "kind": np.full(500_000, "basket", object),
        "purchased": np.ones(500_000, bool), "weight": np.ones(500_000, np.float32), "log_q": np.full(500_000, -8, np.float32),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "part-00000.parquet")
    began = time.process_time()
    pairs = read_pairs(tmp_path, ids)
    took = time.process_time() - began
    np.testing.assert_array_equal(pairs.item, b)
    np.testing.assert_array_equal(pairs.query_item, a)
    assert took < 3.0
    arrays = [getattr(pairs, n) for n in pairs.__slots__ if isinstance(getattr(pairs, n), np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 40 * 500_000
