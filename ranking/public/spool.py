"""The pass over a published data set: its blocks beside the result, and its distinct items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.pit import layout
from ranking.public.blocks import Block, Ints

Say = Callable[[str], None]
_REQUESTS: Final = pa.schema(
    [("user", pa.int64()), ("time", pa.int64()), ("known", pa.int64()), ("history", pa.list_(pa.int64()))]
)
#: Items that wait to be merged, at least.
_MERGE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Items:
    """Distinct item ids: `number` (V,) int64 rising, and `row` (V,) int64, each one's place in the order of the texts."""

    number: Ints
    row: Ints

    @classmethod
    def of(cls, number: Ints) -> Items:
        """Of rising ids."""
        order = pc.sort_indices(pa.array(number).cast(pa.string())).to_numpy()
        row = np.empty(len(number), np.int64)
        row[order] = np.arange(len(number))
        return cls(number, row)

    def rows(self, wanted: Ints) -> Ints:
        """Rows of ids that are there."""
        return self.row[np.searchsorted(self.number, wanted)]

    def has(self, wanted: Ints) -> NDArray[np.bool_]:
        """(B,) whether each id is there."""
        at = np.minimum(np.searchsorted(self.number, wanted), len(self.number) - 1)
        return np.asarray(self.number[at] == wanted)

    def table(self) -> pa.Table:
        """`layout.ITEMS_SCHEMA`, in id order."""
        ids = pa.array(self.number[np.argsort(self.row)]).cast(pa.string())
        return pa.table([pa.array(np.arange(len(ids), dtype=np.int32)), ids], schema=layout.ITEMS_SCHEMA)


def spool(blocks: Iterable[Block], scalars: tuple[str, ...], path: Path, say: Say) -> Ints:
    """Write the blocks to `path`; returns their distinct items, rising; none where there is no block."""
    known, fresh, waiting = np.zeros(0, np.int64), list[Ints](), 0
    rows = 0
    with path.open("wb") as file, ExitStack() as stack:
        writer: pa.RecordBatchFileWriter | None = None
        for block in blocks:
            batch = _packed(block, scalars)
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_file(file, batch.schema))
            writer.write_batch(batch)
            fresh.append(np.unique(np.concatenate([block.item, block.history])))
            waiting += len(fresh[-1])
            rows += len(block.item)
            # Merging at each block would sort all items again and again.
            if waiting > max(len(known), _MERGE):
                known, fresh, waiting = np.unique(np.concatenate([known, *fresh])), [], 0
                say(f"{rows} rows read, {len(known)} items")
    return np.unique(np.concatenate([known, *fresh]))


def _packed(block: Block, names: tuple[str, ...]) -> pa.RecordBatch:
    """A block as one row of lists."""
    history = pa.ListArray.from_arrays(pa.array(block.offsets.astype(np.int32)), pa.array(block.history))
    requests = pa.StructArray.from_arrays(
        [pa.array(block.user), pa.array(block.time), pa.array(block.known), history], fields=list(_REQUESTS)
    )
    floats = np.stack([block.label, *(block.scalars[name] for name in names)], axis=1).ravel()
    columns = {"requests": requests, "request": pa.array(block.request), "item": pa.array(block.item), "floats": pa.array(floats)}
    return pa.record_batch(
        [pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values) for values in columns.values()], list(columns)
    )


def unspool(path: Path, names: tuple[str, ...]) -> Iterator[Block]:
    """The blocks that `spool` wrote."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            requests = batch.column("requests").values
            user, time, known, history = (requests.field(name) for name in _REQUESTS.names)
            offsets = history.offsets.to_numpy().astype(np.int64)
            floats = batch.column("floats").values.to_numpy().reshape(-1, 1 + len(names))
            yield Block(
                user.to_numpy(), time.to_numpy(), known.to_numpy(), history.values.to_numpy(), offsets,
                batch.column("request").values.to_numpy(), batch.column("item").values.to_numpy(), floats[:, 0],
                {name: floats[:, 1 + at] for at, name in enumerate(names)},
            )  # fmt: skip
