"""A vector table beside a real Kafka broker: an event that is published is in the table, whoever published it and in what order."""

import os
import threading
import time

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace, Transient
from moontide.records import embedding_rows
from moontide.settings import load_settings
from moontide.stores import online_store
from moontide.stores.kv import wall_clock
from moontide.views import embedding_view
from serving.reading import StoreVectors
from serving.table import VectorTables, table_state
from serving.table_changes import ChangeSource
from serving.table_follow import TableKeeper
from serving.table_writer import TableWriter
from streaming import clients
from streaming.changes import ChangeStream

pytestmark = pytest.mark.integration
SPACE = EmbeddingSpace("moon", 1, 16)
NOW = 1_700_000_000_000_000


def rows_of(ids, version, deleted=False):
    vectors = Embeddings.absent(SPACE, len(ids), ids=ids)
    if not deleted:
        codes = np.full((len(ids), SPACE.dim), version, np.int8)
        vectors = Embeddings.from_codes(SPACE, codes, np.ones(len(ids), np.float32), ids=ids)
    times = {"event_timestamp": NOW + version, "encoded_at": NOW, "content_known_at": NOW}
    return embedding_rows(vectors, source_version=version, deleted=np.full(len(ids), deleted), **times)


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_published_changes_are_in_the_table(kafka_broker, tmp_path):
    topic = f"embeddings-{os.getpid()}"
    settings = load_settings(home=tmp_path, online="memory", kafka_servers=kafka_broker.bootstrap)
    with pytest.raises(Transient):
        ChangeSource(settings, topic=topic)
    admin = clients.admin(settings)
    admin.create_topics({topic: {"num_partitions": 3, "replication_factor": 1}})
    admin.close()
    producer = clients.producer(settings)
    stream = ChangeStream(producer, topic=topic)
    store = online_store(settings)
    items = [f"i{n}" for n in range(50)]
    store.write_rows(embedding_view(SPACE), rows_of(items, 1))
    stream.publish(SPACE, rows_of(items, 1))
    stream.publish(SPACE, rows_of(["before"], 9))  # published before the table opens, and not in the store: the store decides
    stream.wait()
    table, stop = TableWriter(tmp_path / "tables", SPACE, 100, wall_clock), threading.Event()
    keeper = TableKeeper([table], store, lambda: ChangeSource(settings, topic=topic), wall_clock, refresh_seconds=600)
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    empty = StoreVectors(online_store(settings))
    tables = VectorTables(tmp_path / "tables", empty)
    try:
        until(lambda: table_state(tmp_path / "tables", SPACE).lag == 0)
        assert (tables.read(SPACE, items).codes == 1).all() and not tables.read(SPACE, ["before"]).present.any()
        for version in (5, 4):  # the older one arrives last
            stream.publish(SPACE, rows_of(items[:20], version))
        stream.publish(SPACE, rows_of(items[20:30], 6, deleted=True))
        stream.publish(SPACE, rows_of(["new"], 7))
        stream.wait()
        producer.send(topic, key=b"moon_v1/i0", value=b"rubbish").get(30)
        until(lambda: tables.read(SPACE, ["new"]).present.all() and not tables.read(SPACE, items[20:30]).present.any())
        until(lambda: (tables.read(SPACE, items[:20]).codes == 5).all())
        until(lambda: keeper.unreadable == 1)
        assert (tables.read(SPACE, items[30:]).codes == 1).all()
        state = table_state(tmp_path / "tables", SPACE)
        assert state.event_time == NOW + 7 and state.rows == 51 and state.staleness(wall_clock()) < 10
    finally:
        stop.set()
        thread.join(30)
        table.close()
        producer.close()
