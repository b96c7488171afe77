"""Redis as it fails: restarts, lost scripts, refused credentials, foreign keys."""

import shutil
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
import redis
from redis import exceptions
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from moontide import Embeddings, EmbeddingSpace, views
from moontide.errors import Misconfigured, Transient
from moontide.records import embedding_rows
from moontide.schemas import USER_SEQUENCE
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import WriteCounts
from moontide.stores.kv_redis import BUCKETS, TAGS, RedisKeyValue
from moontide.stores.kv_redis_errors import RedisErrors

pytestmark = pytest.mark.integration

SPACE = EmbeddingSpace("served", 1, 16)
VIEW = views.embedding_view(SPACE)


def rows(ids, version=1):
    found = Embeddings.from_float(SPACE, np.ones((len(ids), SPACE.dim), np.float32), ids=ids)
    return embedding_rows(found, source_version=version, event_timestamp=1, encoded_at=1, content_known_at=1)


@pytest.fixture
def store(redis_server):
    made = online_store(Settings(online="redis", redis_url=redis_server.url))
    yield made
    made.close()


def test_scripts_lost_in_a_restart_are_loaded_again(redis_server, store):
    ids = [f"i{n}" for n in range(1_000)]
    assert store.write_rows(VIEW, rows(ids)) == WriteCounts(applied=1_000)
    redis_server.stop()
    redis_server.start()
    assert store.count(VIEW) == 0
    assert store.write_rows(VIEW, rows(ids)) == WriteCounts(applied=1_000)
    redis.Redis.from_url(redis_server.url).script_flush()
    assert store.write_rows(VIEW, rows(ids, 2)) == WriteCounts(applied=1_000)
    redis.Redis.from_url(redis_server.url).script_flush()
    marks = store.dirty(SPACE, 2_000)
    assert len(marks) == 1_000 and store.clear_dirty(SPACE, marks) == 1_000
    redis.Redis.from_url(redis_server.url).script_flush()
    user = [{"user_id": "u", "event_timestamp": 1, "created": 1, "item_ids": ["a"], "actions": ["x"], "times": [1]}]
    sequence = pa.Table.from_pylist([user[0] | {"sequence_version": 0}], USER_SEQUENCE)
    assert store.write_rows(views.user_sequence(), sequence) == WriteCounts(applied=1)


def test_a_server_that_is_down_is_transient_and_comes_back(redis_server, store):
    store.write_rows(VIEW, rows(["a"]))
    redis_server.stop()
    for work in (
        lambda: store.read_embeddings(SPACE, ["a"]),
        lambda: store.write_rows(VIEW, rows(["a"])),
        lambda: store.dirty(SPACE, 1),
        lambda: store.count(VIEW),
        lambda: online_store(Settings(online="redis", redis_url=redis_server.url)),
    ):
        with pytest.raises(Transient, match="try again"):
            work()
    redis_server.start()
    assert store.write_rows(VIEW, rows(["a"])) == WriteCounts(applied=1)


def test_passwords_never_show(redis_server):
    client = redis.Redis.from_url(redis_server.url)
    client.config_set("requirepass", "open-sesame")
    wrong = redis_server.url.replace("redis://", "redis://:hunter2@")
    for url in (wrong, redis_server.url):
        with pytest.raises(Misconfigured, match="credentials") as raised:
            RedisKeyValue(url)
        assert "hunter2" not in str(raised.value) and "sesame" not in str(raised.value)
    right = redis_server.url.replace("redis://", "redis://:open-sesame@")
    engine = RedisKeyValue(right)
    redis_server.stop()
    with pytest.raises(Transient) as raised:
        engine.get(b"t\0", [b"k"], b"")
    assert "sesame" not in str(raised.value)
    for url in ("http://:hunter2@localhost", "redis://:hunter2@localhost:port", "unix://:hunter2@/tmp/socket", "hunter2"):
        with pytest.raises(Misconfigured, match="URL") as raised:
            RedisKeyValue(url)
        assert "hunter2" not in str(raised.value)


def test_keys_of_another_program_are_misconfigured(redis_server, store):
    store.write_rows(VIEW, rows(["a", "b"]))
    client = redis.Redis.from_url(redis_server.url)
    (name,) = [key for key in client.scan_iter() if key.endswith(b"\0a") and b":r:" in key]
    client.delete(name)
    client.hset(name, "not", "a record")
    with pytest.raises(Misconfigured, match="WRONGTYPE"):
        store.write_rows(VIEW, rows(["a"]))
    client.delete(name)
    client.set(name, "not a record")
    with pytest.raises(Misconfigured, match="format"):
        store.read_embeddings(SPACE, ["a"])
    assert store.read_embeddings(SPACE, ["b"]).present.all()


def test_a_server_that_cannot_write_or_is_busy_is_transient(redis_server, store, tmp_path):
    store.write_rows(VIEW, rows(["a"]))
    client = redis.Redis.from_url(redis_server.url)
    client.config_set("min-replicas-to-write", 1)
    with pytest.raises(Transient, match="NOREPLICAS"):
        store.write_rows(VIEW, rows(["a"], 2))
    client.config_set("min-replicas-to-write", 0)
    client.config_set("lua-time-limit", 10)
    spin = redis.Redis.from_url(redis_server.url, retry=None)
    thread = threading.Thread(target=lambda: pytest.raises(redis.ResponseError, spin.eval, "while true do end", 0))
    thread.start()
    time.sleep(0.3)
    with pytest.raises(Transient, match="BUSY"):
        store.read_embeddings(SPACE, ["a"])
    client.script_kill()
    thread.join()
    client.config_set("save", "3600 1")
    shutil.rmtree(tmp_path)  # where the server saves
    client.bgsave()
    deadline = time.monotonic() + 10
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok" and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(Transient, match="MISCONF"):
        store.write_rows(VIEW, rows(["a"], 2))
    client.config_set("save", "")
    assert store.write_rows(VIEW, rows(["a"], 2)) == WriteCounts(applied=1)


@pytest.mark.parametrize(
    "answer",
    [
        exceptions.NoScriptError("No matching script. Please use EVAL."),
        exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        exceptions.ResponseError("ERR Error running script (call to f_1): @user_script:1: -MISCONF Errors writing to the AOF"),
        exceptions.ResponseError("LOADING Redis is loading the dataset in memory"),
        exceptions.SlotNotCoveredError('Slot "3" is not covered by the cluster.'),
        exceptions.RedisClusterException("Redis Cluster cannot be connected. Please provide at least one reachable node"),
    ],
)
def test_answers_that_pass_are_transient(answer):
    with pytest.raises(Transient, match="try again"), RedisErrors("redis://h:1/0")():
        raise answer


def test_a_cluster_without_a_node_is_transient_and_a_lone_server_is_no_cluster(redis_server):
    with pytest.raises(Misconfigured, match="MOONTIDE_REDIS_CLUSTER"):
        RedisKeyValue(redis_server.url, cluster=True)
    redis_server.stop()
    with pytest.raises(Transient, match="try again"):
        RedisKeyValue(redis_server.url, cluster=True)


def test_a_dropped_view_counts_each_record_once(redis_server, store):
    client = redis.Redis.from_url(redis_server.url)
    for count in (0, 1, 5_000):
        store.write_rows(VIEW, rows([f"i{n}" for n in range(count)]))
        assert store.drop_view(VIEW) == count and client.dbsize() == 0


def test_a_read_only_replica_is_transient(redis_server, store):
    client = redis.Redis.from_url(redis_server.url)
    client.replicaof("127.0.0.1", 1)
    with pytest.raises(Transient):
        store.write_rows(VIEW, rows(["a"]))
    client.replicaof("NO", "ONE")
    assert store.write_rows(VIEW, rows(["a"])) == WriteCounts(applied=1)


def test_order_does_not_follow_the_servers_locale(store):
    assert store.write_rows(VIEW, rows(["a"], version=0x0102)) == WriteCounts(applied=1)
    for low, high in ((0x61, 0x42), (0x41, 0xE9), (0xFF, 0x100), (0x7F, 0x80)):
        low, high = sorted((low, high))
        store.delete(VIEW, ["a"])
        assert store.write_rows(VIEW, rows(["a"], version=high)) == WriteCounts(applied=1)
        assert store.write_rows(VIEW, rows(["a"], version=low)) == WriteCounts(stale=1)


def test_a_record_and_its_mark_share_a_cluster_slot(redis_server, store):
    store.write_rows(VIEW, rows([f"i{n}" for n in range(50)]))
    keys = list(redis.Redis.from_url(redis_server.url).scan_iter())
    tags = {kind: {key[: key.index(b"}")] for key in keys if kind in key} for kind in (b":r:", b":d:")}
    assert tags[b":r:"] == tags[b":d:"] and len(tags[b":r:"]) > 20
    nodes = [key_slot(tag) * 4 // REDIS_CLUSTER_HASH_SLOTS for tag in TAGS]
    assert [nodes.count(node) for node in range(4)] == [BUCKETS // 4] * 4
