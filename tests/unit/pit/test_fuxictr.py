"""The FuxiCTR layout, read back by the rules of FuxiCTR's own loaders, holds the impressions it was made from."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moontide import EmbeddingSpace, schemas
from moontide.errors import Misconfigured
from moontide.pit import layout
from moontide.pit.fuxictr import Flat, write_fuxictr
from moontide.pit.stream import pieces
from moontide.records import binary_rows

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 4)
TIERS = 6


def make_set(folder, *, requests=30, seed=0, part_rows=17, vectors=True):
    """A training set of random rows; returns them as plain Python values."""
    rng = np.random.default_rng(seed)
    items = [f"i{n:02d}" for n in range(40)]
    pointers = sorted(rng.choice(1_000, 25, replace=False).tolist()) if vectors else []
    codes = rng.integers(-127, 128, (len(pointers), 4)).astype(np.int8)
    scale = rng.random(len(pointers)).astype(np.float32)
    picked = lambda count: [int(p) for p in rng.choice([*pointers, -1, -1], count)]  # noqa: E731
    made, rows = [], []
    for _ in range(requests):
        length = int(rng.integers(0, 9))
        history = rng.integers(0, 40, length).tolist()
        request = {
            "request": len(rows), "user_id": f"u{rng.integers(0, 9)}", "event_timestamp": int(rng.integers(0, 300)),
            "known": length + 2, "history_items": history, "history_vectors": picked(length), "history_times": list(range(length)),
        }  # fmt: skip
        made.append(request)
        for _ in range(int(rng.integers(1, 4))):
            rows.append({
                "label_row": len(rows), "request": request["request"], "item": int(rng.integers(0, 40)), "vector": picked(1)[0],
                "label": float(rng.integers(0, 2)), "missing": int(rng.integers(0, 5)), "paid": rng.choice([0.0, 1.0, None]),
                "age": float(np.float32(rng.random())), "counts": rng.integers(0, 9, TIERS).tolist(),
            })  # fmt: skip
    columns = layout.Columns(TIERS, labels=("paid",), scalars=("age",))
    for name, schema, values in (
        (layout.REQUESTS, layout.REQUESTS_SCHEMA, made),
        (layout.IMPRESSIONS, columns.schema(), rows),
    ):
        with layout.PartWriter(folder / name, schema, rows=part_rows) as writer:
            for start in range(0, len(values), 5):
                writer.write(pa.Table.from_pylist(values[start : start + 5], schema=schema))
    layout.write_whole(folder / layout.ITEMS, pa.table([range(40), items], schema=layout.ITEMS_SCHEMA))
    stored = [pointers, ["i00"] * len(pointers), [1] * len(pointers), pa.array([0] * len(pointers), schemas.TIMESTAMP)]
    stored += [binary_rows(codes), scale, scale]
    layout.write_whole(folder / layout.VECTORS, pa.table(stored, schema=layout.vectors_schema(SPACE if vectors else None)))
    layout.write_card(folder, {})
    floats = dict(zip(pointers, codes.astype(np.float32) * scale[:, None], strict=True))
    return items, {r["request"]: r for r in made}, rows, floats


def load(path):
    """(N, columns) as FuxiCTR's `ParquetDataset.load_data` stacks them, and `FeatureMap.set_column_index`'s columns by name."""
    feature_map = json.loads((path.parent / "feature_map.json").read_text())
    features = {k: v for spec in feature_map["features"] for k, v in spec.items()}
    index, at = {}, 0
    for name, spec in features.items():
        width = (
            spec.get("max_len") if spec["type"] == "sequence" else spec.get("pretrain_dim") if spec["type"] == "embedding" else 1
        )
        index[name], at = (
            (at if width == 1 and spec["type"] not in ("sequence", "embedding") else list(range(at, at + width))),
            at + width,
        )
    assert at == feature_map["input_length"]
    for label in feature_map["labels"]:
        index[label], at = at, at + 1
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    frames = []
    for file in files:
        frame = pd.read_parquet(file)
        arrays = [np.array(frame[c].to_list()) if frame[c].dtype == "object" else frame[c].to_numpy() for c in index]
        frames.append(np.column_stack(arrays) if len(frame) else np.zeros((0, at)))
    stacked = np.concatenate(frames)
    return {name: stacked[:, where] for name, where in index.items()}, features


def vector_table(folder, spec):
    """(vocab, dim) as FuxiCTR's `PretrainedEmbedding` fills it, for a frozen table."""
    vocab = json.loads((folder / "feature_vocab.json").read_text())
    stored = np.load(folder / spec["pretrained_emb"])
    matrix = np.zeros((spec["vocab_size"], spec["pretrain_dim"]), np.float32)
    keys = stored["key"].astype(type(list(vocab)[1]))
    for row, word in enumerate(keys):
        if word in vocab["item_vector"]:
            matrix[vocab["item_vector"][word]] = stored["value"][row]
    return matrix


@pytest.mark.parametrize(("block_rows", "log1p"), [(0, True), (7, False)])
def test_every_impression_comes_back_in_its_split(tmp_path, block_rows, log1p):
    items, requests, rows, floats = make_set(tmp_path)
    flat = Flat(100, 200, length=5, log1p=log1p, block_rows=block_rows)
    counts = write_fuxictr(tmp_path, flat)
    assert sum(counts.values()) == len(rows)
    out = tmp_path / "fuxictr"
    vocab = json.loads((out / "feature_vocab.json").read_text())
    name_of = {feature: {n: token for token, n in tokens.items()} for feature, tokens in vocab.items()}
    train = [r for r in rows if requests[r["request"]]["event_timestamp"] < 100]
    users = {requests[r["request"]]["user_id"] for r in train}
    seen = {items[i] for r in train for i in [r["item"], *requests[r["request"]]["history_items"][-5:]]}
    assert set(vocab["user_id"]) == users | {"__PAD__", "__OOV__"} and set(vocab["item_id"]) == seen | {"__PAD__", "__OOV__"}
    met, groups = 0, {}
    for split, (low, high) in {"train": (0, 100), "valid": (100, 200), "test": (200, 10**9)}.items():
        found, features = load(out / (split if block_rows else f"{split}.parquet"))
        expected = [r for r in rows if low <= requests[r["request"]]["event_timestamp"] < high]
        assert found["label_row"].tolist() == [r["label_row"] for r in expected] and counts[split] == len(expected)
        table = vector_table(out, features["item_vector"])
        for n, row in enumerate(expected):
            request = requests[row["request"]]
            old = [items[i] for i in request["history_items"][-5:]]
            shown = [name_of["item_history"][i] for i in found["item_history"][n].astype(int).tolist()]
            assert shown == [i if i in seen else "__OOV__" for i in old] + ["__PAD__"] * (5 - len(old))
            user, item = request["user_id"], items[row["item"]]
            assert name_of["user_id"][int(found["user_id"][n])] == (user if user in users else "__OOV__")
            assert name_of["item_id"][int(found["item_id"][n])] == (item if item in seen else "__OOV__")
            assert groups.setdefault(user, found["group_id"][n]) == found["group_id"][n]
            wanted = [floats.get(p, np.zeros(4)) for p in request["history_vectors"][-5:]] + [np.zeros(4)] * (5 - len(old))
            assert np.array_equal(table[found["vector_history"][n].astype(int)], wanted)
            assert np.array_equal(table[int(found["item_vector"][n])], floats.get(row["vector"], np.zeros(4)))
            raw = np.array([*row["counts"], row["missing"]], np.float32)
            tiers = np.append(found["simtier"][n], found["missing"][n]).astype(np.float32)
            assert np.array_equal(tiers, np.log1p(raw) if log1p else raw)
            paid = float("nan") if row["paid"] is None else row["paid"]
            assert np.array_equal(
                [found["label"][n], found["age"][n], found["paid"][n]], [row["label"], row["age"], paid], equal_nan=True
            )
            met += 1
    assert met == len(rows) and len(set(groups.values())) == len(groups)
    if block_rows:
        blocks = sorted((out / "train").iterdir())
        assert [b.name for b in blocks][:2] == ["part_00000.parquet", "part_00001.parquet"]
        assert all(pq.read_metadata(b).num_rows == block_rows for b in blocks[:-1])


def test_feature_map_follows_fuxictrs_rules(tmp_path):
    make_set(tmp_path)
    write_fuxictr(tmp_path, Flat(100, 200, length=5))
    said = json.loads((tmp_path / "fuxictr" / "feature_map.json").read_text())
    features = {k: v for spec in said["features"] for k, v in spec.items()}
    assert said["dataset_id"] == "fuxictr" and said["labels"] == ["label", "paid"]
    assert said["num_fields"] == sum(f["type"] != "meta" for f in features.values())
    vocab = json.loads((tmp_path / "fuxictr" / "feature_vocab.json").read_text())
    order = list(features)
    for name, spec in features.items():
        if spec["type"] in ("categorical", "sequence"):
            assert spec["padding_idx"] == 0 == vocab[name]["__PAD__"] and vocab[name]["__OOV__"] == spec["vocab_size"] - 1
            assert sorted(vocab[name].values()) == list(range(spec["vocab_size"]))
        if "share_embedding" in spec:
            assert order.index(spec["share_embedding"]) < order.index(name)
            assert spec["vocab_size"] == features[spec["share_embedding"]]["vocab_size"]
    config = (tmp_path / "fuxictr" / "dataset_config.yaml").read_text()
    assert config.startswith("fuxictr:\n") and json.dumps(str(tmp_path.absolute())) in config
    write_fuxictr(tmp_path, Flat(100, 200, length=5), will_be=tmp_path / "moved")
    config = (tmp_path / "fuxictr" / "dataset_config.yaml").read_text()
    assert json.dumps(str(tmp_path / "moved")) in config
    assert json.dumps(str(tmp_path / "moved" / "fuxictr" / "train.parquet")) in config


@pytest.mark.parametrize("requests", [0, 1])
@pytest.mark.parametrize("vectors", [True, False])
def test_none_and_one_request_and_no_vectors(tmp_path, requests, vectors):
    _, _, rows, _ = make_set(tmp_path, requests=requests, vectors=vectors)
    assert sum(write_fuxictr(tmp_path, Flat(0, 0)).values()) == len(rows)
    found, features = load(tmp_path / "fuxictr" / "test.parquet")
    assert len(found["label"]) == len(rows) and ("item_vector" in features) == vectors
    assert write_fuxictr(tmp_path, Flat(10**9, 10**9))["train"] == len(rows), "written again, in place of the first"


def test_wrong_use_is_told(tmp_path):
    with pytest.raises(Misconfigured, match=r"card\.json"):
        write_fuxictr(tmp_path, Flat(0, 0))
    with pytest.raises(Misconfigured, match="before test"):
        Flat(2, 1)
    with pytest.raises(Misconfigured, match="length from 1"):
        Flat(1, 2, length=0)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_pieces_are_the_set_in_order(tmp_path, batch):
    _, requests, rows, _ = make_set(tmp_path, seed=3)
    found = []
    for piece in pieces(tmp_path, batch=batch):
        assert 0 < piece.rows.num_rows <= batch
        users = piece.requests["user_id"].to_pylist()
        found += [(r, users[at]) for r, at in zip(piece.rows["label_row"].to_pylist(), piece.place.tolist(), strict=True)]
    assert found == [(r["label_row"], requests[r["request"]]["user_id"]) for r in rows]


def test_an_impression_without_its_request_is_told(tmp_path):
    make_set(tmp_path, requests=4)
    first = layout.part_files(tmp_path / layout.REQUESTS)[0]
    pq.write_table(pq.read_table(first).slice(1), first)
    with pytest.raises(Misconfigured, match="its request"):
        list(pieces(tmp_path))
