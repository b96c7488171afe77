"""What the console shows, read as a ranking service reads it, with the words and pictures that people need beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from moontide import names
from moontide.live import LiveSpaces, Service
from moontide.views import ViewSpec, embedding_view, user_sequence
from serving.client import RankingClient
from serving.http.console_catalog import Card, Catalog
from serving.similar import SCAN_FOREIGN

MOST_HITS: Final = 60
MOST_ROWS: Final = 200
MOST_CANDIDATES: Final = 60
#: Keys of a view that a search by prefix walks through.
_WALKED: Final = 100_000
_TITLE_CHARS: Final = 200


class Look:
    """Reads for people. Thread-safe where the client is.

    Args:
        client: what is asked, without leaving a trace in its log.
        live: its spaces and services.
        catalog: titles; None: items are shown by their ids.
    """

    def __init__(self, client: RankingClient, live: LiveSpaces, catalog: Catalog | None) -> None:
        self._client, self._live, self._catalog = client.unlogged(), live, catalog

    def items(self, text: str, most: int) -> list[dict[str, Any]]:
        """At most `most` cards; without a catalog, of items in the first space whose id begins with `text`."""
        if self._catalog is not None:
            return [_shown(card) for card in self._catalog.search(text, most)]
        if not text.strip() or not self._live.spaces:
            return []
        return [_shown(Card(item)) for item in self._walk(embedding_view(self._live.spaces[0].space), text.strip(), most)]

    def users(self, service: Service, text: str, most: int) -> list[str]:
        """At most `most` users with a sequence whose id begins with `text`."""
        return self._walk(user_sequence(service.simtier.sequence), text.strip(), most)

    def similar(self, item_id: str, k: int, service: Service, space: str | None) -> dict[str, Any]:
        """The item and its k nearest, with cosines."""
        found = self._client.similar(item_id, k=k, service=service.name, space_id=space)
        ids, said = found[names.ITEM_ID].to_pylist(), found.schema.metadata
        card = self._cards([item_id, *ids])
        hits = [{**card(item), "cosine": cosine} for item, cosine in zip(ids, found["cosine"].to_pylist(), strict=True)]
        return {"item": card(item_id), "space": said[b"space"].decode(), "source": said[b"source"].decode(), "hits": hits}

    def sequence(self, user_id: str, service: Service, most: int) -> dict[str, Any]:
        """The last `most` behaviours, newest first, and which of them the tiers count."""
        found = self._client.sequence(user_id, service=service.name, length=most)
        ids = found[names.ITEM_ID].to_pylist()
        card, times = self._cards(ids), pc.cast(found[names.EVENT_TIMESTAMP], pa.int64()).to_pylist()
        columns = (ids, found["action"].to_pylist(), times, found["embedding_present"].to_pylist())
        rows = [{**card(i), "action": a, "time": t, "present": p} for i, a, t, p in zip(*columns, strict=True)]
        return {"user_id": user_id, "counted": service.simtier.length, "behaviours": rows[::-1]}

    def tiers(self, user_id: str, item_ids: Sequence[str], service: Service) -> dict[str, Any]:
        """Counts per tier and the behaviours in none, for each candidate; the values of `RankingClient.features`."""
        found, spec = self._client.features(user_id, item_ids, service=service.name), service.simtier
        card, said = self._cards(item_ids), found.schema.metadata
        seen = self._client.sequence(user_id, service=service.name, length=spec.length)
        columns = (found["embedding_present"].to_pylist(), found["counts"].to_pylist(), found["missing"].to_pylist())
        rows = [
            {**card(item), "present": present, "counts": counts, "missing": missing}
            for item, present, counts, missing in zip(item_ids, *columns, strict=True)
        ]
        return {
            "user_id": user_id, "service": service.name, "space": service.space.id, "simtier": spec.spec_id, "tiers": spec.tiers,
            "length": spec.length, "self_match": spec.self_match, "behaviours": len(seen),
            "sequence_version": said[b"sequence_version"].decode(), "candidates": rows,
        }  # fmt: skip

    def _cards(self, item_ids: Iterable[str]) -> Callable[[str], dict[str, Any]]:
        cards = {} if self._catalog is None else self._catalog.cards(list(item_ids))
        return lambda item: _shown(cards.get(item, Card(item)))

    def _walk(self, view: ViewSpec, prefix: str, most: int) -> list[str]:
        if self._client.online.foreign_keys() > SCAN_FOREIGN:
            return []
        return list(islice((key for key in self._keys(view) if key.startswith(prefix)), most))

    def _keys(self, view: ViewSpec) -> Iterator[str]:
        keys = (str(key) for chunk in self._client.online.scan(view) for key in chunk)
        return islice(keys, _WALKED)


def _shown(card: Card) -> dict[str, Any]:
    """A card as JSON; its texts are as the catalog has them, cut, and never markup."""
    return {
        "item_id": card.item_id,
        "title": card.title[:_TITLE_CHARS],
        "category": card.category[:_TITLE_CHARS],
        "pictured": card.pictured,
    }
