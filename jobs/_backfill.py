"""The steps of a backfill, in the driver: check everything, encode on executors, load, index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.storagelevel import StorageLevel

from encoders.artifact import Artifact
from encoders.images import image_root
from encoders.item import TITLE_MAX_CHARS
from encoders.kinds import AnyArtifact, load_any, require_runnable
from jobs._catalog import Rules, open_catalog
from jobs._cli import Exit, complain, say
from jobs._encode import REPORT, EncodeJob, EncodePartitions
from jobs._frames import by_date, catalog_frame, with_heads
from jobs._index import index_space
from jobs._load import load_everywhere
from jobs._progress import Progress
from jobs._rejects import Rejected, RejectFile, summary
from jobs._spark import arrow_ddl, default_partitions, drain, effective_master, require_reachable, spark_session, start_jvm
from jobs._tables import InputTable, event_days
from moontide.errors import Misconfigured
from moontide.live import LiveSpace
from moontide.order import MAX_AHEAD_US
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace, require_same_space
from moontide.stores import online_store, vector_index
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view, item_features

_BYTES_PER_BATCH: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Choices:
    """The flags of one run; `docs/reference/jobs.md` says what each does."""

    catalog: str
    master: str | None
    batch_size: int
    partitions: int | None
    snapshot_us: int | None
    rejects: Path | None
    image_root: str | None
    stub_dim: int | None
    index: bool
    history: bool
    dry_run: bool


class Backfill:
    """One run.

    Args:
        settings: the site.
        live: the space to fill, and its artifact.
        choices: the flags.
        now_us: time of the run: `encoded_at` of new vectors.
    """

    def __init__(self, settings: Settings, live: LiveSpace, choices: Choices, *, now_us: int) -> None:
        self._settings = settings
        self._live = live
        self._choices = choices
        self._now_us = now_us

    @property
    def _space(self) -> EmbeddingSpace:
        return self._live.space

    @property
    def _root(self) -> str:
        return self._settings.offline_root

    def run(self) -> Exit:
        """All steps; everything that can be known to be wrong is found before the first write.

        Raises:
            Misconfigured: nothing was written.
            Transient: a store or executor failed; run again.
        """
        choices = self._choices
        snapshot = choices.snapshot_us
        if snapshot is not None and snapshot > self._now_us + MAX_AHEAD_US:
            raise Misconfigured(
                "--snapshot-time: expected a time that has come, got a future one; name when the catalog was true"
            )
        catalog = open_catalog(choices.catalog, snapshot_us=snapshot)
        artifact = self._artifact()
        self._check_image_root()
        require_reachable(self._settings, effective_master(choices.master), index=choices.index)
        start_jvm()
        self._check_stores()
        conf = {
            "spark.sql.execution.arrow.maxRecordsPerBatch": str(max(choices.batch_size, 1_024)),
            "spark.sql.execution.arrow.maxBytesPerBatch": str(_BYTES_PER_BATCH),
            # The window, the heads and the versions all meet on the item, so one shuffle serves all.
            "spark.sql.requireAllClusterKeysForCoPartition": "false",
        }
        with spark_session("moontide backfill_embeddings", choices.master, conf=conf) as spark:
            counts, rejected = self._encode(spark, catalog, artifact)
            say(f"catalog {catalog.rows:,} rows: {summary(counts) or 'nothing'}")
            if not choices.dry_run:
                self._load(spark)
        if choices.dry_run:
            say("dry run: nothing was written; a run would then bring online store and index up to these tables")
        elif choices.index:
            self._index()
        return Exit.REJECTED if rejected else Exit.DONE

    def _artifact(self) -> AnyArtifact | None:
        """The space's encoder, its digest checked; None for the stub."""
        stub = self._choices.stub_dim
        if stub is not None:
            if stub != self._space.dim or self._space.encoder_digest:
                raise Misconfigured(
                    f"--encoder stub:{stub}: expected a space of dim {stub} without encoder_digest, "
                    f"got {self._space.id} of dim {self._space.dim}; stub vectors must not mix with an encoder's"
                )
            return None
        if self._live.artifact is None:
            raise Misconfigured(f"space {self._space.id}: expected an artifact in spaces.toml, got none; name its folder there")
        artifact = load_any(self._live.artifact)
        require_same_space(self._space, artifact.manifest.space, where=f"encoder {self._live.artifact}")
        require_runnable(artifact, self._settings.encoder_precision)
        return artifact

    def _check_image_root(self) -> None:
        """A mistyped folder would reject every image: refuse it where this machine can tell."""
        root = self._choices.image_root
        if root is not None and not effective_master(self._choices.master).startswith("spark") and not Path(root).is_dir():
            raise Misconfigured(f"--image-root: expected a folder, got {root}, which is none; name the folder of the image paths")

    def _check_stores(self) -> None:
        """Fail now where a store holds another space; the index last, because its collection is created where there is none.

        A dry run looks at what is there and opens nothing that it would have to create.
        """
        tables = OfflineTables(self._root)
        view = embedding_view(self._space)
        tables.require_own(view)
        dry = self._choices.dry_run
        if dry and self._settings.online == "lmdb" and not self._settings.lmdb_path.exists():
            return
        with closing(online_store(self._settings)) as store:
            some = next(store.scan(view), [])[:1]
            store.read_embeddings(self._space, [str(i) for i in some])
            store.heads(item_features(), [])
            if not dry:
                store.write_rows(view, view.table.empty_table())
        if self._choices.index and not dry:
            with closing(vector_index(self._settings)) as index:
                index.ensure(self._space)

    def _encode(self, spark: SparkSession, catalog: InputTable, artifact: AnyArtifact | None) -> tuple[Counter[str], int]:
        choices, context = self._choices, spark.sparkContext
        title_limit = artifact.preprocessing.title_max_chars if isinstance(artifact, Artifact) else TITLE_MAX_CHARS
        partitions = choices.partitions or default_partitions(catalog.rows, context.defaultParallelism)
        spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
        rules = Rules(self._now_us, title_limit, choices.snapshot_us)
        rows = catalog_frame(spark, catalog, rules, batch_rows=choices.batch_size)
        rows = with_heads(spark, rows, OfflineTables(self._root), self._root, self._space)
        rows = by_date(rows, partitions, event_days(catalog))
        job = EncodeJob(
            self._space,
            None if artifact is None else context.broadcast(artifact),
            self._root,
            choices.image_root or image_root(catalog.uri),
            self._settings.image_schemes,
            choices.batch_size,
            self._now_us,
            choices.dry_run,
            self._settings.encoder_precision,
            choices.history,
        )
        done = context.accumulator(0)
        report = rows.mapInArrow(EncodePartitions(job, done), arrow_ddl(REPORT)).persist(StorageLevel.DISK_ONLY)
        with Progress("encode", catalog.rows, lambda: done.value):
            counted = report.where("row is null").collect()
        counts: Counter[str] = Counter()
        for found in counted:
            counts[found.kind] += found["count"]
        rejected = self._reject(report, catalog, counts)
        report.unpersist()
        return +counts, rejected

    def _reject(self, report: DataFrame, catalog: InputTable, counts: Counter[str]) -> int:
        expected = counts["rejected"]
        rows = report.where("row is not null")
        found = self._rejects(rows, catalog, expected) if expected else iter(())
        if self._choices.dry_run:
            reasons = Counter(r.reason for r in found)
            complain(f"would reject {expected:,} rows: {summary(reasons)}")
            return expected
        file = RejectFile(self._choices.rejects or self._settings.home / "rejects" / "backfill.parquet", at_us=self._now_us)
        file.add(found)
        return file.close()

    def _rejects(self, rows: DataFrame, catalog: InputTable, count: int) -> Iterator[Rejected]:
        for row in drain(rows, count):
            yield Rejected(catalog.files[row.source], row.row, row.item_id, row.kind, row.detail or "")

    def _load(self, spark: SparkSession) -> None:
        for view in (embedding_view(self._space), item_features()):
            total = load_everywhere(spark, self._settings, view)
            say(f"online {view.name}: {total.applied:,} of {total.rows:,} offline rows written, {total.stale:,} outdated")

    def _index(self) -> None:
        counts = index_space(self._settings, self._space)
        say(f"index {self._space.collection}: {counts.upserted:,} upserted, {counts.deleted:,} removed")
