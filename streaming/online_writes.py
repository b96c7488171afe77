"""Writing effects online: the last version of each entity, and verdicts corrected where another writer was faster."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from moontide.errors import Poison
from moontide.stores.base import OnlineStore, WriteCounts
from moontide.stores.indexer import head_tokens, order_keys
from moontide.views import ViewKind, ViewSpec
from streaming.message import Effects, Verdict

REFUSED: str = "refused_by_store"


def write_online(online: OnlineStore, effects: Effects) -> None:
    """Write `effects` online. May be called again after a failure: what was written already is found equal.

    An applied event whose row lost against a newer record, written since its handler looked, becomes stale. A row the store
    refuses makes its event a dead letter; the rows of the others are written.

    Raises:
        Transient: the store did not answer; call again.
    """
    for view, rows in [*effects.rows, *effects.online_only]:
        newest = _newest(view, rows)
        try:
            counts = online.write_rows(view, newest)
        except Poison:
            counts = _one_by_one(online, view, newest, effects)
        if counts.stale and view.kind is ViewKind.EMBEDDING:
            _correct(effects, _lost(online, view, newest))


def _newest(view: ViewSpec, rows: pa.Table) -> pa.Table:
    """The last row of each entity; rows of one entity come in rising order."""
    keys = list(zip(*(rows[name].to_pylist() for name in view.entities), strict=True))
    last = {key: n for n, key in enumerate(keys)}
    return rows if len(last) == len(keys) else rows.take(pa.array(sorted(last.values())))


def _one_by_one(online: OnlineStore, view: ViewSpec, rows: pa.Table, effects: Effects) -> WriteCounts:
    total = WriteCounts()
    for row in range(rows.num_rows):
        one = rows.slice(row, 1)
        try:
            total += online.write_rows(view, one)
        except Poison as error:
            _refuse(effects, view, one, error)
    return total


def _refuse(effects: Effects, view: ViewSpec, row: pa.Table, error: Poison) -> None:
    entity = row[view.entities[0]][0].as_py()
    effects.results = [
        replace(r, verdict=Verdict.DEAD, reason=REFUSED, detail=str(error)[:1_000]) if r.entity_id == entity else r
        for r in effects.results
    ]
    effects.rows = [
        (v, t.filter(pa.array([e != entity for e in t[v.entities[0]].to_pylist()], pa.bool_()))) for v, t in effects.rows
    ]


def _lost(online: OnlineStore, view: ViewSpec, rows: pa.Table) -> set[str]:
    """Entities whose record is above their row."""
    ids: list[str] = rows[view.entities[0]].to_pylist()
    tokens = head_tokens(online.heads(view, ids))
    return {item for item, own, token in zip(ids, order_keys(view, rows), tokens, strict=True) if token > own}


def _correct(effects: Effects, lost: set[str]) -> None:
    effects.results = [
        replace(r, verdict=Verdict.STALE) if r.entity_id in lost and r.verdict is Verdict.APPLIED else r for r in effects.results
    ]
