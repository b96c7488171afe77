"""The whole consumer on a real broker: events in, records, index rows, offline rows, sequences, tiers and dead letters out."""

import base64
import json
import threading
import time
import urllib.request
import uuid
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import numpy as np
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from encoders import Encoder, Item
from encoders.stub import StubEncoder
from moontide import names
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store, vector_index
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view, item_features, simtier_view, user_sequence
from streaming.app import App
from streaming.encoder_process import encoder_process, stub_process
from streaming.parts import Parts
from tests import tiny_tower

pytestmark = pytest.mark.integration

SPACES = """
[[space]]
name = "moon"
version = 1
dim = 16
encoder_digest = "sha256:{digest}"

[[simtier]]
space = "moon_v1"
tiers = 4
length = 5
self_match = "drop_same_id"
"""


class Site:
    """A home, a broker's address, and a consumer that can be started and stopped."""

    def __init__(self, folder, broker):
        (folder / "spaces.toml").write_text(SPACES.format(digest="0" * 64))
        self.settings = Settings(
            home=folder, kafka_servers=broker.bootstrap, lmdb_map_size=1 << 28, sequence_length=10, stream_port=0,
            stream_group=f"g-{uuid.uuid4().hex[:8]}", stream_checkpoint_seconds=0.3, stream_session_ms=6_000,
            stream_poll_interval_ms=30_000, stream_audit_file=folder / "audit.jsonl",
        )  # fmt: skip
        self.live = load_spaces(self.settings.spaces_path)
        self.space = self.live.spaces[0].space
        self.producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        self.sent = 0

    @contextmanager
    def consumer(self, **parts):
        app = App(self.settings, self.live, Parts(**{"encoder": stub_process, **parts}))
        failed = []

        def run():
            try:
                app.run()
            except Exception as error:  # noqa: BLE001 - the test shows it
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield app
        finally:
            app.stop()
            thread.join(40)
            assert not thread.is_alive()
            assert not failed, failed

    def send(self, topic, key, value, **options):
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        self.producer.send(topic, value=raw, key=key.encode(), **options).get(timeout=10)
        self.sent += 1

    def item(self, item, version, *, op="update", title="a title", **content):
        event = {
            "schema_version": 1,
            "event_id": f"{item}-{version}-{uuid.uuid4().hex[:6]}",
            "op": op,
            "item_id": item,
            "source_version": version,
            "event_timestamp": datetime.now(UTC).isoformat(),
        }
        if op != "delete":
            event["content"] = {"title": title, **content}
        self.send(names.TOPIC_ITEM_EVENTS, item, event)

    def behaviour(self, user, item, action="click"):
        now = datetime.now(UTC).isoformat()
        event = {"schema_version": 1, "event_id": uuid.uuid4().hex, "user_id": user, "item_id": item, "action": action}
        self.send(names.TOPIC_BEHAVIOUR_EVENTS, user, event | {"event_timestamp": now})

    def verdicts(self):
        path = self.settings.stream_audit_file
        return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []

    def wait(self, seconds=40):
        """Until every message sent has a verdict."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seen = {(v["topic"], v["partition"], v["offset"]) for v in self.verdicts()}
            if len(seen) >= self.sent:
                return
            time.sleep(0.1)
        raise AssertionError(f"expected {self.sent} verdicts, got {len(seen)}")


@pytest.fixture
def site(tmp_path, own_kafka_broker):
    site = Site(tmp_path, own_kafka_broker)
    for topic in (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS, names.TOPIC_ITEM_EMBEDDINGS, names.TOPIC_DEAD_LETTERS):
        own_kafka_broker.create_topic(topic, partitions=2)
    yield site
    site.producer.close()


def expected(site, title):
    stub = StubEncoder(site.space)
    return stub.run(stub.prepare([Item("x", title=title)])).codes[0]


def dead_letters(site):
    consumer = KafkaConsumer(
        bootstrap_servers=site.settings.kafka_servers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    parts = [TopicPartition(names.TOPIC_DEAD_LETTERS, p) for p in consumer.partitions_for_topic(names.TOPIC_DEAD_LETTERS)]
    consumer.assign(parts)
    left, found = sum(consumer.end_offsets(parts).values()), []
    while len(found) < left:
        found += [r for records in consumer.poll(timeout_ms=1_000).values() for r in records]
    consumer.close()
    return found


def test_events_reach_every_store_and_poison_its_topic(site):
    with site.consumer() as app:
        site.item("a", 1, op="create", title="red shoes", price=9.5, category="shoes")
        site.item("b", 1, op="create", title="blue hat")
        site.item("gone", 1, op="create", title="never seen again")
        site.item("a", 2, title="green shoes")
        site.item("gone", 2, op="delete")
        site.item("b", 0, title="a late hat")
        site.send(names.TOPIC_ITEM_EVENTS, "x", b"{not json")
        site.send(names.TOPIC_ITEM_EVENTS, "bad", {"schema_version": 1, "event_id": "p", "op": "update", "item_id": "bad"})
        for item in ("a", "b", "a"):
            site.behaviour("u", item)
        for item in ("a", "b"):
            site.behaviour("u", item, action="impression")
        site.wait()
        port = [line for line in app.metrics.render()[0].decode().splitlines() if line.startswith("moontide_events_total")]
        assert sum(float(line.split()[-1]) for line in port) == site.sent
    counted = [v["verdict"] for v in site.verdicts()]
    assert {v: counted.count(v) for v in set(counted)} == {"applied": 10, "stale": 1, "dead": 2}
    check_stores(site)
    found = dead_letters(site)
    assert sorted(r.value[:9] for r in found) == [b'{"schema_', b"{not json"]
    assert all("__connect.errors.topic" in dict(r.headers) for r in found)


def check_stores(site):
    store, index = online_store(site.settings), vector_index(site.settings)
    try:
        heads = store.heads(embedding_view(site.space), ["a", "b", "gone"])
        assert heads.source_version.tolist() == [2, 1, 2] and heads.status.tolist() == [0, 0, 3]
        vectors = store.read_embeddings(site.space, ["a", "b", "gone"])
        np.testing.assert_array_equal(vectors.codes[:2], [expected(site, "green shoes"), expected(site, "blue hat")])
        assert [t is not None for t in index.tokens(site.space, ["a", "b", "gone"])] == [True, True, False]
        assert index.search(site.space, vectors.take(np.array([0])), 1).ids == [["a"]]
        assert store.dirty(site.space, 10) == []
        assert store.read_columns(item_features(), ["b"], ["has_text"])["has_text"].to_pylist() == [True]
        assert store.read_sequences(user_sequence(), ["u"])[0].item_ids == ("a", "b", "a")
        assert store.read_sequences(user_sequence(names.USER_SERVED), ["u"])[0].item_ids == ("a", "b")
        spec = site.live.simtiers[0]
        tiers = store.read_columns(simtier_view(spec), [("u", "a"), ("u", "b")], ["counts", "missing", "sequence_version"])
        current = store.read_sequences(user_sequence(), ["u"])[0].version
        assert set(tiers["sequence_version"].to_pylist()) == {current}
    finally:
        store.close()
        index.close()
    offline = OfflineTables(site.settings.offline_root)
    latest = {r["item_id"]: r for t in offline.latest(embedding_view(site.space)) for r in t.to_pylist()}
    assert {i: (r["source_version"], r["deleted"]) for i, r in latest.items()} == {
        "a": (2, False),
        "b": (1, False),
        "gone": (2, True),
    }
    versions = [v for t in offline.scan(embedding_view(site.space)) for v in t["source_version"].to_pylist()]
    assert sorted(versions) == [1, 1, 1, 2, 2], "every version that was current is history"
    assert [r["item_ids"] for t in offline.latest(user_sequence()) for r in t.to_pylist()] == [["a", "b", "a"]]


def test_a_replay_of_everything_changes_nothing(site):
    with site.consumer():
        site.item("a", 1, op="create", title="one")
        site.item("a", 2, title="two")
        site.item("b", 1, title="three")
        site.behaviour("u", "a")
        site.wait()
    before = snapshot(site)
    site.settings = site.settings.model_copy(update={"stream_group": "again"})
    site.settings.stream_audit_file.unlink()
    with site.consumer():
        site.wait()
    assert snapshot(site) == before
    assert {v["verdict"] for v in site.verdicts()} == {"stale", "unchanged"}


def snapshot(site):
    store = online_store(site.settings)
    try:
        rows = store.read_records(embedding_view(site.space), ["a", "b"]).to_pylist()
        return rows, store.read_sequences(user_sequence(), ["u"])
    finally:
        store.close()


def test_what_was_committed_is_not_read_again_and_the_rest_is(site):
    with site.consumer():
        site.item("a", 1, title="one")
        site.wait()
    site.item("a", 2, title="two")
    with site.consumer():
        site.wait()
    assert [v["verdict"] for v in site.verdicts()] == ["applied", "applied"]


def test_an_inline_image_is_part_of_the_content_and_health_is_served(site):
    site.settings = site.settings.model_copy(update={"stream_port": free_port()})
    pixel = base64.b64encode(b"not opened by the stub").decode()
    with site.consumer() as app:
        site.item("a", 1, image_base64=pixel)
        site.item("a", 2, image_base64=pixel)
        site.wait()
        assert app.state.unready() == [] and app.state.stalled(60) == []
        base = f"http://127.0.0.1:{site.settings.stream_port}"
        for path in ("/healthz", "/readyz", "/metrics"):
            assert urllib.request.urlopen(base + path, timeout=5).status == 200
    assert [v["verdict"] for v in site.verdicts()] == ["applied", "unchanged"]


def test_a_new_price_moves_the_item_tower_alone(site):
    home = site.settings.home
    pre = tiny_tower.artifact(home)
    table = (
        f'[[space]]\nname = "pre"\nversion = 1\ndim = {pre.dim}\nencoder_digest = "{pre.encoder_digest}"\nartifact = "pre_v1"\n'
    )
    (home / "spaces.toml").write_text(table + site.settings.spaces_path.read_text())
    site.live = load_spaces(site.settings.spaces_path)

    def started(live, settings):
        return stub_process(live, settings) if live.artifact is None else encoder_process(live, settings)

    def records():
        with closing(online_store(site.settings)) as store:
            return [store.read_records(embedding_view(space), ["a"]).to_pylist()[0] for space in (site.space, pre)]

    with site.consumer(encoder=started):
        site.item("a", 1, price=2.0, category="hats")
        site.wait()
        first = records()
        site.item("a", 2, price=50.0, category="hats")
        site.wait()
    second = records()
    assert [r["source_version"] for r in second] == [2, 2]
    assert (second[0]["codes"], second[0]["encoded_at"]) == (first[0]["codes"], first[0]["encoded_at"])
    assert second[1]["codes"] != first[1]["codes"]
    tower = Encoder.load(home / "pre_v1")
    want = tower.encode([Item("a", title="a title", price=50.0, category="hats")])
    assert second[1]["codes"] == want.codes[0].tobytes()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
