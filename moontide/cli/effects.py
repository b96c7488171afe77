"""What the demo's events changed: the same things read before and after, through the stores a ranker reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from moontide.cli.gather import Catalog, Site
from moontide.cli.measure import Check
from moontide.cli.report import Card, Events, Neighbours
from moontide.embeddings import Embeddings
from moontide.neighbours import neighbours
from moontide.stores.base import Status
from moontide.views import embedding_view, simtier_view

_HITS: Final = 6
_SURE: Final = 0.999


@dataclass(frozen=True, slots=True)
class Subjects:
    """The events that are followed: a changed title, a new item, a delete, a customer and what that one was shown."""

    changed: str
    title: str
    created: str
    created_title: str
    deleted: str
    user: str
    shown: tuple[str, ...]

    @classmethod
    def read(cls, events: Path, catalog: Catalog) -> Subjects:
        """The first of each kind in a file of events."""
        rows = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
        known = catalog.rows
        changed = next(r for r in rows if r.get("op") == "update" and r["content"].get("title") != known[r["item_id"]]["title"])
        created = next(r for r in rows if r.get("op") == "create")
        user = next(r["user_id"] for r in rows if r.get("action") == "impression")
        shown = [r["item_id"] for r in rows if r.get("action") == "impression" and r["user_id"] == user]
        return cls(
            changed["item_id"],
            changed["content"]["title"],
            created["item_id"],
            created["content"]["title"],
            next(r["item_id"] for r in rows if r.get("op") == "delete"),
            user,
            tuple(dict.fromkeys(i for i in shown if i in known)),
        )


def before(site: Site, subjects: Subjects) -> dict[str, Any]:
    """Everything that is compared later, as JSON."""
    space = site.service.space
    vector = site.store.read_embeddings(space, [subjects.deleted])
    return {
        "neighbours": neighbours(site.store, site.index, space, subjects.changed, _HITS),
        "created": bool(site.store.read_embeddings(space, [subjects.created]).present[0]),
        "deleted": {"codes": vector.codes[0].tolist(), "first": _first(site, vector)},
        "tiers": _tiers(site, subjects),
    }


@dataclass(frozen=True, slots=True)
class Changed:
    """What the events did.

    Attributes:
        item, titles: the item with the new title, old and new.
        old, new: its neighbours (item, cosine).
        created: (item, title, its neighbours).
        deleted: (item, title).
        user, candidate: whose tiers moved most, against what.
        old_tiers, new_tiers: N counts.
        letters: dead letters.
        figures: verdicts and freshness of the run.
        checks: outcomes.
    """

    item: str
    titles: tuple[str, str]
    old: Sequence[tuple[str, float]]
    new: Sequence[tuple[str, float]]
    created: tuple[str, str, Sequence[tuple[str, float]]]
    deleted: tuple[str, str]
    user: str
    candidate: str
    old_tiers: Sequence[int]
    new_tiers: Sequence[int]
    letters: Sequence[Mapping[str, str]]
    figures: Mapping[str, Any]
    checks: Sequence[Check]


def after(site: Site, catalog: Catalog, subjects: Subjects, noted: Mapping[str, Any], figures: Mapping[str, Any]) -> Changed:
    """Read again what `before` read, and compare."""
    space = site.service.space
    old = [(item, score) for item, score in noted["neighbours"]]
    new = neighbours(site.store, site.index, space, subjects.changed, _HITS)
    made = site.store.read_embeddings(space, [subjects.created])
    tiers = _tiers(site, subjects)
    moves = {item: sum(abs(a - b) for a, b in zip(counts, noted["tiers"][item], strict=True)) for item, counts in tiers.items()}
    candidate = max(moves, key=lambda item: (moves[item], item))
    letters = figures["letters"]
    read_gone, search_gone = _gone(site, subjects.deleted, noted["deleted"]["codes"])
    stored = _stored(site, subjects.user, candidate)
    checks = [
        _check("a new title moved the neighbours", old != new, f"{len(dict(new).keys() - dict(old))} of {_HITS} are others"),
        _check("the new item is found by search", not noted["created"] and _first(site, made), "first hit for its own vector"),
        _check("the deleted item is gone from reads", read_gone, "a tombstone, no vector"),
        _check("the deleted item is gone from search", noted["deleted"]["first"] and search_gone, "was the first hit before"),
        _check("the broken record is a dead letter", len(letters) == 1, letters[0]["reason"] if letters else "none"),
        _check("purchases changed the customer's tiers", moves[candidate] > 0, f"{moves[candidate]} counts moved"),
        _check("the tiers stored ahead are current", stored == tiers[candidate], "equal to those computed on request"),
    ]
    return Changed(
        subjects.changed,
        (catalog.title(subjects.changed), subjects.title),
        old,
        new,
        (subjects.created, subjects.created_title, neighbours(site.store, site.index, space, subjects.created, _HITS)),
        (subjects.deleted, catalog.title(subjects.deleted)),
        subjects.user,
        candidate,
        noted["tiers"][candidate],
        tiers[candidate],
        letters,
        figures,
        checks,
    )


def rows(changed: Changed) -> list[tuple[str, str, str]]:
    """Rows of the table the demo ends with."""
    figures = changed.figures
    verdicts = ", ".join(f"{int(n)} {verdict}" for verdict, n in sorted(figures["verdicts"].items()) if n)
    found = [("events from Kafka", f"{figures['sent']:,}", verdicts)]
    for what, name in (
        ("readable", "item event to readable online"),
        ("searchable", "item event to searchable"),
        ("tiers", "behaviour to current tiers"),
    ):
        p50, p99 = figures[what]["p50"], figures[what]["p99"]
        if p50 is not None:
            found.append((f"{name}, p50", f"{p50 * 1e3:.0f} ms", f"p99 {p99 * 1e3:.0f} ms, from Kafka's timestamp"))
    return found


def headline(changed: Changed) -> list[tuple[str, str]]:
    """The figure of the run that is shown large."""
    p50 = changed.figures["readable"]["p50"]
    return [] if p50 is None else [(f"{p50 * 1e3:.0f} ms", "from Kafka to readable (p50)")]


def _tiers(site: Site, subjects: Subjects) -> dict[str, list[int]]:
    got = site.client.features(subjects.user, list(subjects.shown), service=site.service.name)
    return dict(zip(subjects.shown, got["counts"].to_pylist(), strict=True))


def _stored(site: Site, user: str, item: str) -> list[int] | None:
    got = site.store.read_columns(simtier_view(site.service.simtier), [(user, item)], ["counts"])["counts"].to_pylist()[0]
    return None if got is None else list(got)


def _gone(site: Site, item: str, codes: Sequence[int]) -> tuple[bool, bool]:
    """Whether reads, and a search with the vector it had, know nothing of an item any more."""
    space = site.service.space
    status = int(site.store.heads(embedding_view(space), [item]).status[0])
    present = bool(site.store.read_embeddings(space, [item]).present[0])
    vector = Embeddings.from_codes(space, np.array([codes], np.int8), np.ones(1, np.float32), ids=[item])
    return status == Status.DELETED and not present, item not in site.index.search(space, vector, _HITS).ids[0]


def _first(site: Site, vector: Embeddings) -> bool:
    """Whether an item is the first hit for its own vector."""
    if not vector.present[0]:
        return False
    found = site.index.search(site.service.space, vector, _HITS)
    return (vector.ids or ("",))[0] in found.ids[0] and float(found.scores[0, 0]) >= _SURE


def _check(name: str, passed: bool, words: str) -> Check:
    return Check(name, passed, words if passed else f"NO ({words})")


def shown(catalog: Catalog, changed: Changed) -> Events:
    """For the report."""
    item, (old_title, new_title) = changed.item, changed.titles
    created, created_title, near = changed.created
    cards = {created: Card(created, created_title)}

    def group(query: Card, hits: Sequence[tuple[str, float]]) -> Neighbours:
        return Neighbours(query, [(cards.get(i) or catalog.card(i), score) for i, score in hits])

    letter = changed.letters[0] if changed.letters else None
    where = (
        f"{letter['topic']}[{letter['partition']}]@{letter['offset']}: {letter['reason']}, {letter['detail']}" if letter else ""
    )
    facts = [
        ("a title changed", f"{old_title} → {new_title}"),
        ("a new item", f"{created}, {created_title}: found first by its own vector"),
        ("a delete", f"{changed.deleted[0]}, {changed.deleted[1]}: gone from reads and from search"),
        ("a broken record", where),
        *((name, f"{figure}  ({remark})") for name, figure, remark in rows(changed)),
    ]
    return Events(
        [
            ("The changed item before", group(Card(item, old_title), changed.old)),
            ("and after", group(Card(item, new_title), changed.new)),
            ("The new item", group(cards[created], near)),
        ],
        [("before the purchases", changed.old_tiers), ("after", changed.new_tiers)],
        f"Tiers of {changed.user} against {catalog.title(changed.candidate)}",
        facts,
    )
