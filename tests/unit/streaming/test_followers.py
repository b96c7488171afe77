"""Index and change stream follow the online record, whatever fails in between."""

import numpy as np
import pytest

from encoders import Item
from encoders.stub import StubEncoder
from moontide.embeddings import Embeddings
from moontide.errors import Transient
from moontide.records import embedding_rows
from moontide.spaces import EmbeddingSpace
from moontide.stores.index_memory import MemoryIndex
from moontide.stores.kv_memory import MemoryKeyValue
from moontide.stores.online import PackedOnlineStore
from moontide.views import embedding_view
from streaming.followers import Follower
from streaming.message import no_trace

pytestmark = pytest.mark.unit

SPACE = EmbeddingSpace(name="moon", version=1, dim=8, encoder_digest="sha256:" + "0" * 64)
VIEW = embedding_view(SPACE)
NOW = 1_700_000_000_000_000


class Topic:
    """A compacted topic that arrives on `wait`, and fails as often as it is told."""

    def __init__(self):
        self.sent, self.arrived, self.fails = [], {}, 0

    def publish(self, space, rows):
        self.sent += rows.to_pylist()

    def wait(self):
        if self.fails:
            self.fails -= 1
            self.sent = []
            raise Transient("topic: expected an ack, got none")
        self.arrived.update((row["item_id"], row["source_version"]) for row in self.sent)
        self.sent = []


class Brittle(MemoryIndex):
    """An index that forgets what was not flushed when a call fails, as milvus-lite may."""

    def __init__(self):
        super().__init__()
        self.fails, self.unflushed = {}, []

    def _maybe_fail(self, what):
        if self.fails.get(what, 0):
            self.fails[what] -= 1
            for space, ids in self.unflushed:
                super().delete(space, ids)
            self.unflushed = []
            raise Transient(f"index: expected {what} to work, got a failure")

    def upsert(self, space, embeddings, tokens):
        self._maybe_fail("upsert")
        super().upsert(space, embeddings, tokens)
        self.unflushed.append((space, list(embeddings.ids)))

    def flush(self, space):
        self._maybe_fail("flush")
        self.unflushed = []


@pytest.fixture
def online():
    return PackedOnlineStore(MemoryKeyValue(), project="t", clock=lambda: NOW, sequence_length=10)


def write(online, version, *ids, deleted=False):
    vectors = StubEncoder(SPACE).run(StubEncoder(SPACE).prepare([Item(i, title=f"{i} {version}") for i in ids]))
    if deleted:
        vectors = Embeddings.absent(SPACE, len(ids), ids=ids)
    rows = embedding_rows(vectors, source_version=version, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW,
                          deleted=np.full(len(ids), deleted))  # fmt: skip
    return online.write_rows(VIEW, rows)


def state(online, index, topic):
    heads = online.heads(VIEW, ["a", "b"])
    indexed = [None if t is None else t for t in index.tokens(SPACE, ["a", "b"])]
    return heads.source_version.tolist(), [t is not None for t in indexed], dict(topic.arrived), len(online.dirty(SPACE, 10))


def test_what_is_followed_is_searchable_at_once_and_durable_after_settling(online):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a", "b")
    follower.follow(["a", "b"])
    assert all(index.tokens(SPACE, ["a", "b"]))
    assert len(online.dirty(SPACE, 10)) == 2
    follower.settle({})
    assert state(online, index, topic) == ([1, 1], [True, True], {"a": 1, "b": 1}, 0)
    assert index.resolve_alias("moon") == "moon_v1"


def test_nothing_to_follow_and_nothing_to_settle(online):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    follower.follow([])
    follower.settle({})
    assert follower.sweep() == 0


@pytest.mark.parametrize("what", ["upsert", "flush"])
def test_an_index_that_fails_gets_everything_since_its_last_flush_again(online, what):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a")
    follower.follow(["a"])
    write(online, 1, "b")
    index.fails[what] = 1
    with pytest.raises(Transient):
        follower.follow(["b"])
        follower.settle({})
    assert index.tokens(SPACE, ["a"]) == [None], "the stub index did not lose anything: the test proves nothing"
    follower.settle({})
    assert state(online, index, topic) == ([1, 1], [True, True], {"a": 1, "b": 1}, 0)


def test_a_topic_that_fails_gets_everything_again(online):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a", "b")
    follower.follow(["a", "b"])
    topic.fails = 1
    with pytest.raises(Transient):
        follower.settle({})
    assert topic.arrived == {}
    follower.settle({})
    assert topic.arrived == {"a": 1, "b": 1}


def test_an_older_value_on_top_is_replaced_by_the_record(online):
    """Another writer's newer record arrives between the copy and the end of the checkpoint."""
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a")
    follower.follow(["a"])
    write(online, 2, "a")
    follower.settle({})
    assert topic.arrived == {"a": 2}
    assert [m.item_id for m in online.dirty(SPACE, 10)] == ["a"], "the newer record's mark is not ours to clear"
    follower.settle({})
    assert state(online, index, topic)[3] == 0


def test_a_tombstone_leaves_the_index_and_stays_in_the_topic(online):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a", "b")
    follower.follow(["a", "b"])
    write(online, 2, "a", deleted=True)
    follower.follow(["a"])
    follower.settle({})
    assert state(online, index, topic) == ([2, 1], [False, True], {"a": 2, "b": 1}, 0)


def test_marks_left_by_others_are_swept(online):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a", "b")
    assert follower.sweep() == 2
    follower.settle({})
    assert state(online, index, topic) == ([1, 1], [True, True], {"a": 1, "b": 1}, 0)
    online.delete(VIEW, ["a"])
    follower.sweep()
    follower.settle({})
    assert index.tokens(SPACE, ["a"]) == [None]
    assert online.dirty(SPACE, 10) == []


def test_what_is_durable_everywhere_is_known_until_its_record_changes(online):
    index, topic = Brittle(), Topic()
    follower = Follower(online, index, topic, SPACE, no_trace)
    write(online, 1, "a", "b")
    follower.follow(["a"])
    assert follower.known(["a", "b"]) == set(), "copied is not durable"
    token = dict(online.dirty(SPACE, 10))["a"]
    follower.settle({"a": token})
    assert follower.known(["a", "b"]) == {"a"}
    write(online, 2, "a")
    assert follower.known(["a", "b"]) == set()
    follower.follow(["a"])
    follower.settle({"a": token})
    assert follower.known(["a"]) == set(), "another writer's version, whose offline row is its own to write"
