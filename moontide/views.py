"""Feature views as data: the one place that says which fields, types, keys and lifetimes a view has.

`feature_repo/` turns these into Feast objects, the stores into records, the jobs into tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

import pyarrow as pa

from moontide import names, schemas
from moontide.errors import Misconfigured
from moontide.order import MAX_AHEAD_US
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace

_NOT_FEATURES: Final = frozenset({names.EVENT_TIMESTAMP, "encoded_at", "created", "content_known_at", "space"})


class ViewKind(StrEnum):
    """How a view's records are laid out and merged."""

    EMBEDDING = "embedding"
    COLUMNS = "columns"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One feature view.

    Attributes:
        name: Feast's name of it.
        kind: record layout and merge rule.
        entities: join keys in key order.
        table: Arrow schema of its offline table (timestamps and keys included).
        created: column that breaks ties of `event_timestamp`.
        fenced: `source_version` and `deleted` are declared fields and order the writes.
        ttl: age of `event_timestamp` after which a read returns no value; None: never.
        space: the whole identity of an embedding view's vectors (its name carries only the id); None for other kinds.
        max_ahead_us: microseconds an event time may lie ahead of the store's clock before its row is poison; None: any.
    """

    name: str
    kind: ViewKind
    entities: tuple[str, ...]
    table: pa.Schema = field(hash=False)  # Arrow takes microseconds for it, and a store looks a view up at every read
    created: str
    fenced: bool
    ttl: timedelta | None = None
    space: EmbeddingSpace | None = None
    max_ahead_us: int | None = MAX_AHEAD_US

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        """The features, in order: every column that is neither key nor bookkeeping."""
        return tuple(f for f in self.table if f.name not in _NOT_FEATURES and f.name not in self.entities)

    def require_fields(self, wanted: list[str]) -> list[pa.Field]:
        """The named fields in the order asked for.

        Raises:
            Misconfigured: one is not a field of this view.
        """
        known = {f.name: f for f in self.fields}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise Misconfigured(f"view {self.name}: expected fields among {sorted(known)}, got {unknown}")
        return [known[name] for name in wanted]


def embedding_view(space: EmbeddingSpace) -> ViewSpec:
    """Item embeddings of one space: the float vector (``codes * scale``), the codes it comes from, and the fence.

    A Matryoshka prefix has no view of its own: it gets its parent's.
    """
    whole = replace(space, dim=space.prefix_of, prefix_of=0) if space.prefix_of else space
    return ViewSpec(
        whole.view, ViewKind.EMBEDDING, (names.ITEM_ID,), schemas.ITEM_EMBEDDING, created="encoded_at", fenced=True, space=whole
    )


def item_features() -> ViewSpec:
    """Scalars of an item from the catalog."""
    return ViewSpec(
        names.ITEM_FEATURES, ViewKind.COLUMNS, (names.ITEM_ID,), schemas.ITEM_FEATURES, created="created", fenced=True
    )


def user_sequence(name: str = names.USER_SEQUENCE) -> ViewSpec:
    """A user's last behaviours; writes merge instead of replacing."""
    return ViewSpec(name, ViewKind.SEQUENCE, (names.USER_ID,), schemas.USER_SEQUENCE, created="created", fenced=False)


def simtier_view(spec: SimTierSpec, *, ttl: timedelta = timedelta(days=7)) -> ViewSpec:
    """Tiers computed ahead, correct as of `computed_at`."""
    return ViewSpec(
        spec.view,
        ViewKind.COLUMNS,
        (names.USER_ID, names.ITEM_ID),
        schemas.USER_ITEM_SIMTIER,
        created="created",
        fenced=False,
        ttl=ttl,
    )
