"""Feast views that are not moontide's: those of other projects, and those of this one that ``spaces.toml`` does not declare."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from moontide import names, schemas
from moontide.stores.base import EntityId
from moontide.stores.feast_values import ValueProto, micros
from moontide.views import ViewKind, ViewSpec

_KEY_VERSION: Final = 3
_DUMMY: Final = EntityKey(join_keys=[DUMMY_ENTITY_ID], entity_values=[ValueProto(string_val=DUMMY_ENTITY_VAL)])
_FOREIGN: Final = pa.schema(
    [
        pa.field("entity_key", pa.string(), nullable=False),
        pa.field(names.EVENT_TIMESTAMP, schemas.TIMESTAMP, nullable=False),
        pa.field("created", schemas.TIMESTAMP, nullable=False),
        pa.field("features", schemas.STRINGS, nullable=False),
        pa.field("values", pa.list_(pa.binary()), nullable=False),
    ]
)

#: Feast's write: entity key, values by feature, event time, created time.
FeastRow = tuple[Any, Mapping[str, Any], datetime, datetime | None]


@dataclass(frozen=True, slots=True)
class ForeignView:
    """Any other Feast view. Its values stay Feast's own messages, by name: every Feast type comes back unchanged, and a feature
    added or dropped later leaves what is stored readable. An entity is named by the SHA-256 of Feast's serialised key.
    """

    spec: ViewSpec

    @classmethod
    def of(cls, project: str, name: str, ttl: timedelta | None) -> ForeignView:
        """The view `name` of a Feast project."""
        full = f"feast:{project}:{name}"
        # Feast itself takes any event time.
        return cls(
            ViewSpec(
                full, ViewKind.COLUMNS, ("entity_key",), _FOREIGN, created="created", fenced=False, ttl=ttl, max_ahead_us=None
            )
        )

    def ids(self, entity_keys: Sequence[Any]) -> list[EntityId | None]:
        """See `BoundView.ids`; every key has an id."""
        # Feast writes a view without entities under an empty key and reads it under a dummy one.
        keys = (key if key.join_keys else _DUMMY for key in entity_keys)
        return [hashlib.sha256(serialize_entity_key(key, _KEY_VERSION)).hexdigest() for key in keys]

    def rows(self, data: Sequence[FeastRow]) -> pa.Table:
        """See `BoundView.rows`."""
        columns = [
            pa.array(self.ids([row[0] for row in data]), pa.string()),
            micros(row[2] for row in data),
            micros(row[3] for row in data),
            pa.array([list(row[1]) for row in data], schemas.STRINGS),
            pa.array([[v.SerializeToString() for v in row[1].values()] for row in data], pa.list_(pa.binary())),
        ]
        return pa.table(columns, schema=_FOREIGN)

    def fields(self, features: Sequence[str]) -> list[str]:
        """See `BoundView.fields`."""
        return ["features", "values"]

    def values(self, found: pa.Table, features: Sequence[str]) -> list[list[Any]]:
        """See `BoundView.values`; a feature that was not written is null."""
        stored = zip(found.column("features").to_pylist(), found.column("values").to_pylist(), strict=True)
        rows = [dict(zip(known or (), packed or (), strict=True)) for known, packed in stored]
        return [[ValueProto.FromString(row.get(f, b"")) for row in rows] for f in features]
