"""Item and behaviour events against a store in memory: a clock one sets, an encoder without a model, effects applied as the worker does."""

from collections import Counter

import numpy as np

from encoders import ImageLoader, Unencodable
from encoders.content import WHOLE_CONTENT
from encoders.stub import StubEncoder
from moontide import names
from moontide.errors import Transient
from moontide.events import BehaviourEvent, Content, ItemEvent, behaviour_event_json, item_event_json
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores import online_store
from moontide.stores.base import Status
from moontide.views import embedding_view, item_features
from streaming.encoding import Encoded, Refused
from streaming.items import ItemHandler
from streaming.message import Message

NOW = 1_700_000_000_000_000
BLUE = EmbeddingSpace("moon", 1, 8, "sha256:" + "a" * 64)
GREEN = EmbeddingSpace("moon", 2, 4, "sha256:" + "b" * 64)
FEATURES = item_features()
REFUSED = "refuse"


class FakeEncoder:
    """`StreamEncoder` over the stub; refuses titles that start with `refuse`, in its own space alone where `only` names it."""

    reads = WHOLE_CONTENT

    def __init__(self, space, refuse=REFUSED):
        self.space = space
        self.broken = False
        self.calls = []
        self._refuse = refuse
        self._stub = StubEncoder(space)

    def encode(self, items):
        if self.broken:
            raise Transient("encoder: expected an answer, got none; retry")
        self.calls.append([item.item_id for item in items])
        assert all(item.image is None or isinstance(item.image, bytes) for item in items)
        refused = {}
        for row, item in enumerate(items):
            try:
                self._stub.content_hash(item)
                if (item.title or "").startswith(self._refuse):
                    refused[row] = Refused("encoder_crashed", "expected a vector, got a crash", 3)
            except Unencodable as error:
                refused[row] = Refused(error.reason.value, error.detail)
        rows = tuple(row for row in range(len(items)) if row not in refused)
        vectors = self._stub.run(self._stub.prepare([items[row] for row in rows]))
        return Encoded(vectors, rows, refused)

    def close(self):
        pass


class World:
    """A store, encoders and a handler, and what became of every message."""

    def __init__(self, *, spaces=(BLUE,), batch=4, root=None, refuse=REFUSED, online="memory", home=None, **settings):
        self.now = NOW
        home = {} if home is None else {"home": home}
        self.settings = Settings(online=online, stream_encode_batch=batch, lmdb_map_size=1 << 30, **home, **settings)
        self.store = online_store(self.settings, clock=self.clock)
        self.encoders = [FakeEncoder(space, refuse) for space in spaces]
        self.handler = ItemHandler(self.store, self.encoders, ImageLoader(root, max_bytes=1_000), self.settings, self.clock)
        self.offline = []
        self.effects = []

    def clock(self):
        return self.now

    def feed(self, messages, **more):
        """Handle and apply messages; the results by message offset."""
        found = {}
        for effects in self.handler.handle(messages, **more):
            self.effects.append(effects)
            for view, table in effects.rows:
                assert table.schema.equals(view.table)
                assert table.num_rows > 0
                self.store.write_rows(view, table)
                self.offline.append((view, table))
            for result in effects.results:
                assert result.message.offset not in found
                found[result.message.offset] = result
        assert sorted(found) == sorted(m.offset for m in messages)
        return [found[m.offset] for m in messages]

    def verdicts(self, messages, **more):
        return [r.verdict.value for r in self.feed(messages, **more)]

    def record(self, item, space=BLUE):
        rows = self.store.read_records(embedding_view(space), [item]).to_pylist()
        return rows[0] if rows else None

    def features(self, item):
        rows = self.store.read_records(FEATURES, [item]).to_pylist()
        return rows[0] if rows else None

    def heads(self, ids, space=BLUE):
        """(status, version, event time, hash) of each item."""
        heads = self.store.heads(embedding_view(space), ids)
        return [
            (Status(s).name, v, e, h.tobytes().hex())
            for s, v, e, h in zip(
                heads.status.tolist(),
                heads.source_version.tolist(),
                heads.event_timestamp.tolist(),
                heads.content_hash,
                strict=True,
            )
        ]

    def encoded(self):
        """How many items each encoder was given."""
        return [sum(map(len, encoder.calls)) for encoder in self.encoders]


_offsets = iter(range(1 << 60))


def message(key, value, headers=(), timestamp_ms=NOW // 1_000, topic=names.TOPIC_ITEM_EVENTS):
    return Message(topic, 0, next(_offsets), key, value, headers, timestamp_ms)


def upsert(item, version, event_us=None, *, title="a title", ref=None, event_id="e", **content):
    made = None if ref else Content(title=title, **content)
    at = NOW + version if event_us is None else event_us
    return message(item.encode(), item_event_json(ItemEvent(event_id, item, version, at, False, made, ref)))


def remove(item, version, event_us=None):
    at = NOW + version if event_us is None else event_us
    return message(item.encode(), item_event_json(ItemEvent("d", item, version, at, True)))


def tombstone(item, timestamp_us, version=None):
    headers = () if version is None else (("source_version", str(version).encode()),)
    return message(item.encode(), None, headers, timestamp_us // 1_000)


def behaviour(user, item, time, action="click"):
    value = behaviour_event_json(BehaviourEvent("b", user, item, action, time))
    return message(user.encode(), value, topic=names.TOPIC_BEHAVIOUR_EVENTS)


def again(messages):
    """The same records, delivered once more."""
    return [m._replace(offset=next(_offsets)) for m in messages]


def counted(verdicts):
    return Counter(verdicts)


def vector(space, text_hash):
    """Codes the stub gives to content of that hash."""

    class Prepared:
        content_hashes = (text_hash,)
        ids = ("x",)

    return np.asarray(StubEncoder(space).run(Prepared).codes[0])
