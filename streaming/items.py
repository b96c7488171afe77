"""Item events in, rows and verdicts out: parse, drop what is stale, skip what is unchanged, encode the rest in micro-batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders import ImageLoader, Item, Unencodable
from moontide.embeddings import Embeddings
from moontide.events import BadEvent, ItemEvent, parse_item
from moontide.settings import Settings
from moontide.standing import Step
from moontide.stores.base import OnlineStore
from moontide.stores.kv import Clock
from moontide.views import embedding_view, item_features
from streaming.encoding import Encoded, Refused, StreamEncoder
from streaming.item_content import Loaded, content_hashes, load
from streaming.item_heads import FeatureHeads, Heads, SpaceHeads
from streaming.item_plan import Events, Wave, plan, settle
from streaming.item_rows import Fresh, Written, write
from streaming.message import Effects, Message, Point, Result, Trace, Verdict, no_trace

#: What an encoder made of some items, and its seconds.
Timed = tuple[Encoded, float]
#: Bytes of images held at once, whatever the size of a batch.
HELD_BYTES: Final = 256 << 20


class ItemHandler:
    """What item events change. Reads the store, writes nothing.

    Args:
        store: where heads are read.
        encoders: one per live space.
        loader: reads images and referenced content.
        settings: micro-batch and event sizes.
        clock: microseconds UTC.

    Attributes:
        on_encoded: called after each call of an encoder with its items and seconds.
    """

    def __init__(
        self, store: OnlineStore, encoders: Sequence[StreamEncoder], loader: ImageLoader, settings: Settings, clock: Clock
    ) -> None:
        self.store = store
        self.encoders = tuple(encoders)
        self.loader = loader
        self.settings = settings
        self.clock = clock
        self.on_encoded: Callable[[int, float], None] = lambda items, seconds: None
        #: One thread, so that each encoder is used by one.
        self._threads = ThreadPoolExecutor(1, "encoding")

    def handle(self, messages: Sequence[Message], *, trace: Trace = no_trace) -> Iterator[Effects]:
        """Settle every message in exactly one `Effects`: at first those that need no encoding, then micro-batch by micro-batch.

        Heads are read once, before the first; the caller applies each `Effects` before it asks for the next. An item's events
        take effect in the order they came. An event is applied to all spaces or to none.

        Raises:
            Transient: the store, an object store or an encoder is broken; ask again with all messages (what was applied before is
                then found unchanged).
        """
        return _Batch(self, trace).run(messages)

    def encode(self, items: Sequence[list[Item]]) -> Future[list[Timed]]:
        """Have the encoders work, one after the other, on a list of items each; `Transient` where one of them is broken."""
        return self._threads.submit(lambda: [self._timed(e, each) for e, each in zip(self.encoders, items, strict=True)])

    def _timed(self, encoder: StreamEncoder, items: list[Item]) -> Timed:
        if not items:
            return Encoded(Embeddings.absent(encoder.space, 0, ids=()), (), {}), 0.0
        start = self.clock()
        return encoder.encode(items), (self.clock() - start) / 1e6


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A micro-batch in the encoders: per space, the places in the wave that it encodes."""

    wave: Wave
    places: list[NDArray[np.int64]]
    encoded: Future[list[Timed]]


class _Batch:
    """One call of `ItemHandler.handle`."""

    def __init__(self, owner: ItemHandler, trace: Trace) -> None:
        self._owner = owner
        self._trace = trace
        self._since = owner.clock()
        self._loaded: dict[int, Loaded] = {}
        #: Events of each item that are not settled, in order.
        self._queues: dict[int, deque[int]] = {}

    def run(self, messages: Sequence[Message]) -> Iterator[Effects]:
        settled = self._parse(messages)
        self._trace(Point.PARSED)
        self._events = Events(self._parsed, len(self._owner.encoders))
        self._heads = self._read()
        for row, item in enumerate(self._events.item.tolist()):
            self._queues.setdefault(item, deque()).append(row)
        size = self._owner.settings.stream_encode_batch
        while settled or self._queues:
            out, results, blocked = self._advance()
            self._trace(Point.PLANNED)
            effects = out.effects()
            effects.results = settled + results
            settled = []
            parts = deque(np.array(blocked[start : start + size], np.int64) for start in range(0, len(blocked), size))
            # The encoder works on the next part while the caller writes what came before: they are of different items.
            ahead = self._begin(parts.popleft()) if parts else None
            if effects.results:
                yield effects
            while ahead is not None:
                begun, encoded = ahead, ahead.encoded.result()
                ahead = self._begin(parts.popleft()) if parts else None
                yield self._finish(begun, encoded)

    def _parse(self, messages: Sequence[Message]) -> list[Result]:
        """Fill the batch; returns the verdicts on what is no event."""
        self._messages: list[Message] = []
        self._parsed: list[ItemEvent] = []
        dead, limit = [], self._owner.settings.stream_event_bytes
        for m in messages:
            try:
                event = parse_item(m.key, m.value, m.headers, m.timestamp_ms, now_us=self._since, max_bytes=limit)
            except BadEvent as error:
                dead.append(_bad(m, error, error.event_id, error.entity_id))
            else:
                self._messages.append(m)
                self._parsed.append(event)
        return dead

    def _read(self) -> Heads:
        ids = self._events.ids
        numbers = {item: n for n, item in enumerate(ids)}
        store, spaces = self._owner.store, [encoder.space for encoder in self._owner.encoders]
        found = tuple(SpaceHeads(space, numbers, store.read_records(embedding_view(space), ids)) for space in spaces)
        return Heads(found, FeatureHeads(numbers, store.read_records(item_features(), ids)))

    def _advance(self) -> tuple[Written, list[Result], list[int]]:
        """Settle events up to the first of each item that must be encoded: what to write, the verdicts, what to encode."""
        out, results, blocked = Written(), list[Result](), list[int]()
        going, held = list(self._queues), 0
        while going:
            rows = np.array([self._queues[item][0] for item in going], np.int64)
            wave = plan(self._events, rows, self._heads)
            waits = np.zeros(len(rows), np.bool_)
            for place in np.flatnonzero(wave.needs_content).tolist():
                row = int(rows[place])
                if held > HELD_BYTES:
                    waits[place] = True
                    continue
                try:
                    held += self._load(row)
                except (Unencodable, BadEvent) as error:
                    waits[place] = True
                    results.append(self._dead(row, error))
            if waits.any():
                rows = rows[~waits]
                wave = plan(self._events, rows, self._heads)
            settle(wave, self._events, self._heads)
            encode = wave.needs_encoding
            nothing: list[Fresh] = [None] * len(self._heads.spaces)
            done = np.flatnonzero(~encode & ~wave.stale)
            write(out, wave, done, self._events, self._heads, nothing, (self._since, self._owner.clock()))
            results += self._results(wave, np.flatnonzero(~encode))
            blocked += rows[encode].tolist()
            going = [item for item in wave.items[~encode].tolist() if item in self._queues]
        return out, results, blocked

    def _begin(self, rows: NDArray[np.int64]) -> _Begun:
        """Have one micro-batch of events of different items encoded."""
        wave = plan(self._events, rows, self._heads)
        settle(wave, self._events, self._heads)
        places = [np.flatnonzero(wave.steps[n] == Step.ENCODE) for n in range(len(self._owner.encoders))]
        items = [[self._loaded[row].item for row in rows[at].tolist()] for at in places]
        return _Begun(wave, places, self._owner.encode(items))

    def _finish(self, begun: _Begun, encoded: list[Timed]) -> Effects:
        """What a micro-batch means, all of it or none per event."""
        wave, rows = begun.wave, begun.wave.rows
        refused: dict[int, Refused] = {}
        for places, (found, seconds) in zip(begun.places, encoded, strict=True):
            if len(places):
                self._owner.on_encoded(len(places), seconds)
            refused = {int(places[at]): why for at, why in found.refused.items()} | refused
        self._trace(Point.ENCODED)
        fine = np.array([place for place in range(len(rows)) if place not in refused], np.int64)
        fresh: list[Fresh] = []
        for places, (found, _) in zip(begun.places, encoded, strict=True):
            there = places[list(found.rows)]
            kept = np.isin(there, fine)
            fresh.append((there[kept], found.vectors.take(kept)))
        out = Written()
        write(out, wave, fine, self._events, self._heads, fresh, (self._since, self._owner.clock()))
        effects = out.effects()
        effects.results = self._results(wave, fine)
        for place, why in sorted(refused.items()):
            effects.results.append(self._refused(int(rows[place]), why))
        return effects

    def _load(self, row: int) -> int:
        """Know the content of an event; returns how many bytes are held for it."""
        if row not in self._loaded:
            self._loaded[row] = loaded = load(self._parsed[row], self._owner.loader)
            hashes = content_hashes(loaded.item, [encoder.reads for encoder in self._owner.encoders])
            self._events.know(row, hashes, loaded.values)
        image = self._loaded[row].item.image
        return 0 if image is None else len(image)

    def _results(self, wave: Wave, places: NDArray[np.int64]) -> list[Result]:
        """The verdicts on settled events, which leave their queues."""
        verdicts, out = wave.verdicts(), []
        for place, row in zip(places.tolist(), wave.rows[places].tolist(), strict=True):
            event = self._parsed[row]
            out.append(Result(self._messages[row], verdicts[place], event.event_id, event.item_id))
            self._pop(row)
        return out

    def _dead(self, row: int, error: Unencodable | BadEvent) -> Result:
        event = self._parsed[row]
        self._pop(row)
        return _bad(self._messages[row], error, event.event_id, event.item_id)

    def _refused(self, row: int, why: Refused) -> Result:
        event, message = self._parsed[row], self._messages[row]
        self._pop(row)
        return Result(message, Verdict.DEAD, event.event_id, event.item_id, why.reason, why.detail, attempts=why.attempts)

    def _pop(self, row: int) -> None:
        """An event is settled."""
        item = int(self._events.item[row])
        queue = self._queues[item]
        queue.popleft()
        if not queue:
            del self._queues[item]
        self._loaded.pop(row, None)


def _bad(message: Message, error: Unencodable | BadEvent, event_id: str | None, entity_id: str | None) -> Result:
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return Result(message, Verdict.DEAD, event_id, entity_id, error.reason.value, error.detail, kind)
