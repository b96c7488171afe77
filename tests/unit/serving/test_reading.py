"""Tiers of a request equal the definition, whether vectors come from the store or a table, and the user side now or ahead."""

import gc
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, schemas, views
from moontide.features import request_tiers
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.simtier import reference_tier_counts
from moontide.stores import online_store
from moontide.stores.kv import wall_clock
from serving import RankingClient
from serving.prefetch import PrefetchCache
from serving.reading import StoreVectors
from serving.table import VectorTables
from serving.table_load import load
from serving.table_writer import TableWriter

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
[[simtier]]
space = "moon_v1"
tiers = 10
length = 5
[[simtier]]
space = "moon_v1"
tiers = 10
length = 5
self_match = "keep"
[[service]]
name = "drop"
space = "moon_v1"
simtier = "moon_v1_n10_l5_drop"
[[service]]
name = "keep"
space = "moon_v1"
simtier = "moon_v1_n10_l5_keep"
"""
ITEMS = [f"i{n}" for n in range(9)]
#: i6 is a tombstone, i7 and i8 are in no store; the table has room for four.
STORED = ITEMS[:7]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "spaces.toml").write_text(TOML)
    live = load_spaces(folder / "spaces.toml")
    store, space = online_store(Settings(home=folder, online="memory")), live.space("moon_v1")
    vectors = np.random.default_rng(0).normal(size=(7, 8))
    vectors[6] = 0
    times = {"event_timestamp": NOW, "encoded_at": NOW, "content_known_at": NOW}
    found = Embeddings.from_float(space, vectors, ids=STORED)
    store.write_rows(views.embedding_view(space), embedding_rows(found, source_version=1, deleted=np.arange(7) == 6, **times))
    table = TableWriter(folder / "tables", space, 4, wall_clock)
    load(store, table, threading.Event())
    yield live, store, VectorTables(folder / "tables", StoreVectors(store))
    table.close()


def write_history(store, user, items):
    row = {
        "user_id": [user], "event_timestamp": pa.array([NOW], schemas.TIMESTAMP), "created": pa.array([NOW], schemas.TIMESTAMP),
        "item_ids": [items], "actions": [["buy"] * len(items)], "times": [list(range(len(items)))], "sequence_version": [0],
    }  # fmt: skip
    rows = pa.table([row[f.name] for f in schemas.USER_SEQUENCE], schema=schemas.USER_SEQUENCE)
    store.write_rows(views.user_sequence(), rows)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(ITEMS), max_size=8), st.lists(st.sampled_from(ITEMS), max_size=6), st.sampled_from(["drop", "keep"])
)
def test_every_way_of_reading_gives_the_tiers_of_the_definition(site, seen, candidates, service):
    live, store, tables = site
    chosen, user = live.service(service), "u" + "-".join(seen)
    write_history(store, user, seen)
    ours, theirs = (store.read_embeddings(chosen.space, ids) for ids in (candidates, seen[-5:]))
    expected = reference_tier_counts(ours, theirs, chosen.simtier)
    for vectors in (None, tables):
        client = RankingClient(store, live, vectors=vectors, prefetched=PrefetchCache(lambda: 0.0))
        client.prefetch(user, request_id="r", service=service)
        for request_id in (None, "r"):
            found = client.read(user, candidates, service=service, request_id=request_id)
            assert found.metadata["prefetch"] == ("hit" if request_id else "off")
            assert (found.counts == expected.counts).all() and (found.missing == expected.missing).all()
            assert (found.vectors.codes == ours.codes).all() and (found.embeddings == ours.to_float()).all()
            assert (found.present == ours.present).all() and found.item_ids == tuple(candidates)
    shared = request_tiers(store, chosen.space, chosen.simtier, user, candidates)
    assert (shared.tiers.counts == expected.counts).all()
    assert found.metadata["sequence_version"] == str(shared.sequence_version)


def test_a_client_is_warm_once_every_service_was_read(site):
    live, store, _ = site
    asked, read = [], store.read_sequences
    store.read_sequences = lambda view, users: asked.append(users) or read(view, users)
    frozen = gc.get_freeze_count()
    try:
        RankingClient(store, live).warm_up()
        assert len(asked) == len(live.services) and gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        store.read_sequences = read
