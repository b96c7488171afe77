"""Planned item events and vectors into rows; each row moves its item's head on. Pure.

B rows of one wave: events of B different items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide import schemas
from moontide.embeddings import Embeddings
from moontide.records import embedding_rows
from moontide.standing import Step
from moontide.views import ViewSpec, embedding_view, item_features
from streaming.item_heads import FeatureHeads, Heads, SpaceHeads
from streaming.item_plan import Events, Wave, known_at
from streaming.message import Effects

#: Vectors of some events of a wave: places in the wave, and as many vectors; None where nothing was encoded.
Fresh = tuple[NDArray[np.int64], Embeddings] | None


@dataclass(slots=True)
class Written:
    """Collects what waves, in order, say of each view."""

    rows: dict[ViewSpec, list[pa.Table]] = field(default_factory=dict)
    touched: dict[ViewSpec, dict[str, None]] = field(default_factory=dict)

    def add(self, view: ViewSpec, table: pa.Table) -> None:
        """Rows, none older than those before."""
        if table.num_rows:
            self.rows.setdefault(view, []).append(table)

    def touch(self, view: ViewSpec, ids: list[str]) -> None:
        """Entities whose record is to be re-driven."""
        if ids:
            self.touched.setdefault(view, {}).update(dict.fromkeys(ids))

    def effects(self) -> Effects:
        """All of it, one table per view."""
        rows = [(view, pa.concat_tables(parts).combine_chunks()) for view, parts in self.rows.items()]
        return Effects(rows=rows, touched=[(view, list(ids)) for view, ids in self.touched.items()])


def write(
    out: Written, wave: Wave, places: NDArray[np.int64], events: Events, heads: Heads, fresh: list[Fresh], times: tuple[int, int]
) -> None:
    """Put what `places` of a settled wave mean into `out`, and move their heads on.

    Args:
        out: what is written.
        wave: settled.
        places: (P,) events of the wave that are neither dead nor stale, and whose vectors are there.
        events: the batch.
        heads: moved on.
        fresh: per space, vectors of the `ENCODE` events among `places`.
        times: microseconds UTC: when the batch reached us, and now.
    """
    if not len(places):
        return
    since = known_at(wave, places, events, heads, times[0])
    for n, head in enumerate(heads.spaces):
        _write_space(out, wave, n, places, events, head, fresh[n], since[n], times[1])
    _write_features(out, wave, places, events, heads.features, times[1])


def _write_space(
    out: Written,
    wave: Wave,
    n: int,
    places: NDArray[np.int64],
    events: Events,
    head: SpaceHeads,
    fresh: Fresh,
    since: NDArray[np.int64],
    now_us: int,
) -> None:
    steps, at, view = wave.steps[n, places], wave.at[n], embedding_view(head.space)
    equal = (steps == Step.UNCHANGED) & at.known[places]
    out.touch(view, [events.ids[i] for i in wave.items[places[equal]].tolist()])
    chosen = np.isin(steps, (Step.ENCODE, Step.REUSE, Step.TOMBSTONE))
    if not chosen.any():
        return
    places, steps, since = places[chosen], steps[chosen], since[chosen]
    items, gone = wave.items[places], steps == Step.TOMBSTONE
    codes, scale = head.codes[items], head.scale[items]
    codes[steps != Step.REUSE], scale[steps != Step.REUSE] = 0, 0
    if fresh is not None:
        where = np.searchsorted(places, fresh[0])
        codes[where], scale[where] = fresh[1].codes, fresh[1].scale
    # The same version and time with other content must still rise, also where another machine's clock was ahead.
    at_least = np.where(at.equal[places], head.encoded_us[items] + 1, 0)
    encoded = np.where(steps == Step.REUSE, head.encoded_us[items], np.maximum(now_us, at_least))
    hashes = events.hashes[n, wave.rows[places]]
    out.add(
        view,
        embedding_rows(
            Embeddings.from_codes(head.space, codes, scale, ids=[events.ids[i] for i in items.tolist()]),
            source_version=wave.version[places],
            event_timestamp=at.event_us[places],
            encoded_at=encoded,
            content_known_at=since,
            content_hash=hashes.tolist(),
            deleted=gone,
        ),
    )
    head.known[items], head.deleted[items] = True, gone
    head.version[items], head.event_us[items] = wave.version[places], at.event_us[places]
    head.encoded_us[items], head.known_us[items], head.hashes[items] = encoded, since, hashes
    head.codes[items], head.scale[items] = codes, scale


def _write_features(out: Written, wave: Wave, places: NDArray[np.int64], events: Events, head: FeatureHeads, now_us: int) -> None:
    at, new, view = wave.features_at, wave.features[places], item_features()
    kept = ~new & at.known[places]
    out.touch(view, [events.ids[i] for i in wave.items[places[kept]].tolist()])
    places = places[new]
    if not len(places):
        return
    items, rows = wave.items[places], wave.rows[places]
    created = np.maximum(now_us, np.where(at.equal[places], head.created_us[items] + 1, 0))
    values = [events.values[row] for row in rows.tolist()]
    price, category, image, text = zip(*values, strict=True)
    columns: dict[str, Any] = {
        "item_id": [events.ids[i] for i in items.tolist()],
        "source_version": wave.version[places],
        "event_timestamp": at.event_us[places],
        "created": created,
        "deleted": events.deleted[rows],
        "price": price,
        "category": category,
        "has_image": image,
        "has_text": text,
    }
    arrays = [pa.array(columns[f.name], f.type) for f in schemas.ITEM_FEATURES]
    out.add(view, pa.table(arrays, schema=schemas.ITEM_FEATURES))
    head.known[items], head.deleted[items] = True, events.deleted[rows]
    head.version[items], head.event_us[items], head.created_us[items] = wave.version[places], at.event_us[places], created
    for item, value in zip(items.tolist(), values, strict=True):
        head.values[item] = value
