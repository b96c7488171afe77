"""What every system of the serving benchmark holds: items, users, requests, and the answers worked out without any of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.embeddings import concat
from moontide.live import LiveSpaces, load_spaces
from moontide.records import embedding_rows
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.simtier import SimTierSpec
from moontide.stores.base import OnlineStore
from moontide.views import ViewKind, ViewSpec, embedding_view, item_features, user_sequence

DIM, TIERS, SCALARS = 128, 20, 30
SPACE = EmbeddingSpace("bench", 1, DIM)
SERVICE = "bench_v1"
#: The same without item fields.
TIERS_ONLY = "tiers_v1"
START = 1_700_000_000_000_000
NAMES = tuple(f"s{n:02}" for n in range(SCALARS))
#: Share of the candidates that no system knows.
UNKNOWN = 0.01
_CHUNK = 20_000


@dataclass(frozen=True)
class Request:
    """One user and the ids of C candidates; `rows` are their items, -1 for an unknown one."""

    user: str
    ids: list[str]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """How much there is of everything."""

    items: int = 20_000
    users: int = 16
    requests: int = 64
    candidates: int = 500
    length: int = 1_000

    @property
    def spec(self) -> SimTierSpec:
        """Twenty tiers over `length` behaviours."""
        return SimTierSpec(SPACE.id, TIERS, self.length)


@dataclass(frozen=True)
class World:
    """Vectors in 50 clusters; candidates and behaviours drawn by Zipf's law with exponent 1."""

    size: Size
    vectors: Embeddings
    scalars: NDArray[np.float32]
    histories: dict[str, NDArray[np.int64]]
    requests: list[Request]
    _turn: Iterator[Request] = field(init=False, repr=False)
    _known: dict[int, NDArray[np.int32]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_turn", itertools.cycle(self.requests))

    @classmethod
    def make(cls, size: Size, *, seed: int = 0) -> World:
        """Everything drawn from `seed`."""
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((50, DIM), np.float32)
        parts = []
        for begin in range(0, size.items, _CHUNK):
            ids = [item_id(n) for n in range(begin, min(begin + _CHUNK, size.items))]
            values = centres[rng.integers(0, 50, len(ids))] + rng.standard_normal((len(ids), DIM), np.float32)
            parts.append(Embeddings.from_float(SPACE, values, ids=ids))
        scalars = rng.random((size.items, SCALARS), np.float32)
        weights = 1.0 / np.arange(1, size.items + 1)
        place = rng.permutation(size.items)
        chances = weights / weights.sum()
        histories = {f"user:{n}": place[rng.choice(size.items, size.length, p=chances)] for n in range(size.users)}
        users = itertools.cycle(histories)
        requests = []
        for _ in range(size.requests):
            rows = place[rng.choice(size.items, size.candidates, replace=False, p=chances)]
            rows[rng.random(len(rows)) < UNKNOWN] = -1
            ids = [item_id(n) if n >= 0 else f"unknown:{at}" for at, n in enumerate(rows.tolist())]
            requests.append(Request(next(users), ids, rows))
        return cls(size, concat(parts), scalars, histories, requests)

    def next(self) -> Request:
        """The requests in turns. Drawn before the clock starts: a ranker has its ids."""
        return next(self._turn)

    def history_ids(self, user: str) -> list[str]:
        """Items of a user's behaviours, oldest first."""
        return [item_id(n) for n in self.histories[user].tolist()]

    def tiers(self, request: Request) -> NDArray[np.int32]:
        """(C, N) counts, worked out once; shares no code with the library."""
        if id(request) not in self._known:
            self._known[id(request)] = self._counted(request)
        return self._known[id(request)].copy()

    def _counted(self, request: Request) -> NDArray[np.int32]:
        """Products of integers, exact in float64, one float32 formula, self matches dropped."""
        history = self.histories[request.user]
        left, right = (self.vectors.codes[n].astype(np.float64) for n in (request.rows, history))
        norms = [(1.0 / np.sqrt((side * side).sum(axis=1))).astype(np.float32) for side in (left, right)]
        cosines = (left @ right.T).astype(np.float32) * norms[0][:, None] * norms[1]
        tier = np.clip(np.ceil(cosines * np.float32(TIERS // 2)).astype(np.int64) + TIERS // 2 - 1, 0, TIERS - 1)
        counted = (request.rows[:, None] >= 0) & (request.rows[:, None] != history)
        return np.stack([np.bincount(t[k], minlength=TIERS) for t, k in zip(tier, counted, strict=True)]).astype(np.int32)

    def floats(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(C, D) vectors, zero where unknown."""
        values = self.vectors.codes[rows].astype(np.float32) * self.vectors.scale[rows][:, None]
        values[rows < 0] = 0.0
        return values

    def matrix(self, request: Request) -> NDArray[np.float32]:
        """(C, 30 + D) scalars and vector, zero where unknown."""
        scalars = np.where(request.rows[:, None] >= 0, self.scalars[request.rows], np.float32(0))
        return np.concatenate([scalars, self.floats(request.rows)], axis=1)

    def features(self, rows: NDArray[np.int64]) -> dict[str, list[float] | list[str]]:
        """Item fields of the service; of no meaning where unknown."""
        prices = self.scalars[rows, 0].tolist()
        return {"price": prices, "category": [category(p) for p in prices]}

    def live(self, folder: Path) -> LiveSpaces:
        """The site's ``spaces.toml``, written to `folder`."""
        path = folder / "spaces.toml"
        path.write_text(spaces_toml(self.size.spec))
        return load_spaces(path)

    def fill(self, store: OnlineStore) -> None:
        """Every item and user through the store's own writes."""
        for begin in range(0, self.size.items, _CHUNK):
            some = slice(begin, begin + _CHUNK)
            vectors = self.vectors.take(some)
            rows = embedding_rows(vectors, source_version=1, event_timestamp=START, encoded_at=START, content_known_at=START)
            store.write_rows(embedding_view(SPACE), rows)
            ids = list(vectors.ids or ())
            store.write_rows(SCALAR_VIEW, scalar_rows(ids, self.scalars[some]))
            store.write_rows(item_features(), feature_rows(ids, self.scalars[some, 0]))
        store.write_rows(user_sequence(), pa.concat_tables([sequence_row(u, self.history_ids(u)) for u in self.histories]))


def item_id(number: int) -> str:
    """Of an item."""
    return f"item:{number}"


def category(price: float) -> str:
    """Follows from the price, so that an answer can be checked."""
    return f"c{int(price * 7)}"


def spaces_toml(spec: SimTierSpec) -> str:
    """One space, one spec, a service with two item fields and one without."""
    return (
        f'[[space]]\nname = "{SPACE.name}"\nversion = {SPACE.version}\ndim = {SPACE.dim}\n'
        f'[[simtier]]\nspace = "{spec.space_id}"\ntiers = {spec.tiers}\nlength = {spec.length}\n'
        f'[[service]]\nname = "{SERVICE}"\nspace = "{spec.space_id}"\nsimtier = "{spec.spec_id}"\n'
        'item_fields = ["price", "category"]\n'
        f'[[service]]\nname = "{TIERS_ONLY}"\nspace = "{spec.space_id}"\nsimtier = "{spec.spec_id}"\n'
    )


SCALAR_VIEW = ViewSpec(
    "item_scalars",
    ViewKind.COLUMNS,
    ("item_id",),
    pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("event_timestamp", schemas.TIMESTAMP, nullable=False),
            pa.field("created", schemas.TIMESTAMP, nullable=False),
            *(pa.field(name, pa.float32()) for name in NAMES),
        ]
    ),
    created="created",
    fenced=False,
)


def scalar_rows(ids: list[str], values: NDArray[np.float32]) -> pa.Table:
    """Rows of the view of 30 floats."""
    stamp = _stamps(len(ids))
    columns = {"item_id": pa.array(ids), "event_timestamp": stamp, "created": stamp}
    columns |= {name: pa.array(np.ascontiguousarray(values[:, n])) for n, name in enumerate(NAMES)}
    return pa.table(columns, schema=SCALAR_VIEW.table)


def feature_rows(ids: list[str], prices: NDArray[np.float32]) -> pa.Table:
    """Rows of `item_features`."""
    stamp, yes = _stamps(len(ids)), pa.array(np.ones(len(ids), bool))
    columns = {
        "item_id": pa.array(ids), "source_version": pa.array(np.ones(len(ids), np.int64)), "event_timestamp": stamp,
        "created": stamp, "deleted": pa.array(np.zeros(len(ids), bool)), "price": pa.array(np.ascontiguousarray(prices)),
        "category": pa.array([category(p) for p in prices.tolist()]), "has_image": yes, "has_text": yes,
    }  # fmt: skip
    return pa.table(columns, schema=schemas.ITEM_FEATURES)


def sequence_row(user: str, items: list[str]) -> pa.Table:
    """A user's behaviours, one a second, in the order given."""
    rows = [Behaviour(START + n * 1_000_000, item, "click") for n, item in enumerate(items)]
    found = BehaviourSequence(tuple(rows))
    stamp = pa.array([found.last_time], pa.int64()).cast(schemas.TIMESTAMP)
    columns = {
        "user_id": [user], "event_timestamp": stamp, "created": stamp, "item_ids": [items],
        "actions": [["click"] * len(items)], "times": [[b.time for b in rows]], "sequence_version": [found.version],
    }  # fmt: skip
    return pa.table(columns, schema=schemas.USER_SEQUENCE)


def _stamps(count: int) -> pa.Array:
    return pa.array(np.full(count, START, np.int64)).cast(schemas.TIMESTAMP)
