"""Tiny files in the layouts that TAOBAO-MM and MicroLens_1M_MMCTR were released in, and what is in them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM = 128


def _at(rows, column):
    return [row[column] for row in rows]


class TaobaoMm:
    """Two train shards and one test shard. Neighbouring rows share a user and a history, as the release's join leaves them."""

    def __init__(self, folder, *, users=240, seed=0, vectors="npy"):
        self.folder = folder
        draw = np.random.default_rng(seed)
        self.users = draw.choice(2**62, users, replace=False).astype(np.int64) * draw.choice([-1, 1], users)
        self.items = draw.choice(2**62, 60, replace=False).astype(np.int64) * draw.choice([-1, 1], 60)
        self.codes = {int(i): draw.integers(-40, 41, DIM).astype(np.int8) for i in self.items[:45]}
        self.codes[int(self.items[44])] = np.zeros(DIM, np.int8)
        self.rows = {"train": self._part(draw, self.users), "test": self._part(draw, self.users[: users // 3])}
        half = len(self.rows["train"]) // 2
        self.write("train", 0, self.rows["train"][:half])
        self.write("train", 1, self.rows["train"][half:])
        self.write("test", 0, self.rows["test"])
        (folder / "train" / "metadata.json").write_text(json.dumps({"total_rows": len(self.rows["train"])}))
        self.write_vectors(vectors)

    def _part(self, draw, users):
        rows = []
        for user in users:
            history = draw.choice(self.items, draw.integers(0, 9)).tolist()
            history = [0] * int(draw.integers(0, 3)) + history
            for item in draw.choice(self.items, draw.integers(1, 4)):
                rows.append((int(user), int(item), int(draw.random() < 0.3), history))
        return rows

    def write(self, part, number, rows, **replaced):
        (self.folder / part).mkdir(parents=True, exist_ok=True)
        ones = pa.array([1] * len(rows), pa.int64())
        columns = {
            "label_0": pa.array([[1 - y, y] for y in _at(rows, 2)], pa.list_(pa.int8())), "129_1": pa.array(_at(rows, 0), pa.int64()),
            **{f"130_{n}": ones for n in range(1, 6)}, "150_2_180": pa.array(_at(rows, 3), pa.list_(pa.int64())),
            "151_2_180": pa.array([[7] * len(h) for h in _at(rows, 3)], pa.list_(pa.int64())), "205": pa.array(_at(rows, 1), pa.int64()),
            "206": ones, "213": ones, "214": ones, **replaced,
        }  # fmt: skip
        columns = {name: column for name, column in columns.items() if column is not None}
        path = self.folder / part / f"{part}-shard-{number:06d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=50)
        return path

    def write_vectors(self, form):
        keys = np.array(sorted(self.codes), np.int64)
        values = np.stack([self.codes[int(k)] for k in keys])
        if form == "npy":
            (self.folder / "feature_map").mkdir(exist_ok=True)
            np.save(self.folder / "feature_map" / "scl_emb_int8_p90_keys.npy", keys)
            np.save(self.folder / "feature_map" / "scl_emb_int8_p90_values.npy", values)
        else:
            (self.folder / "raw").mkdir(exist_ok=True)
            codes = pa.array(values.tolist(), pa.list_(pa.int8()))
            pq.write_table(pa.table({"205": keys, "205_c": codes}), self.folder / "raw" / "scl_embedding_int8_p90.parquet")


class MicroLens:
    """The challenge's folder: sequences padded with 0 in front, item_info with a zero row first, a test file without labels."""

    LENGTH = 6

    def __init__(self, folder, *, users=160, seed=0):
        self.folder = folder / "MicroLens_1M_x1"
        self.folder.mkdir(parents=True)
        draw = np.random.default_rng(seed)
        self.vectors = draw.normal(size=(40, DIM)).astype(np.float32)
        self.vectors[[0, 7]] = 0
        self.rows = {"train": self._part(draw, users), "valid": self._part(draw, users // 2)}
        for part, rows in self.rows.items():
            self.write(part, rows)
        self.write("test", self.rows["valid"], label=None)
        self.write_info()

    def _part(self, draw, users):
        rows = []
        for user in range(1, users + 1):
            known = draw.integers(1, 40, draw.integers(0, self.LENGTH + 1)).tolist()
            history = [0] * (self.LENGTH - len(known)) + known
            rows += [(user, int(i), int(draw.random() < 0.4), history, *draw.integers(0, 11, 2).tolist())
                     for i in draw.integers(1, 40, draw.integers(1, 4))]  # fmt: skip
        return rows

    def write(self, part, rows, **replaced):
        columns = {
            "user_id": pa.array(_at(rows, 0), pa.int64()), "item_id": pa.array(_at(rows, 1), pa.int64()),
            "item_seq": pa.array(_at(rows, 3), pa.list_(pa.int64(), self.LENGTH)), "likes_level": pa.array(_at(rows, 4), pa.int64()),
            "views_level": pa.array(_at(rows, 5), pa.int64()), "label": pa.array(_at(rows, 2), pa.int64()), **replaced,
        }  # fmt: skip
        columns = {name: column for name, column in columns.items() if column is not None}
        pq.write_table(pa.table(columns), self.folder / f"{part}.parquet")

    def write_info(self, **replaced):
        columns = {
            "item_id": pa.array(range(len(self.vectors)), pa.int64()),
            "item_tags": pa.array([[1, 2, 3, 4, 5]] * len(self.vectors), pa.list_(pa.int64(), 5)),
            "item_emb_d128": pa.array(self.vectors.tolist(), pa.list_(pa.float32(), DIM)), **replaced,
        }  # fmt: skip
        pq.write_table(pa.table(columns), self.folder / "item_info.parquet")
