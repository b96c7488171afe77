"""What labels are joined with, gathered once in the driver and kept as arrays on disk."""

from __future__ import annotations

import numpy as np

from jobs._cli import complain
from jobs._progress import Progress
from jobs._rejects import RejectFile
from jobs._training_behaviours import read_activity
from jobs._training_inputs import Inputs
from jobs._training_set import TrainingJob
from moontide.errors import Misconfigured
from moontide.pit import aggregates, item_columns
from moontide.pit.build import Sources
from moontide.pit.ids import Ids
from moontide.pit.item_columns import TABLE_COLUMNS, ItemColumns
from moontide.pit.layout import Columns
from moontide.pit.stream import pieces
from moontide.pit.versions import LOG_COLUMNS, VersionLog
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view, item_features

Spec = tuple[SimTierSpec, EmbeddingSpace]


def require_sources(tables: OfflineTables, space: EmbeddingSpace | None, labels: tuple[str, ...]) -> None:
    """Look, without reading a row, whether labels can be joined at all.

    Args:
        tables: the offline tables.
        space: of the vectors; None: no vectors.
        labels: further label columns.

    Raises:
        Misconfigured: the space has no vectors offline, or a label is named as another column of the training set is.
    """
    Columns(0, labels, (*aggregates.SCALARS, *(item_columns.SCALARS if tables.partitions(item_features()) else ())))
    if space is not None and not tables.partitions(embedding_view(space)):
        raise Misconfigured(
            f"{tables.path(embedding_view(space))}: expected embeddings of {space.id}, got none; run jobs.backfill_embeddings "
            "(--history for an export of the past)"
        )


def gather(
    job: TrainingJob, inputs: Inputs, rejects: RejectFile, tables: OfflineTables, *, spec: Spec | None, length: int
) -> Sources:
    """Read behaviours, the embedding log and item columns; everything lies in ``job.sources`` then.

    Args:
        job: where to.
        inputs: labels and behaviours.
        rejects: takes behaviours that are turned away.
        tables: the offline tables.
        spec: spec and space of the counts; None: no vectors.
        length: L.

    Raises:
        SpaceMismatch: its log holds another space's.
    """
    done = 0

    def said(rows: int) -> None:
        nonlocal done
        done += rows

    with Progress("behaviours", inputs.behaviours.rows if inputs.behaviours else 0, lambda: done):
        ids, activity = read_activity(inputs.labels, inputs.behaviours, rejects, job.now_us, said)
    # Which columns a set has follows from the site, not from which items its labels happen to name.
    known = tables.partitions(item_features())
    catalog = ItemColumns.build(tables.scan(item_features(), TABLE_COLUMNS), ids[1]) if known else None
    vectors = None if spec is None else (_log(job, tables, spec[1], ids[1]), spec[0])
    Sources(length, ids, activity, catalog, vectors).save(job.sources)
    # From disk, as executors have it: what one process joins with is what a cluster joins with.
    return Sources.open(job.sources)


def _log(job: TrainingJob, tables: OfflineTables, space: EmbeddingSpace, items: Ids) -> VersionLog:
    log = VersionLog.build(tables.scan(embedding_view(space), LOG_COLUMNS), space, items, folder=job.sources / "versions")
    complain(f"vectors: {len(log):,} rows of {space.stored_id} for {len(items):,} items")
    return log


def why_no_vector(job: TrainingJob, items: Ids, log: VersionLog) -> str:
    """What keeps every label from a vector; reads the items of the impressions that were written."""
    labelled = np.zeros(len(items), bool)
    for piece in pieces(job.out, columns=("request", "item"), request_columns=("request",)):
        labelled[piece.rows["item"].to_numpy()] = True
    late = int(labelled[log.item].sum())
    if late:
        return f"the {late:,} vectors of their items became known later (backfill an export of the past with --history)"
    return f"{log.space.id} has no row of their items (are the ids those of the catalog?)"
