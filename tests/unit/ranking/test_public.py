"""Readers of published layouts, against the plain rows that the files were made from."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit import layout
from moontide.pit.training_set import read_training_set
from moontide.simtier import SimTierSpec
from ranking.public import blocks, convert, files, microlens, spool, taobao_mm
from ranking.public.blocks import DAYS, PARTS, users_of, validation_users
from ranking.splits import microseconds
from tests.unit.ranking.public_world import DIM, MicroLens, TaobaoMm

pytestmark = pytest.mark.unit
LENGTH = 4


def taobao(folder, out, users=100, **spec):
    spec = SimTierSpec(taobao_mm.SPACE.id, tiers=20, length=LENGTH, **spec)
    convert.convert(taobao_mm.source(folder, users=users, spec=spec), out, say=lambda text: None)
    return read_training_set(out)


def lens(folder, out, users=100):
    spec = SimTierSpec(microlens.SPACE.id, tiers=20, length=LENGTH)
    convert.convert(microlens.source(folder, users=users, spec=spec), out, say=lambda text: None)
    return read_training_set(out)


def in_share(user, percent):
    return (user & 0x7FFFFFFF) % 100 < percent


def day(part, user):
    return PARTS["validation"] if part == "train" and (user & 0x7FFFFFFF) // 100 % 20 == 0 else PARTS[part]


def tiers(item, history, vectors):
    """Counts and missing of one pair list, by the definition; cosines in float64, away from edges."""
    counts, missing = [0] * 20, 0
    for other in history:
        if other == item:
            continue
        a, b = vectors.get(item), vectors.get(other)
        if a is None or b is None or not a.any() or not b.any():
            missing += 1
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        cosine = float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))
        counts[min(max(math.ceil(cosine * 10) + 9, 0), 19)] += 1
    return counts, missing


def check(data, wanted, vectors):
    """`wanted`: (user, item, label, history, time) in file order."""
    assert len(data) == len(wanted)
    for at, (user, item, label, history, time) in enumerate(wanted):
        request = data.request[at]
        assert data.user_ids[data.request_user[request]] == str(user)
        assert data.request_time[request] == time
        assert data.item_ids[data.item[at]] == str(item)
        assert data.label[at] == label
        known = [i for i in history if i]
        assert data.known[request] == len(known)
        span = slice(data.history_offsets[request], data.history_offsets[request + 1])
        assert [data.item_ids[i] for i in data.history_items[span]] == [str(i) for i in known[-LENGTH:]]
        counts, missing = tiers(item, known[-LENGTH:], vectors)
        assert data.counts[at].tolist() == counts
        assert data.missing[at] == missing
        assert data.scalars["history_length"][at] == pytest.approx(math.log1p(len(known)))
        vector = vectors.get(item)
        there = vector is not None and bool(vector.any())
        assert (data.vector[at] >= 0) == there
        if there:
            assert data.vectors.ids[data.vector[at]] == str(item)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_taobao_mm_gives_the_rows_of_its_shards_and_masks_what_has_no_vector(tmp_path, form):
    world = TaobaoMm(tmp_path / "data", vectors=form)
    data = taobao(world.folder, tmp_path / "out")
    wanted = [(*row, day(part, row[0])) for part in ("train", "test") for row in world.rows[part]]
    check(data, wanted, world.codes)
    assert data.vectors.space == taobao_mm.SPACE
    row = data.vectors.ids.index(str(next(iter(world.codes))))
    assert (data.vectors.codes[row] == next(iter(world.codes.values()))).all()
    assert data.vectors.scale[row] == np.float32(1 / 127)
    card = json.loads((tmp_path / "out" / layout.CARD).read_text())
    assert card["rows"] == len(wanted)
    assert card["positives"] == sum(row[2] for row in wanted)
    assert card["coverage"]["impressions"] == pytest.approx(
        np.mean([bool(world.codes.get(row[1], np.zeros(1)).any()) for row in wanted])
    )
    assert sum(card["parts"].values()) == len(wanted)
    assert card["parts"]["test"] == len(world.rows["test"])


def test_rows_of_one_user_and_history_are_one_request(tmp_path):
    world = TaobaoMm(tmp_path / "data")
    data = taobao(world.folder, tmp_path / "out")
    whole = {part: len({(row[0], tuple(row[3])) for row in rows}) for part, rows in world.rows.items()}
    # a user whose rows lie in two shards is two requests
    assert sum(whole.values()) <= len(data.request_user) <= sum(whole.values()) + 1


def test_a_share_of_users_is_chosen_while_reading_and_is_the_same_in_both_parts(tmp_path):
    world = TaobaoMm(tmp_path / "data", users=400)
    data = taobao(world.folder, tmp_path / "out", users=30)
    wanted = [(*row, day(part, row[0])) for part in ("train", "test") for row in world.rows[part] if in_share(row[0], 30)]
    assert 0 < len(wanted) < sum(map(len, world.rows.values()))
    check(data, wanted, world.codes)
    needed = {str(i) for _, item, _, history, _ in wanted for i in (item, *[h for h in history if h][-LENGTH:])}
    assert set(data.item_ids) == needed


def test_the_form_that_muse_counts_follows_from_counts_and_missing(tmp_path):
    world = TaobaoMm(tmp_path / "data", users=60)
    data = taobao(world.folder, tmp_path / "out", self_match="keep")
    zero = np.zeros(DIM)
    for at, (_, item, _, history) in enumerate(world.rows["train"] + world.rows["test"]):
        window = [i for i in history if i][-LENGTH:]
        padded = [0] * (LENGTH - len(window)) + window
        official = np.zeros(22, int)
        a = world.codes.get(item, zero).astype(np.float64)
        for other in padded:
            b = world.codes.get(other, zero).astype(np.float64)
            cosine = a @ b / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12)
            official[math.ceil(round(cosine * 10, 9)) + 10] += 1
        derived = np.zeros(22, int)
        derived[1:21] = data.counts[at]
        derived[10] += data.missing[at] + LENGTH - len(window)
        # MUSE's bin 0 is cosine -1 alone
        official[1] += official[0]
        assert derived[1:21].tolist() == official[1:21].tolist()


def test_microlens_gives_the_rows_of_train_and_valid(tmp_path):
    world = MicroLens(tmp_path / "data")
    data = lens(tmp_path / "data", tmp_path / "out")
    both = {"train": world.rows["train"], "test": world.rows["valid"]}
    wanted = [(*row[:4], day(part, row[0])) for part, rows in both.items() for row in rows]
    check(data, wanted, dict(enumerate(Embeddings.from_float(microlens.SPACE, world.vectors).codes)))
    levels = [row[4:6] for rows in both.values() for row in rows]
    assert np.stack([data.scalars["likes_level"], data.scalars["views_level"]], 1).tolist() == [
        list(map(float, x)) for x in levels
    ]
    # the folder itself will do, too
    again = lens(world.folder, tmp_path / "again")
    assert again.counts.tolist() == data.counts.tolist()


def test_the_days_of_a_configuration_split_into_the_parts():
    validation, test, end = map(microseconds, DAYS)
    assert PARTS["train"] < validation == PARTS["validation"] < test == PARTS["test"] < end


def test_shares_nest_and_validation_is_independent_of_them():
    user = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 200_000)
    small, large = users_of(user, 1), users_of(user, 10)
    assert (large[small]).all()
    assert small.mean() == pytest.approx(0.01, abs=0.002)
    assert users_of(user, 100).all()
    assert validation_users(user[large]).mean() == pytest.approx(0.05, abs=0.01)
    with pytest.raises(Misconfigured, match="1 to 100"):
        users_of(user, 0)


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_of_no_row_and_of_one(tmp_path, count):
    world = TaobaoMm(tmp_path / "data", users=6)
    for path in world.folder.glob("*/*-shard-*.parquet"):
        path.unlink()
    world.write("train", 0, [])
    world.write("test", 0, world.rows["test"][:count])
    if not count:
        with pytest.raises(Misconfigured, match="expected rows, got none"):
            taobao(world.folder, tmp_path / "out")
        assert not list((tmp_path / "out").glob(".*"))
        return
    assert len(taobao(world.folder, tmp_path / "out")) == 1


def test_blocks_come_back_from_the_spool_and_items_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_MERGE", 5)
    draw = np.random.default_rng(3)
    made = []
    for size in (0, 1, 7, 30):
        offsets = np.concatenate([[0], np.cumsum(draw.integers(0, 5, size))]).astype(np.int64)
        rows = blocks.Rows(
            draw.integers(0, 3, size), draw.integers(-9, 9, size), draw.random(size).astype(np.float32),
            draw.integers(-99, 99, offsets[-1]), offsets, {"x": draw.random(size).astype(np.float32)},
        )  # fmt: skip
        made.append(blocks.block_of(rows, "test", length=3))
    lines = []
    known = spool.spool(made, ("x",), tmp_path / "blocks", lines.append)
    assert known.tolist() == sorted({int(i) for b in made for i in (*b.item, *b.history)})
    assert lines
    for there, back in zip(made, spool.unspool(tmp_path / "blocks", ("x",)), strict=True):
        for name in ("user", "time", "known", "history", "offsets", "request", "item", "label"):
            assert getattr(there, name).tolist() == getattr(back, name).tolist(), name
        assert there.scalars["x"].tolist() == back.scalars["x"].tolist()


def test_memory_of_the_reader_does_not_grow_with_rows(tmp_path, monkeypatch):
    """Every batch holds at most so many rows, however long the file; the share is taken before anything is kept."""
    monkeypatch.setattr(files, "BATCH_ROWS", 8)
    world = TaobaoMm(tmp_path / "data", users=300)
    source = taobao_mm.source(world.folder, users=10, spec=SimTierSpec(taobao_mm.SPACE.id, length=LENGTH))
    sizes = [len(block.item) for block in source.blocks()]
    assert sum(sizes) == sum(in_share(row[0], 10) for rows in world.rows.values() for row in rows)
    assert max(sizes) <= files.BATCH_ROWS


BROKEN = {
    "no shard": (lambda w: [p.unlink() for p in (w.folder / "train").glob("*.parquet")], "train-shard-"),
    "no folder": (lambda w: w.folder.rename(w.folder.with_name("elsewhere")), "expected the train shards"),
    "no vectors": (lambda w: (w.folder / "feature_map" / "scl_emb_int8_p90_keys.npy").unlink(), "download the SCL vectors"),
    "no values": (lambda w: (w.folder / "feature_map" / "scl_emb_int8_p90_values.npy").unlink(), "the values of those keys"),
    "no column": (lambda w: w.write("test", 0, w.rows["test"], **{"150_2_180": None}), "got no .'150_2_180'"),
    "label of one": (
        lambda w: w.write("test", 0, w.rows["test"], label_0=pa.array([[1]] * len(w.rows["test"]), pa.list_(pa.int8()))),
        "expected 2 values a row, got 1",
    ),
    "label no list": (lambda w: w.write("test", 0, w.rows["test"], label_0=pa.array([1] * len(w.rows["test"]))), "expected lists"),
    "text items": (
        lambda w: w.write("test", 0, w.rows["test"], **{"205": pa.array(["x"] * len(w.rows["test"]))}),
        "expected numbers without nulls, got string",
    ),
    "null user": (
        lambda w: w.write("test", 0, w.rows["test"], **{"129_1": pa.array([None] * len(w.rows["test"]), pa.int64())}),
        "expected numbers without nulls",
    ),
    "not parquet": (lambda w: (w.folder / "test" / "test-shard-000000.parquet").write_bytes(b"PK"), "expected Parquet"),
    "values of other width": (
        lambda w: np.save(w.folder / "feature_map" / "scl_emb_int8_p90_values.npy", np.zeros((45, 64), np.int8)),
        r"expected shape \(45, 128\)",
    ),
    "values of other type": (
        lambda w: np.save(w.folder / "feature_map" / "scl_emb_int8_p90_values.npy", np.zeros((45, 128), np.float32)),
        "expected int8",
    ),
    "keys with objects": (
        lambda w: np.save(w.folder / "feature_map" / "scl_emb_int8_p90_keys.npy", np.array([{}]), allow_pickle=True),
        "expected an array",
    ),
    "a vector twice": (
        lambda w: np.save(w.folder / "feature_map" / "scl_emb_int8_p90_keys.npy", np.repeat(np.int64(min(w.codes)), 45)),
        "expected one vector an item",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_taobao_mm_says_what_is_wrong(tmp_path, what):
    world = TaobaoMm(tmp_path / "data", users=30)
    spoil, said = BROKEN[what]
    spoil(world)
    with pytest.raises(Misconfigured, match=said):
        taobao(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out" / layout.CARD).exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: (w.folder / "valid.parquet").unlink(), "the challenge's valid.parquet"),
        (lambda w: w.write("valid", w.rows["valid"], label=None), "got no .'label'"),
        (lambda w: w.write("valid", w.rows["valid"], label=pa.array([2] * len(w.rows["valid"]))), "expected 0 or 1, got 2"),
        (lambda w: w.write_info(item_emb_d128=pa.array([[1.0]] * 40)), "expected 128 values a row, got 1"),
        (lambda w: w.write_info(item_emb_d128=pa.array([[float("nan")] * 128] * 40)), "expected finite values"),
        (lambda w: w.write_info(item_id=pa.array([1] * 40)), "expected one vector an item"),
    ],
)
def test_a_broken_microlens_says_what_is_wrong(tmp_path, spoil, said):
    world = MicroLens(tmp_path / "data", users=20)
    spoil(world)
    with pytest.raises(Misconfigured, match=said):
        lens(tmp_path / "data", tmp_path / "out")


def test_a_folder_with_content_is_left_alone(tmp_path):
    world = TaobaoMm(tmp_path / "data", users=6)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(Misconfigured, match="new or empty folder"):
        taobao(world.folder, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_vectors_on_disk_are_those_that_are_pointed_to(tmp_path):
    world = TaobaoMm(tmp_path / "data", users=10)
    data = taobao(world.folder, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / layout.VECTORS)
    assert set(table["item_id"].to_pylist()) <= set(data.item_ids)
    assert table["vector"].to_pylist() == list(range(table.num_rows))
    assert not list((tmp_path / "out").glob(".*"))
