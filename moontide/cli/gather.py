"""What the demo's report shows, read from the stores as a user of the platform would read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from moontide.cli.report import Candidate, Card, Neighbours
from moontide.live import LiveSpaces, Service, load_spaces
from moontide.neighbours import neighbours
from moontide.settings import Settings, load_settings
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.views import user_sequence
from serving import RankingClient

_HITS: Final = 6
_QUERIES: Final = (
    ("By image and text", ("lu:MH07-Green", "lu:WS06-Red")),
    ("By image alone", ("cl:#Dress", "cl:#Shoes")),
    ("By text alone", ("or:85123A", "or:22423")),
)


@dataclass(frozen=True, slots=True)
class Site:
    """Everything of one site that the report reads."""

    repo: Path
    settings: Settings
    live: LiveSpaces
    service: Service
    store: OnlineStore
    index: VectorIndex
    client: RankingClient

    @classmethod
    @contextmanager
    def open(cls, repo: Path, service: str) -> Iterator[Site]:
        """Open the stores that the environment names, for the feature repository at `repo`."""
        from moontide.stores import online_store, vector_index

        settings = load_settings()
        live = load_spaces(settings.spaces_path)
        with RankingClient.from_repo(repo) as client:
            store, index = online_store(settings), vector_index(settings)
            try:
                yield cls(repo, settings, live, live.service(service), store, index, client)
            finally:
                index.close()
                store.close()


@dataclass(frozen=True, slots=True)
class Catalog:
    """The example catalog, for people: item id -> row, and where its photos are."""

    folder: Path
    rows: dict[str, dict[str, str | None]]

    @classmethod
    def read(cls, folder: Path) -> Catalog:
        """Read ``catalog.parquet`` of `folder`."""
        table = pq.read_table(folder / "catalog.parquet", columns=["item_id", "title", "description", "image", "category"])
        return cls(folder, {row["item_id"]: row for row in table.to_pylist()})

    def title(self, item_id: str) -> str:
        """Its title, else its category."""
        row = self.rows.get(item_id, {})
        text = row.get("title") or row.get("category") or item_id
        return text.capitalize() if text.isupper() else text

    def card(self, item_id: str) -> Card:
        """Title, category and photo."""
        row = self.rows.get(item_id, {})
        image = row.get("image")
        photo = (self.folder / image).read_bytes() if image else None
        return Card(item_id, self.title(item_id), row.get("category") or "", photo)

    def resolve(self, name: str) -> str:
        """`name`, or for ``cl:#Dress`` the first item of that kind with that category."""
        prefix, found, category = name.partition("#")
        if not found:
            return name
        return next(i for i, row in self.rows.items() if i.startswith(prefix) and row["category"] == category)


def modality(row: dict[str, str | None]) -> str:
    """Which content an item has."""
    image, text = bool(row["image"]), bool(row["title"] or row["description"])
    return {(True, True): "image and text", (True, False): "image only", (False, True): "text only"}.get((image, text), "none")


def similar(site: Site, catalog: Catalog) -> list[tuple[str, list[Neighbours]]]:
    """Neighbours of a few items of each modality, from the index."""
    return [(title, [_neighbours(site, catalog, catalog.resolve(name)) for name in queries]) for title, queries in _QUERIES]


def _neighbours(site: Site, catalog: Catalog, item_id: str) -> Neighbours:
    hits = neighbours(site.store, site.index, site.service.space, item_id, _HITS)
    return Neighbours(catalog.card(item_id), [(catalog.card(found), score) for found, score in hits])


def seen(site: Site, user_id: str) -> list[tuple[int, str]]:
    """(time in microseconds, item) of the behaviours that count, newest first."""
    spec = site.service.simtier
    sequence = site.store.read_sequences(user_sequence(spec.sequence), [user_id])[0]
    return [(b.time, b.item_id) for b in reversed(sequence.behaviours[-spec.length :])]


def history(site: Site, catalog: Catalog, user_id: str) -> list[tuple[str, str]]:
    """(day, title) of the behaviours that count, newest first."""
    return [(datetime.fromtimestamp(t / 1e6, UTC).date().isoformat(), catalog.title(item)) for t, item in seen(site, user_id)]


def candidates(site: Site, catalog: Catalog, user_id: str) -> list[Candidate]:
    """Five candidates from like to unlike, with the tiers a ranking request would get."""
    items = [item for _, item in seen(site, user_id)]
    picked = _picked(site, catalog, items)
    rows = site.client.features(user_id, [item for item, _ in picked], service=site.service.name).to_pylist()
    return [
        Candidate(catalog.card(item), why, row["counts"], row["missing"]) for (item, why), row in zip(picked, rows, strict=True)
    ]


def _picked(site: Site, catalog: Catalog, history_items: Sequence[str]) -> list[tuple[str, str]]:
    known, picked = set(history_items), []
    for item in dict.fromkeys(history_items):
        near = [i for i, _ in neighbours(site.store, site.index, site.service.space, item, _HITS) if i not in known]
        if near:
            picked.append((near[0], f"nearest to what was bought: {catalog.title(item)}"))
            known.add(near[0])
        if len(picked) == 2:
            break
    others = {
        "or:84879": "sold often, to everybody",
        "or:22960": "sold often, to everybody",
        "lu:MH07-Green": "sports wear, image and text",
        catalog.resolve("cl:#Shoes"): "shoes, image only",
    }
    picked += [(item, why) for item, why in others.items() if item not in known]
    return picked[:5]


def identity(site: Site) -> list[tuple[str, str]]:
    """What decides whether two vectors may be compared, and how good the encoder was found to be."""
    space, live = site.service.space, site.live.live(site.service.space.stored_id)
    pairs = [
        ("space", space.id),
        ("dimensions, codec, metric", f"{space.dim}, {space.codec.value}, {space.metric.value}"),
        ("encoder digest", space.encoder_digest),
        ("Feast view", space.view),
        ("Milvus collection, alias", f"{space.collection}, {space.alias}"),
        ("SimTier spec", site.service.simtier.spec_id),
        ("feature service", site.service.name),
    ]
    if live.artifact is not None:
        pairs += _metrics(live.artifact / "manifest.json")
    return pairs


def _metrics(manifest: Path) -> list[tuple[str, str]]:
    measured = json.loads(manifest.read_text(encoding="utf-8")).get("metrics", {}).get("test", {})
    trained, untrained = measured.get("trained", {}), measured.get("untrained", {})
    return [
        (f"held out: {_words(task)}, {_words(name)}", f"{value:.3f}  (untrained copy {untrained[task][name]:.3f})")
        for task, values in trained.items()
        for name, value in values.items()
        if name.endswith("_at_10") and name in untrained.get(task, {})
    ]


def _words(name: str) -> str:
    return name.replace("_at_10", "@10").replace("/", ": ").replace("_", " ")
