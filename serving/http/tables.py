"""The in-process vector tables as a worker uses them: opened, asked whether they are loaded, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from moontide.errors import MoontideError
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore
from moontide.stores.kv import wall_clock
from serving.http.metrics import Metrics
from serving.http.readiness import Check, Loading
from serving.reading import StoreVectors
from serving.table import VectorTables
from serving.table_process import tables_folder

#: A table whose writer has not been seen for so many refreshes is not read: the store has newer values.
_REFRESHES: Final = 3
_LEAST_AGE: Final = 30.0
_SHARED: Final = ("rows", "capacity", "refused", "lag", "loaded")
_PLACES: Final = ("table", "store", "torn")


def open_tables(settings: Settings, store: OnlineStore) -> VectorTables:
    """The site's tables, with `store` behind them: for items that are in none, and for a table that nobody keeps fresh."""
    most = max(_LEAST_AGE, _REFRESHES * settings.serving_table_refresh_seconds)
    return VectorTables(tables_folder(settings), StoreVectors(store), max_age_seconds=most)


def table_checks(tables: VectorTables, spaces: Sequence[EmbeddingSpace]) -> dict[str, Check]:
    """One check a space: its table was loaded once. Later the store stands in for a table that is not."""
    done: set[str] = set()

    def loaded(space: EmbeddingSpace) -> None:
        if space.id in done:
            return
        states = tables.states([space])
        if not states or not states[0].loaded:
            raise Loading(f"table {space.id}: expected it loaded, got {states[0].rows if states else 0} rows so far")
        done.add(space.id)

    return {f"table {space.id}": lambda space=space: loaded(space) for space in spaces}  # type: ignore[misc]


class TableMetrics:
    """Puts what `tables` say of themselves into `metrics`, whenever `__call__` is.

    Args:
        metrics: of the worker.
        tables: what it reads.
        spaces: that have a table.
    """

    def __init__(self, metrics: Metrics, tables: VectorTables, spaces: Sequence[EmbeddingSpace]) -> None:
        self._tables, self._spaces = tables, tuple(spaces)
        self._shared = {
            name: metrics.shared(f"moontide_serving_table_{name}", f"Table of a space: {name}", "space") for name in _SHARED
        }
        self._age = metrics.shared(
            "moontide_serving_table_staleness_seconds", "Since the writer last knew what it had to read", "space"
        )
        self._reads = metrics.counter("moontide_serving_vector_reads", "Vectors by where they were read", "space", "source")
        self._counted: dict[tuple[str, str], int] = {}

    def __call__(self) -> None:
        """Look once."""
        try:
            states = self._tables.states(self._spaces)
        except MoontideError:
            # `/readyz` and the console say what is wrong; an answer that is good stays so.
            states = []
        for state in states:
            for name, gauge in self._shared.items():
                gauge.labels(state.space).set(float(getattr(state, name)))
            self._age.labels(state.space).set(state.staleness(wall_clock()))
        for space, reads in list(self._tables.reads.items()):
            for place in _PLACES:
                now, key = getattr(reads, place), (space, place)
                self._reads.labels(space, place).inc(now - self._counted.get(key, 0))
                self._counted[key] = now
