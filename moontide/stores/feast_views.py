"""What a Feast feature view is to the store: a view of moontide, or a foreign one that gets a view of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from moontide import names, schemas, views
from moontide.errors import Misconfigured, Poison, SpaceMismatch
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores.base import EntityId
from moontide.stores.feast_foreign import FeastRow, ForeignView
from moontide.stores.feast_values import Codec, ValueProto, codec_of, micros
from moontide.views import ViewSpec

#: Names only views of moontide may have.
OWN_PREFIXES: Final = (names.EMBEDDING_VIEW_PREFIX, names.SIMTIER_VIEW_PREFIX)
_NULL: Final = ValueProto()


class BoundView(Protocol):
    """A Feast feature view bound to the store's view of the same data."""

    @property
    def spec(self) -> ViewSpec:
        """The store's view."""

    def ids(self, entity_keys: Sequence[Any]) -> list[EntityId | None]:
        """The store's id of each Feast entity key; None where it cannot be one of this view's ids."""

    def rows(self, data: Sequence[FeastRow]) -> pa.Table:
        """A Feast write as rows of ``spec.table``."""

    def fields(self, features: Sequence[str]) -> list[str]:
        """The columns that hold the features."""

    def values(self, found: pa.Table, features: Sequence[str]) -> list[list[Any]]:
        """Feast `Value` messages, one list per feature, of rows read with `fields`."""


@dataclass(frozen=True, slots=True)
class OwnView:
    """A view of moontide: one column per feature.

    Attributes:
        spec: the view.
        codecs: how each feature travels.
    """

    spec: ViewSpec
    codecs: Mapping[str, Codec]

    def ids(self, entity_keys: Sequence[Any]) -> list[EntityId | None]:
        """See `BoundView.ids`.

        Raises:
            Misconfigured: a key lacks one of the view's entities.
        """
        places: dict[tuple[str, ...], list[int]] = {}
        found: list[EntityId | None] = []
        for key in entity_keys:
            known = tuple(key.join_keys)
            at = places.get(known)
            if at is None:
                at = places[known] = self._places(known)
            values = key.entity_values
            parts = tuple([values[n].string_val for n in at])
            found.append((parts[0] if len(parts) == 1 else parts) if all(map(names.is_id, parts)) else None)
        return found

    def rows(self, data: Sequence[FeastRow]) -> pa.Table:
        """See `BoundView.rows`.

        Raises:
            Poison: an invalid id, a value of another type, or a null where the view allows none (a tombstone may leave its
                values out).
            SpaceMismatch: vectors of another width.
        """
        spec, columns = self.spec, self._keys([row[0] for row in data])
        columns[names.EVENT_TIMESTAMP] = micros(row[2] for row in data)
        columns[spec.created] = micros(row[3] for row in data)
        for name, codec in self.codecs.items():
            columns[name] = codec.pack([row[1].get(name, _NULL) for row in data], where=f"{spec.name}.{name}")
        if spec.fenced:
            self._fill_tombstones(columns)
        if spec.space is not None:
            columns["content_known_at"] = columns[names.EVENT_TIMESTAMP]
            columns["space"] = pa.array([spec.space.stored_id] * len(data), pa.string())
        self._check(columns)
        return pa.table([columns[f.name] for f in spec.table], schema=spec.table)

    def fields(self, features: Sequence[str]) -> list[str]:
        """See `BoundView.fields`."""
        return list(features)

    def values(self, found: pa.Table, features: Sequence[str]) -> list[list[Any]]:
        """See `BoundView.values`."""
        return [self.codecs[f].unpack(found.column(f).combine_chunks()) for f in features]

    def _places(self, known: tuple[str, ...]) -> list[int]:
        missing = [e for e in self.spec.entities if e not in known]
        if missing:
            raise Misconfigured(f"{self.spec.name}: expected join keys {list(self.spec.entities)}, got {sorted(known)}")
        return [known.index(e) for e in self.spec.entities]

    def _keys(self, entity_keys: Sequence[Any]) -> dict[str, pa.Array]:
        found = self.ids(entity_keys)
        if None in found:
            wrong = str(entity_keys[found.index(None)]).replace("\n", " ")[:160]
            raise Poison(f"{self.spec.name}: expected string keys of 1 to 64 characters of [A-Za-z0-9._:-], got {wrong}")
        keys = [k if isinstance(k, tuple) else (k,) for k in found]
        return {entity: pa.array([key[n] for key in keys], pa.string()) for n, entity in enumerate(self.spec.entities)}

    def _fill_tombstones(self, columns: dict[str, pa.Array]) -> None:
        dim = self.spec.space.dim if self.spec.space else 0
        blank = {pa.string(): "", pa.binary(): bytes(dim), pa.float32(): 0.0, schemas.FLOATS: [0.0] * dim}
        dead = columns[names.DELETED].fill_null(False).to_pylist()
        for column in self.spec.table:
            if not column.nullable and column.type in blank and column.name in columns and columns[column.name].null_count:
                stand_in, values = blank[column.type], columns[column.name].to_pylist()
                filled = [stand_in if gone and v is None else v for gone, v in zip(dead, values, strict=True)]
                columns[column.name] = pa.array(filled, column.type)

    def _check(self, columns: dict[str, pa.Array]) -> None:
        for column in self.spec.table:
            missing = 0 if column.nullable else columns[column.name].null_count
            if missing:
                raise Poison(
                    f"{self.spec.name}.{column.name}: expected a value in every row, got {missing} null; "
                    "fill them at the source (nothing was written)"
                )
        if self.spec.space is not None:
            dim = self.spec.space.dim
            widths = set(pc.unique(pc.binary_length(columns["codes"])).to_pylist()) - {dim}
            if widths:
                raise SpaceMismatch(f"{self.spec.name}: expected {dim} codes a row, got {sorted(widths)}; re-encode")


@dataclass(slots=True)
class ViewBinder:
    """Finds the store's view of a Feast feature view; reads a changed ``spaces.toml`` again for a name it does not know yet.

    Attributes:
        settings: says which project is moontide's, and where its spaces are declared.
        repo: the Feast repository, whose own ``spaces.toml`` counts where the site has none.
    """

    settings: Settings
    repo: Path | None
    _known: dict[str, OwnView] = field(default_factory=dict, init=False)
    _state: tuple[Path, tuple[int, int, int] | None] | None = field(default=None, init=False)

    def bind(self, project: str, table: Any) -> BoundView:
        """The view of `table` (a Feast feature view of any kind) in a Feast project.

        Raises:
            Misconfigured: a name of moontide's that is not declared, or that Feast knows with other features.
        """
        ttl = getattr(table, "ttl", None) or None
        own = self.own(project, table.name)
        if own is None and table.name.startswith(OWN_PREFIXES):
            raise Misconfigured(
                f"feature view {table.name} of project {project}: expected a view of project {self.settings.project} that "
                f"{spaces_file(self.settings, self.repo)} declares; declare its space there, or set MOONTIDE_PROJECT"
            )
        if own is None:
            return ForeignView.of(project, table.name, ttl)
        _require_same_features(own, table)
        return own if own.spec.ttl == ttl else replace(own, spec=replace(own.spec, ttl=ttl))

    def own(self, project: str, name: str) -> OwnView | None:
        """The moontide view of that name, or None."""
        if project != self.settings.project:
            return None
        if name not in self._known:
            self._read()
        return self._known.get(name)

    def _read(self) -> None:
        path = spaces_file(self.settings, self.repo)
        found = path.stat() if path.exists() else None
        state = (path, found and (found.st_mtime_ns, found.st_size, found.st_ino))
        if state == self._state:
            return
        declared: list[ViewSpec] = []
        if found is not None:
            live = load_spaces(path)
            live.require_length(self.settings.sequence_length)
            declared = live.views()
        self._known = {v.name: _own(v) for v in (views.item_features(), views.user_sequence(), *declared)}
        self._state = state


def spaces_file(settings: Settings, repo: Path | None) -> Path:
    """The site's ``spaces.toml``; where it has none, the one beside the Feast definitions in `repo`."""
    if settings.spaces_file is None and repo is not None and not settings.spaces_path.exists():
        return repo / "spaces.toml"
    return settings.spaces_path


def _own(spec: ViewSpec) -> OwnView:
    return OwnView(spec, {f.name: codec_of(f.type) for f in spec.fields})


def _require_same_features(own: OwnView, table: Any) -> None:
    got = {f.name: f.dtype for f in table.features}
    different = sorted(n for n in own.codecs.keys() | got.keys() if n not in own.codecs or own.codecs[n].feast != got.get(n))
    if different:
        raise Misconfigured(
            f"feature view {table.name}: expected the features of moontide.views, got others or none for {different}; "
            "run `feast apply` on the feature repo of this version"
        )
