"""The live spaces of a site: ``spaces.toml``, read by feature_repo, jobs, serving and the consumer.

.. code-block:: toml

    [[space]]
    name = "moon"
    version = 2
    dim = 256
    encoder_digest = "sha256:..."
    artifact = "artifacts/moon_v2"      # relative to this file

    [[simtier]]
    space = "moon_v2"
    tiers = 20
    length = 50
    self_match = "drop_same_id"

    [[service]]
    name = "ctr_v1"                     # a ranking model keeps the space it was trained on
    space = "moon_v2"
    simtier = "moon_v2_n20_l50_drop"
    item_fields = ["price", "category"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from moontide import views
from moontide.errors import Misconfigured
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace

T = TypeVar("T")

_TABLES: Final[dict[str, dict[str, type]]] = {
    "space": {"name": str, "version": int, "dim": int, "encoder_digest": str, "codec": str, "metric": str, "artifact": str},
    "simtier": {"space": str, "tiers": int, "length": int, "sequence": str, "self_match": str},
    "service": {"name": str, "space": str, "simtier": str, "item_fields": list},
}
_TOML: Final = {str: "string", int: "integer", list: "array"}


@dataclass(frozen=True, slots=True)
class LiveSpace:
    """A space and the folder of the artifact that encodes into it."""

    space: EmbeddingSpace
    artifact: Path | None


@dataclass(frozen=True, slots=True)
class Service:
    """A feature service: what one ranking model reads, pinned to the space it was trained on."""

    name: str
    space: EmbeddingSpace
    simtier: SimTierSpec
    item_fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveSpaces:
    """Contents of one ``spaces.toml``."""

    path: Path
    spaces: tuple[LiveSpace, ...]
    simtiers: tuple[SimTierSpec, ...]
    services: tuple[Service, ...]

    def space(self, space_id: str) -> EmbeddingSpace:
        """The live space of that id, or `Misconfigured`."""
        return self.live(space_id).space

    def live(self, space_id: str) -> LiveSpace:
        """The live space of that id with its artifact, or `Misconfigured`."""
        return _one(self.spaces, lambda s: s.space.id, space_id, f"{self.path}: space")

    def simtier(self, spec_id: str) -> SimTierSpec:
        """The SimTier spec of that id, or `Misconfigured`."""
        return _one(self.simtiers, lambda s: s.spec_id, spec_id, f"{self.path}: simtier")

    def service(self, name: str) -> Service:
        """The feature service of that name, or `Misconfigured`."""
        return _one(self.services, lambda s: s.name, name, f"{self.path}: service")

    def require_length(self, kept: int) -> None:
        """Check that sequences of the last `kept` behaviours are enough for every SimTier spec.

        Raises:
            Misconfigured: a spec wants more.
        """
        longer = [s.spec_id for s in self.simtiers if s.length > kept]
        if longer:
            raise Misconfigured(
                f"{self.path}: simtier: expected lengths up to the {kept} behaviours kept per user, got {longer}; "
                "shorten them, or raise MOONTIDE_SEQUENCE_LENGTH in every process (and load the sequences again)"
            )

    def views(self) -> list[views.ViewSpec]:
        """Every feature view of the site."""
        return [
            *(views.embedding_view(s.space) for s in self.spaces),
            views.item_features(),
            *(views.user_sequence(name) for name in sorted({s.sequence for s in self.simtiers} | {"user_sequence"})),
            *(views.simtier_view(s) for s in self.simtiers),
        ]


def load_spaces(path: Path) -> LiveSpaces:
    """Read ``spaces.toml``.

    Raises:
        Misconfigured: no readable file, not TOML, an unknown or missing key, a value of another type, a duplicate, or a reference
            to nothing.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(
            f"live spaces: expected a file at {path}, got none; copy feature_repo/spaces.toml there or set MOONTIDE_SPACES_FILE"
        ) from None
    except OSError as error:
        raise Misconfigured(f"live spaces: expected a readable file at {path}, got {type(error).__name__}; check it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: expected TOML, got: {error}") from error
    unknown = set(raw) - set(_TABLES)
    if unknown:
        raise Misconfigured(f"{path}: expected tables space, simtier, service, got also {sorted(unknown)}")
    spaces = tuple(_space(path, entry) for entry in _entries(path, raw, "space"))
    by_id = {s.space.id: s.space for s in spaces}
    simtiers = tuple(_simtier(path, entry, by_id) for entry in _entries(path, raw, "simtier"))
    specs = {s.spec_id: s for s in simtiers}
    services = tuple(_service(path, entry, by_id, specs) for entry in _entries(path, raw, "service"))
    for what, ids in (
        ("space", [s.space.id for s in spaces]),
        ("simtier", [s.spec_id for s in simtiers]),
        ("service", [s.name for s in services]),
    ):
        if len(ids) != len(set(ids)):
            raise Misconfigured(f"{path}: expected each {what} once, got {sorted(ids)}")
    return LiveSpaces(path, spaces, simtiers, services)


def _space(path: Path, entry: dict[str, Any]) -> LiveSpace:
    known = dict(entry)
    artifact = known.pop("artifact", None)
    try:
        space = EmbeddingSpace(**known)
    except (TypeError, ValueError) as error:
        raise Misconfigured(f"{path}: space: expected name, version, dim, got {sorted(entry)}: {error}") from error
    return LiveSpace(space, None if artifact is None else (path.parent / artifact).resolve())


def _simtier(path: Path, entry: dict[str, Any], spaces: dict[str, EmbeddingSpace]) -> SimTierSpec:
    known = dict(entry)
    space_id = known.pop("space", None)
    if space_id not in spaces:
        raise Misconfigured(f"{path}: simtier: expected a space among {sorted(spaces)}, got {space_id!r}")
    return SimTierSpec(space_id, **known)


def _service(path: Path, known: dict[str, Any], spaces: dict[str, EmbeddingSpace], specs: dict[str, SimTierSpec]) -> Service:
    missing = {"name", "space", "simtier"} - set(known)
    if missing:
        raise Misconfigured(f"{path}: service: expected name, space and simtier, got no {sorted(missing)}")
    if known["space"] not in spaces or known["simtier"] not in specs:
        raise Misconfigured(
            f"{path}: service {known['name']}: expected a space among {sorted(spaces)} and a simtier among {sorted(specs)}, "
            f"got {known['space']!r} and {known['simtier']!r}"
        )
    spec = specs[known["simtier"]]
    if spec.space_id != known["space"]:
        raise Misconfigured(f"{path}: service {known['name']}: expected tiers of {known['space']}, got {spec.spec_id}")
    fields = tuple(known.get("item_fields", ()))
    if not all(isinstance(f, str) for f in fields):
        raise Misconfigured(f"{path}: service {known['name']}: expected item_fields to be strings, got {list(fields)}")
    views.item_features().require_fields(list(fields))
    return Service(known["name"], spaces[known["space"]], spec, fields)


def _entries(path: Path, raw: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """The tables ``[[what]]``, their keys known and their values of the right types."""
    entries, allowed = raw.get(what, []), _TABLES[what]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Misconfigured(f"{path}: {what}: expected tables [[{what}]], got {entries!r}")
    for entry in entries:
        unknown = set(entry) - set(allowed)
        if unknown:
            raise Misconfigured(f"{path}: {what}: expected keys {sorted(allowed)}, got {sorted(unknown)}")
        for key, value in entry.items():
            if type(value) is not allowed[key]:
                raise Misconfigured(f"{path}: {what}: {key}: expected a TOML {_TOML[allowed[key]]}, got {value!r}")
    return entries


def _one(values: tuple[T, ...], key: Callable[[T], str], wanted: str, what: str) -> T:
    found = [v for v in values if key(v) == wanted]
    if not found:
        raise Misconfigured(f"{what}: expected one of {sorted(key(v) for v in values)}, got {wanted!r}")
    return found[0]
