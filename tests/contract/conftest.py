"""The online store over every engine, with a clock that tests move."""

import itertools
import os

import pytest

from moontide.stores.kv_lmdb import LmdbKeyValue
from moontide.stores.kv_lmdb_environment import LmdbOptions
from moontide.stores.kv_memory import MemoryKeyValue
from moontide.stores.kv_redis import RedisKeyValue
from moontide.stores.online import PackedOnlineStore

_projects = itertools.count()
ENGINES = ["memory", "lmdb", "redis", "redis_cluster"]
CLUSTER = "MOONTIDE_TEST_REDIS_CLUSTER_URL"


class Clock:
    """Microseconds, moved by hand."""

    def __init__(self):
        self.now = 1_700_000_000_000_000

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path, clock):
    """An opener of `KeyValue`s that all see the same data."""
    if request.param == "redis_cluster" and not os.environ.get(CLUSTER):
        pytest.skip(f"not run: needs a Redis Cluster, set {CLUSTER} to the URL of one of its nodes")
    memory = MemoryKeyValue()
    openers = {
        "memory": lambda: memory,
        "lmdb": lambda: LmdbKeyValue(tmp_path / "online", LmdbOptions(1 << 28, 1024, False), clock),
        "redis": lambda: RedisKeyValue(request.getfixturevalue("redis_url")),
        "redis_cluster": lambda: RedisKeyValue(os.environ[CLUSTER], cluster=True),
    }
    return openers[request.param]


@pytest.fixture
def opened(engine, clock):
    """An opener of online stores over the same data: ``opened(project=..., length=...)``."""
    default, stores = f"t{os.getpid()}_{next(_projects)}", []

    def open_store(*, project=None, length=3):
        store = PackedOnlineStore(engine(), project=project or default, clock=clock, sequence_length=length)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()
