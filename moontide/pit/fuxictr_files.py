"""The files around FuxiCTR's rows: feature map, vocabulary, frozen vectors and dataset config (FuxiCTR 2.x, `features.py`)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moontide.pit import layout

PAD: Final = "__PAD__"
OOV: Final = "__OOV__"
VECTOR_FILE: Final = "pretrained_item_vector.npz"
ROW_GROUP: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Features:
    """The columns of one set, in FuxiCTR's order.

    Args:
        columns: what the impressions have.
        users, items: size of each vocabulary, padding and "never seen" included.
        vectors: rows of the frozen table; `dim` floats each. None: a set without vectors.
        dim: 0 without vectors.
        length: of the history columns.
    """

    columns: layout.Columns
    users: int
    items: int
    vectors: tuple[int, int] | None
    length: int

    def specs(self) -> dict[str, dict[str, Any]]:
        """``feature_map.json``'s `features` by name."""
        made: dict[str, dict[str, Any]] = {
            "label_row": {"type": "meta"},
            "group_id": {"type": "meta"},
            "user_id": _categorical("user", self.users),
            "item_id": _categorical("item", self.items),
        }
        sequence = {"type": "sequence", "max_len": self.length}
        histories = {"item_history": made["item_id"] | sequence | {"source": "user", "share_embedding": "item_id"}}
        if self.vectors is not None:
            size, dim = self.vectors
            frozen = {"oov_idx": size + 1, "pretrained_emb": VECTOR_FILE, "pretrain_dim": dim, "freeze_emb": True}
            made["item_vector"] = _categorical("item", size + 2) | frozen | {"pretrain_usage": "init"}
            shared = {"source": "user", "share_embedding": "item_vector"}
            histories["vector_history"] = made["item_vector"] | sequence | shared
        made |= {name: {"source": "context", "type": "numeric"} for name in (*self.columns.scalars, "missing")}
        if self.columns.tiers:
            made["simtier"] = {"source": "context", "type": "embedding", "pretrain_dim": self.columns.tiers}
        return made | histories

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns, `label` first."""
        return ("label", *self.columns.labels)

    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        kinds = {"meta": pa.int64(), "categorical": pa.int32(), "numeric": pa.float32()}
        kinds |= {"sequence": pa.list_(pa.int32()), "embedding": pa.list_(pa.float32())}
        fields = [pa.field(name, kinds[spec["type"]], nullable=False) for name, spec in self.specs().items()]
        return pa.schema([*fields, *(pa.field(name, pa.float32()) for name in self.labels)])

    def feature_map(self, dataset_id: str) -> dict[str, Any]:
        """``feature_map.json`` as FuxiCTR's `FeatureMap.save` writes it."""
        specs = self.specs()
        wide = {"sequence": "max_len", "embedding": "pretrain_dim"}
        width = sum(int(spec.get(wide.get(spec["type"], ""), 1)) for spec in specs.values())
        own = [spec for spec in specs.values() if "share_embedding" not in spec]
        ids = sum(spec["vocab_size"] for spec in own if "vocab_size" in spec)
        return {
            "dataset_id": dataset_id,
            "num_fields": sum(spec["type"] != "meta" for spec in specs.values()),
            "total_features": ids + sum(spec["type"] == "numeric" for spec in own),
            "input_length": width,
            "labels": list(self.labels),
            "features": [{name: spec} for name, spec in specs.items()],
        }


class SplitWriter:
    """One Parquet file per split, or blocks of `block_rows`. A context manager; a split without rows has a file without rows."""

    def __init__(self, folder: Path, schema: pa.Schema, splits: Sequence[str], block_rows: int) -> None:
        self._folder, self._schema, self._blocks = folder, schema, block_rows
        self._open: dict[str, pq.ParquetWriter] = {}
        self._rows = dict.fromkeys(splits, 0)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            for split in self._rows:
                if not self._rows[split]:
                    self._writer(split)
        for writer in self._open.values():
            writer.close()

    def write(self, split: str, rows: pa.Table) -> None:
        """Append rows of the schema."""
        while rows.num_rows:
            room = self._blocks - self._rows[split] % self._blocks if self._blocks else rows.num_rows
            part, rows = rows.slice(0, room), rows.slice(room)
            self._writer(split).write_table(part, row_group_size=ROW_GROUP)
            self._rows[split] += part.num_rows
            if self._blocks and not self._rows[split] % self._blocks:
                self._open.pop(split).close()

    def _writer(self, split: str) -> pq.ParquetWriter:
        if split not in self._open:
            block = f"{split}/part_{self._rows[split] // self._blocks:05d}" if self._blocks else split
            path = self._folder / f"{block}.parquet"
            path.parent.mkdir(exist_ok=True)
            self._open[split] = pq.ParquetWriter(path, self._schema, compression="zstd")
        return self._open[split]


def write_vectors(source: Path, target: Path, dim: int) -> None:
    """FuxiCTR's ``key`` (pointers as text's numbers) and ``value`` (V, dim) float32 as .npz, a batch at a time."""
    with pq.ParquetFile(source) as rows, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        count = rows.metadata.num_rows
        for name, kind, shape in (("key", np.int64, (count,)), ("value", np.float32, (count, dim))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for batch in rows.iter_batches(batch_size=4_096, columns=["vector", "codes", "scale"]):
                    file.write(_keys(batch) if name == "key" else _floats(batch, dim))


def write_vocabulary(path: Path, features: Features, tokens: Mapping[str, Sequence[str]]) -> None:
    """``feature_vocab.json``: index of every token; `tokens` has those of each feature from index 1 on, in order."""
    specs = features.specs()
    with path.open("w", encoding="utf-8") as file:
        separator = "{"
        for name, spec in specs.items():
            if "vocab_size" not in spec:
                continue
            file.write(f"{separator}\n{json.dumps(name)}: {{{json.dumps(PAD)}: 0")
            for index, token in enumerate(tokens[spec.get("share_embedding", name)], 1):
                file.write(f", {json.dumps(token)}: {index}")
            file.write(f", {json.dumps(OOV)}: {spec['vocab_size'] - 1}}}")
            separator = ","
        file.write("\n}\n")


def write_config(path: Path, folder: Path, splits: Sequence[str], *, blocks: bool) -> None:
    """``dataset_config.yaml`` for a set that lies at `folder`; JSON strings are YAML strings."""
    place = folder.absolute()
    tail = "" if blocks else ".parquet"
    lines = [f"{place.name}:", f"    data_root: {json.dumps(str(place.parent))}", "    data_format: parquet"]
    lines += [f"    streaming: {'true' if blocks else 'false'}", "    group_id: group_id"]
    lines += [f"    {split}_data: {json.dumps(str(place / (split + tail)))}" for split in splits]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _categorical(source: str, size: int) -> dict[str, Any]:
    return {"source": source, "type": "categorical", "padding_idx": 0, "vocab_size": size}


def _keys(batch: pa.RecordBatch) -> bytes:
    return bytes(batch["vector"].to_numpy().astype("<i8").tobytes())


def _floats(batch: pa.RecordBatch, dim: int) -> bytes:
    codes = np.frombuffer(b"".join(batch["codes"].to_pylist()), np.int8).reshape(len(batch), dim)
    return bytes((codes.astype(np.float32) * batch["scale"].to_numpy()[:, None]).astype("<f4").tobytes())
