"""The part of a backfill that runs on executors: catalog rows in, offline Parquet out, and a report of what was done.

One encoder per Python worker, however many partitions it takes. Nothing but offline Parquet is written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast, TaskContext
from pyspark.accumulators import Accumulator

from encoders import ImageLoader, Item, Unencodable
from encoders.kinds import AnyArtifact, open_any
from encoders.stub import StubEncoder
from encoders.variants import Wanted
from jobs._rows import feature_table, head_vectors, items_of
from moontide.embeddings import Embeddings
from moontide.records import NO_CONTENT_HASH, embedding_rows
from moontide.spaces import EmbeddingSpace
from moontide.standing import Standing, Step, checked, first_steps, flags, integers, standing
from moontide.stores.offline import OfflineTables
from moontide.views import ViewSpec, embedding_view, item_features

#: `row` set: one rejected row, `kind` its reason; else `count` rows of this `kind`.
REPORT: Final = pa.schema(
    [
        ("kind", pa.string()),
        ("count", pa.int64()),
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("item_id", pa.string()),
        ("detail", pa.string()),
    ]
)
#: A reason that is none: an older version of an item whose newer one is in the same catalog.
SUPERSEDED: Final = "superseded"
_FLUSH_BYTES: Final = 16 << 20


class ItemEncoder(Protocol):
    """What a backfill asks of an encoder: `encoders.Encoder`, or the stub."""

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector."""

    def content_hash(self, item: Item) -> str:
        """32 hex digits, or `Unencodable`."""

    def prepare(self, items: Sequence[Item]) -> Any:
        """Items ready for `run`: ``ids``, ``content_hashes``, ``rejects``."""

    def run(self, prepared: Any) -> Embeddings:
        """Vectors of the prepared items."""


#: This process's encoder under what it was made from; one at a time.
_loaded: dict[tuple[EmbeddingSpace, str | None, Wanted], ItemEncoder] = {}


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """What every executor is told; nothing else of the driver's machine is assumed.

    Args:
        space: the space being filled.
        artifact: broadcast, of any kind; None for the stub.
        offline_root: where the tables are, for every machine.
        image_root: folder of image paths, for every machine; None refuses paths.
        image_schemes: object stores that image URIs may name.
        batch_size: items per call of the encoder.
        now_us: `encoded_at`, and `content_known_at` of content not seen before.
        dry_run: do all but run the model and write.
        precision: what the model computes in.
        history: the catalog is an export of the past: content was known at its event time, not when this job read it.
    """

    space: EmbeddingSpace
    artifact: Broadcast[AnyArtifact] | None
    offline_root: str
    image_root: str | None
    image_schemes: tuple[str, ...]
    batch_size: int
    now_us: int
    dry_run: bool = False
    precision: Wanted = "fp32"
    history: bool = False

    def encoder(self) -> ItemEncoder:
        """This process's encoder, loaded once."""
        key = (self.space, self.image_root, self.precision)
        if key not in _loaded:
            _loaded.clear()
            if self.artifact is None:
                _loaded[key] = StubEncoder(self.space)
            else:
                images = ImageLoader(self.image_root, self.image_schemes)
                # One thread: Spark already runs one worker per core.
                _loaded[key] = open_any(self.artifact.value, threads=1, images=images, precision=self.precision)
        return _loaded[key]


class EncodePartitions:
    """The function `mapInArrow` runs: batches of joined rows in, batches of `REPORT` out."""

    def __init__(self, job: EncodeJob, done: Accumulator[int]) -> None:
        self._job = job
        self._done = done

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Handle one partition."""
        context = TaskContext.get()
        sink = Sink(self._job, f"backfill-{0 if context is None else context.partitionId():05d}")
        counts: Counter[str] = Counter()
        for batch in batches:
            yield _passed_on(batch, counts)
            live = batch.filter(batch["reason"].is_null())
            for start in range(0, len(live), self._job.batch_size):
                yield handle(self._job, live.slice(start, self._job.batch_size), sink, counts)
            self._done.add(len(batch))
        sink.flush()
        yield _report([(kind, n, None, None, None, None) for kind, n in sorted(counts.items())])


@dataclass(slots=True)
class Sink:
    """Collects rows of the two tables and commits them in files of some 16 MB in memory."""

    job: EncodeJob
    writer: str
    waiting: dict[ViewSpec, list[pa.Table]] = field(default_factory=dict)
    size: int = 0

    def add(self, view: ViewSpec, rows: pa.Table) -> None:
        """Take rows; they are durable after `flush`."""
        if self.job.dry_run or not rows.num_rows:
            return
        self.waiting.setdefault(view, []).append(rows)
        self.size += rows.nbytes
        if self.size >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Commit what was taken."""
        tables = OfflineTables(self.job.offline_root)
        for view, parts in self.waiting.items():
            tables.append(view, pa.concat_tables(parts).combine_chunks(), writer=self.writer)
        self.waiting, self.size = {}, 0


def handle(job: EncodeJob, batch: pa.RecordBatch, sink: Sink, counts: Counter[str]) -> pa.RecordBatch:
    """Give the sink the rows one slice needs; returns a `REPORT` of the rejects."""
    at = standing(integers(batch["source_version"]), integers(batch["event_us"]), batch["head_version"], batch["head_us"])
    todo = first_steps(at, flags(batch["deleted"]), batch["head_deleted"])
    items = items_of(batch)
    why = _check(job.encoder(), items, todo, at, batch["head_hash"].to_pylist())
    rows, vectors, hashes = _encode(job, items, todo, why)
    if not job.dry_run:
        reused, gone = np.flatnonzero(todo == Step.REUSE), np.flatnonzero(todo == Step.TOMBSTONE)
        old = batch.take(pa.array(reused))
        absent = Embeddings.absent(job.space, len(gone), ids=batch["item_id"].take(pa.array(gone)).to_pylist())
        for chosen, found, encoded_at, texts in (
            (rows, vectors, job.now_us, hashes),
            (reused, head_vectors(job.space, old), integers(old["head_encoded_us"]), old["head_hash"].to_pylist()),
            (gone, absent, job.now_us, [NO_CONTENT_HASH] * len(gone)),
        ):
            part = batch.take(pa.array(chosen))
            table = embedding_rows(
                found,
                source_version=integers(part["source_version"]),
                event_timestamp=at.event_us[chosen],
                encoded_at=encoded_at,
                content_known_at=_known_at(part, texts, at.event_us[chosen] if job.history else job.now_us),
                content_hash=texts,
                deleted=flags(part["deleted"]),
            )
            sink.add(embedding_view(job.space), table)
        fine = np.flatnonzero(todo != Step.REJECTED)
        features = feature_table(batch.take(pa.array(fine)), [items[n] for n in fine], now_us=job.now_us)
        sink.add(item_features(), features)
    counts.update({step.name.lower(): int((todo == step).sum()) for step in Step if step is not Step.REJECTED})
    counts["rejected"] += len(why)
    places = batch.select(["source", "row", "item_id"]).to_pylist()
    found_bad = [(reason, None, *places[n].values(), detail) for n, (reason, detail) in sorted(why.items())]
    return _report(found_bad)


def _known_at(part: pa.RecordBatch, hashes: Sequence[str], new_us: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """(B,) microseconds: when this content reached us, as the consumer has it; other content under the same version is new.

    Where the head has this version, it decides: content that was replaced or deleted and comes back is known from now on. Else
    ``known_hash`` and ``known_us`` of `part` hold, per row, contents that its version was known with in any space, and since
    when; what was known before a deletion of the version (or a deletion before content) is not known still.
    """
    told, rows = pc.list_flatten(part["known_hash"]), pc.list_parent_indices(part["known_hash"])
    wanted, at = pa.array(hashes, pa.string()), rows.to_numpy()
    same, since = flags(pc.equal(told, wanted.take(rows))), integers(pc.list_flatten(part["known_us"]))
    ended = np.full(len(part), np.iinfo(np.int64).min)
    turned = flags(pc.equal(told, NO_CONTENT_HASH)) != flags(pc.equal(wanted, NO_CONTENT_HASH))[at]
    np.maximum.at(ended, at[turned], since[turned])
    same &= since > ended[at]
    first = np.full(len(part), np.iinfo(np.int64).max)
    np.minimum.at(first, at[same], since[same])
    found = np.where(first < np.iinfo(np.int64).max, first, new_us)
    head = flags(pc.equal(part["head_version"], part["source_version"]))
    return np.where(head, np.where(flags(pc.equal(part["head_hash"], wanted)), integers(part["head_known_us"]), new_us), found)


def _check(
    encoder: ItemEncoder, items: list[Item], todo: NDArray[np.int8], at: Standing, head_hashes: list[str | None]
) -> dict[int, tuple[str, str]]:
    """Settle the `CHECK` rows by their content hash; returns why rows were rejected."""
    why: dict[int, tuple[str, str]] = {}
    for row in np.flatnonzero(todo == Step.CHECK).tolist():
        try:
            todo[row] = checked(at, row, same_content=encoder.content_hash(items[row]) == head_hashes[row])
        except Unencodable as error:
            todo[row], why[row] = Step.REJECTED, (error.reason.value, error.detail)
    return why


def _encode(
    job: EncodeJob, items: list[Item], todo: NDArray[np.int8], why: dict[int, tuple[str, str]]
) -> tuple[NDArray[np.int64], Embeddings, Sequence[str]]:
    """Vectors of the `ENCODE` rows that can be encoded; the others are added to `why`."""
    rows = np.flatnonzero(todo == Step.ENCODE)
    number = {items[row].item_id: row for row in rows.tolist()}
    encoder = job.encoder()
    prepared = encoder.prepare([items[row] for row in rows])
    for reject in prepared.rejects:
        row = number[reject.item_id]
        todo[row], why[row] = Step.REJECTED, (reject.reason.value, reject.detail)
    done = np.array([number[item] for item in prepared.ids], np.int64)
    vectors = Embeddings.absent(job.space, len(done), ids=prepared.ids) if job.dry_run else encoder.run(prepared)
    return done, vectors, prepared.content_hashes


def _passed_on(batch: pa.RecordBatch, counts: Counter[str]) -> pa.RecordBatch:
    """A `REPORT` of the rows that were turned away before."""
    bad = batch.filter(batch["reason"].is_valid())
    older = flags(pc.equal(bad["reason"], SUPERSEDED))
    counts[SUPERSEDED] += int(older.sum())
    counts["rejected"] += int((~older).sum())
    bad = bad.filter(pa.array(~older))
    columns = [bad["reason"], pa.nulls(len(bad), pa.int64()), *(bad[c] for c in ("source", "row", "item_id", "detail"))]
    return pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(columns, REPORT, strict=True)], schema=REPORT)


def _report(rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(REPORT)
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, REPORT, strict=True)], schema=REPORT)
