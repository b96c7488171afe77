"""What a training set is made from: labels and behaviours as files, or made from a shop's purchases; the encoder's cut-off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.purchases import read_purchases
from jobs._behaviours import check
from jobs._tables import InputTable, file_system, open_table, read_unit
from jobs._training_set import CHUNK, checked
from moontide import names, schemas
from moontide.errors import Misconfigured
from moontide.pit.impressions import Impressions, make_impressions
from moontide.pit.purchases import DAY, Purchases

#: The action of behaviours made from purchases.
PURCHASE: Final = "purchase"
_LABELS_REQUIRED: Final = ("user_id", "item_id", "event_timestamp", "label")
_ROW_GROUP: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Inputs:
    """Labels, behaviours (None: nobody ever did anything), and what the card says of them."""

    labels: InputTable
    behaviours: InputTable | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampler:
    """How impressions are drawn from purchases; see `pit.impressions`."""

    variant: str
    negatives: int
    window_days: int
    seed: int


def from_files(impressions: str, behaviours: str | None, labels: Sequence[str], *, assume_utc: bool) -> Inputs:
    """Inputs that are files.

    Raises:
        Misconfigured: nothing there, no Parquet, a column is missing or of another kind, or times without a zone.
    """
    clash = sorted(set(labels) & set(schemas.IMPRESSIONS.names))
    if clash:
        raise Misconfigured(f"--labels: expected columns beside {schemas.IMPRESSIONS.names}, got {clash}; leave them out")
    contract = pa.schema([*schemas.IMPRESSIONS, *(pa.field(name, pa.float32()) for name in labels)])
    found = open_table(impressions, contract, (*_LABELS_REQUIRED, *labels), what="impressions")
    require_zone(found, "impressions", assume_utc=assume_utc)
    acts = None
    if behaviours is not None:
        acts = open_table(behaviours, schemas.BEHAVIOURS, tuple(schemas.BEHAVIOURS.names), what="behaviours")
        require_zone(acts, "behaviours", assume_utc=assume_utc)
    return Inputs(found, acts, {"impressions": impressions, "behaviours": behaviours, "assume_utc": assume_utc})


def from_purchases(folder: Path, behaviours: str | None, work: Path, sampler: Sampler, *, assume_utc: bool) -> Inputs:
    """Inputs made from ``items.csv`` and ``transactions.parquet``; they are written to `work`.

    Args:
        folder: the shop.
        behaviours: a file of behaviours; None: the purchases themselves.
        work: folder for the files.
        sampler: how impressions are drawn.
        assume_utc: as in `from_files`.

    Raises:
        Misconfigured: as `read_purchases`, and as `from_files`.
    """
    purchases = read_purchases(folder)
    impressions = make_impressions(
        purchases, variant=sampler.variant, seed=sampler.seed, ratio=sampler.negatives, window=sampler.window_days * DAY
    )
    work.mkdir(parents=True, exist_ok=True)
    labels, bought = work / "impressions.parquet", work / "behaviours.parquet"
    pq.write_table(_impression_table(purchases, impressions), labels, row_group_size=_ROW_GROUP)
    if behaviours is None:
        pq.write_table(_behaviour_table(purchases), bought, row_group_size=_ROW_GROUP)
    made = from_files(str(labels), str(bought) if behaviours is None else behaviours, (), assume_utc=assume_utc)
    facts = {
        "purchases": folder.name, "behaviours": behaviours or "the purchases", "sampler": asdict(sampler),
        "sales_left_out": dict(purchases.left_out), "positives_left_out": dict(impressions.left_out),
    }  # fmt: skip
    return Inputs(made.labels, made.behaviours, facts)


def _impression_table(purchases: Purchases, made: Impressions) -> pa.Table:
    columns = [
        _texts(purchases.user_ids, made.user[made.request]),
        _texts(purchases.item_ids, made.item),
        pa.array(made.time[made.request]).cast(schemas.TIMESTAMP),
        pa.array(made.label),
        # Two baskets of one user at one time stay two requests.
        pa.array(made.request).cast(pa.string()),
    ]
    return pa.table(columns, schema=schemas.IMPRESSIONS)


def _behaviour_table(purchases: Purchases) -> pa.Table:
    action = pa.array([PURCHASE]).take(pa.array(np.zeros(len(purchases), np.int64)))
    columns = [
        _texts(purchases.user_ids, purchases.user), _texts(purchases.item_ids, purchases.item), action,
        pa.array(purchases.time).cast(schemas.TIMESTAMP),
    ]  # fmt: skip
    return pa.table(columns, schema=schemas.BEHAVIOURS)


def _texts(ids: Sequence[str], rows: np.ndarray) -> pa.Array:
    return pa.array(ids, pa.string()).take(pa.array(rows))


def require_zone(table: InputTable, what: str, *, assume_utc: bool) -> None:
    """Refuse times without a zone: an hour's error would let labels see their future.

    Raises:
        Misconfigured: a file has such a column, and `assume_utc` does not say what it means.
    """
    if assume_utc:
        return
    system, _ = file_system(table.uri)
    naive = []
    for path in table.files:
        with pq.ParquetFile(system.open_input_file(path)) as source:
            kind = source.schema_arrow.field(names.EVENT_TIMESTAMP).type
        if not (pa.types.is_null(kind) or (pa.types.is_timestamp(kind) and kind.tz)):
            naive.append(path)
    if naive:
        mixed = f", {len(table.files) - len(naive)} files have one" if len(naive) < len(table.files) else ""
        raise Misconfigured(
            f"{what} {naive[0]}: event_timestamp: expected times with a zone, got none in {len(naive)} files{mixed}; "
            "export UTC instants, or say --assume-utc if that is what they are"
        )


def count_rejects(inputs: Inputs, now_us: int) -> tuple[int, int]:
    """How many labels, and how many behaviours, would be turned away."""
    labels = behaviours = 0
    for unit in inputs.labels.units:
        for batch in read_unit(inputs.labels, unit, batch_rows=CHUNK):
            labels += len(checked(batch, unit.path, 0, now_us)[2])
    for unit in inputs.behaviours.units if inputs.behaviours else ():
        for batch in read_unit(inputs.behaviours, unit, batch_rows=CHUNK):
            found = check(batch, now_us, source=unit.source, first_row=0)["reason"]
            behaviours += len(found) - found.null_count
    return labels, behaviours


def encoder_cutoff(artifact: Path | None) -> tuple[str | None, int | None]:
    """The day from which on the encoder's training saw nothing, as the artifact states it, and as microseconds; None: unknown."""
    try:
        body = json.loads((artifact / "manifest.json").read_text(encoding="utf-8")) if artifact is not None else {}
        day = body.get("training_cutoff")
        moment = None if day is None else datetime.fromisoformat(day)
    except (OSError, ValueError, AttributeError, TypeError):
        return None, None
    if moment is None:
        return None, None
    whole = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return str(day), round(whole.timestamp()) * 1_000_000
