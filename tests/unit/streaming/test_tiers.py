"""Candidate sets and their tiers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontide import names
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.features import request_tiers
from moontide.live import LiveSpace, LiveSpaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.simtier import SimTierSpec
from moontide.stores import online_store
from moontide.stores.index_memory import MemoryIndex
from moontide.views import embedding_view, simtier_view, user_sequence
from streaming import candidates
from streaming.behaviours import BehaviourHandler
from streaming.candidates import candidate_set, chunks
from streaming.tiers import CandidateTiers
from tests.item_world import BLUE, GREEN, NOW, behaviour

pytestmark = pytest.mark.unit
SPECS = (SimTierSpec("moon_v1", 4, 3), SimTierSpec("moon_v2", 2, 3, self_match="keep"))


class Watched(MemoryIndex):
    def __init__(self):
        super().__init__()
        self.error = None
        self.searches = []

    def search(self, space, queries, k):
        self.searches.append(len(queries))
        if self.error is not None:
            raise self.error
        return super().search(space, queries, k)


class Site:
    """A store and an index with items `i0` .. `i9`."""

    def __init__(self, **more):
        self.now = NOW
        self.settings = Settings(online="memory", sequence_length=60, **more)
        self.store, self.index = online_store(self.settings, clock=lambda: self.now), Watched()
        self.live = LiveSpaces(Path("spaces.toml"), (LiveSpace(BLUE, None), LiveSpace(GREEN, None)), SPECS, ())
        for space in (BLUE, GREEN):
            self.index.ensure(space)
        self.write(10)
        self.tiers = CandidateTiers(self.store, self.index, self.live, self.settings, lambda: self.now)

    def write(self, count, version=1, deleted=()):
        random = np.random.default_rng(1)
        for space in (BLUE, GREEN):
            vectors = Embeddings.from_float(space, random.normal(size=(count, space.dim)), ids=[f"i{n}" for n in range(count)])
            gone = np.isin(np.array(vectors.ids), deleted)
            codes = np.where(gone[:, None], 0, vectors.codes).astype(np.int8)
            rows = embedding_rows(
                Embeddings.from_codes(space, codes, vectors.scale, ids=vectors.ids),
                source_version=version,
                event_timestamp=1,
                encoded_at=1,
                content_known_at=1,
                deleted=gone,
            )
            self.store.write_rows(embedding_view(space), rows)
            if version == 1:
                self.index.upsert(space, vectors, [bytes(40)] * count)

    def behave(self, *messages):
        effects = BehaviourHandler(self.store, self.settings, lambda: self.now).handle(messages)
        for view, rows in effects.online_only:
            self.store.write_rows(view, rows)

    def recompute(self, *users):
        """Rows by view and user."""
        effects = self.tiers.recompute(users)
        out = {}
        for view, table in effects.rows:
            assert table.schema.equals(view.table)
            self.store.write_rows(view, table)
            for row in table.to_pylist():
                out.setdefault((view.name, row["user_id"]), []).append(row)
        return out


def test_no_users_no_rows():
    site = Site()
    assert site.tiers.recompute([]).rows == []
    assert site.recompute("nobody") == {}
    assert site.index.searches == []


def test_rows_are_what_a_request_would_compute_in_every_view():
    site = Site()
    site.behave(behaviour("u", "i3", 5), behaviour("u", "i7", 6), behaviour("u", "i1", 7, "impression"))
    found = site.recompute("u")
    assert {view for view, _ in found} == {simtier_view(s).name for s in SPECS}
    for spec, space in zip(SPECS, (BLUE, GREEN), strict=True):
        rows = found[simtier_view(spec).name, "u"]
        items = [row["item_id"] for row in rows]
        assert items[0] == "i1"
        assert sorted(items) == [f"i{n}" for n in range(10)]
        want = request_tiers(site.store, space, spec, "u", items)
        assert [row["counts"] for row in rows] == want.tiers.counts.tolist()
        assert {row["sequence_version"] for row in rows} == {want.sequence_version}


def test_recomputing_is_harmless_and_neighbours_are_asked_once_a_minute():
    site = Site()
    site.behave(*(behaviour(f"u{n}", f"i{n}", 5) for n in range(4)))
    first = site.recompute("u0", "u1", "u2", "u3")
    site.now += 30_000_000
    again = site.recompute("u0", "u1", "u2", "u3")
    assert site.index.searches == [4, 4]
    assert [r["counts"] for r in first["user_item_simtier__moon_v1_n4_l3_drop", "u1"]] == [
        r["counts"] for r in again["user_item_simtier__moon_v1_n4_l3_drop", "u1"]
    ]
    site.now += 30_000_000
    site.recompute("u0")
    assert site.index.searches == [4, 4, 1, 1]


def test_a_deleted_item_is_no_candidate_even_while_the_index_still_has_it():
    site = Site()
    site.behave(behaviour("u", "i3", 5), behaviour("u", "i1", 6, "impression"), behaviour("u", "i2", 7, "impression"))
    site.write(10, version=2, deleted=("i1", "i4"))
    found = site.recompute("u")
    for rows in found.values():
        assert {"i1", "i4"}.isdisjoint(row["item_id"] for row in rows)
        assert "i2" in [row["item_id"] for row in rows]


@pytest.mark.parametrize("error", [Transient("down"), Misconfigured("index: expected collection x, got none")])
def test_without_the_index_served_items_still_get_tiers(error):
    site = Site()
    site.behave(behaviour("u", "i3", 5), behaviour("u", "i1", 6, "impression"))
    site.index.error = error
    assert [[r["item_id"] for r in rows] for rows in site.recompute("u").values()] == [["i1"], ["i1"]]
    assert site.tiers.index_failures == 2
    site.recompute("u")
    assert site.tiers.index_failures == 2
    site.index.error = None
    site.now += candidates.PAUSE_US
    assert [len(rows) for rows in site.recompute("u").values()] == [9, 9]


def test_another_space_in_the_index_stops():
    site = Site()
    site.behave(behaviour("u", "i3", 5))
    site.index.error = SpaceMismatch("other")
    with pytest.raises(SpaceMismatch):
        site.tiers.recompute(["u"])


def test_users_a_failing_store_left_out_come_along(monkeypatch):
    site = Site()
    site.behave(behaviour("u", "i3", 5), behaviour("w", "i4", 5))
    read = site.store.read_sequences
    monkeypatch.setattr(site.store, "read_sequences", lambda *a: (_ for _ in ()).throw(Transient("down")))
    with pytest.raises(Transient):
        site.tiers.recompute(["u"])
    monkeypatch.setattr(site.store, "read_sequences", read)
    assert {user for _, user in site.recompute("w")} == {"u", "w"}
    assert {user for _, user in site.recompute("w")} == {"w"}


def test_a_set_is_bounded_and_zero_computes_none():
    site = Site(stream_candidates=3)
    site.behave(behaviour("u", "i3", 5))
    assert [len(rows) for rows in site.recompute("u").values()] == [3, 3]
    assert Site(stream_candidates=0).tiers.recompute(["u"]).rows == []


def test_a_spec_of_a_space_that_is_not_live_is_refused():
    site = Site()
    live = LiveSpaces(Path("spaces.toml"), (LiveSpace(BLUE, None),), SPECS, ())
    with pytest.raises(Misconfigured):
        CandidateTiers(site.store, site.index, live, site.settings, lambda: NOW)


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(candidates, "CACHED", 3)
    site = Site()
    site.behave(*(behaviour("u", f"i{n}", n) for n in range(5)))
    site.recompute("u")
    assert len(site.tiers._neighbours._known) == 3


def test_a_call_asks_about_few_items_the_newest_of_each_user_first(monkeypatch):
    monkeypatch.setattr(candidates, "ASKED", 2)
    site = Site()
    site.behave(*(behaviour(user, f"i{n}", 10 * n + 1) for n, user in enumerate(["u", "w", "u", "w"])))
    site.recompute("u", "w")
    assert {item for _, item in site.tiers._neighbours._known} == {"i2", "i3"}
    assert (site.index.searches, site.tiers.neighbours_left_out) == ([2, 2], 4)
    site.recompute("u")
    assert site.index.searches == [2, 2, 1, 1]


def test_only_the_last_served_count():
    site = Site()
    site.behave(*(behaviour("u", f"s{n}", n + 1, "impression") for n in range(60)))
    assert site.store.read_sequences(user_sequence(names.USER_SERVED), ["u"])[0].item_ids[0] == "s0"
    rows = site.recompute("u")["user_item_simtier__moon_v1_n4_l3_drop", "u"]
    assert [row["item_id"] for row in rows] == [f"s{n}" for n in range(59, 9, -1)]


def test_candidates_are_served_then_nearest_of_each():
    assert candidate_set(["s", "t"], [["a", "b"], ["c"], ["s", "a"]], most=9) == ["s", "t", "a", "c", "b"]
    assert candidate_set([], [], most=5) == []
    assert candidate_set(["s"], [["a"]], most=1) == ["s"]


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_chunks_keep_every_pair_in_order_and_are_bounded(sizes, most):
    wanted = {f"u{n}": [f"{n}.{k}" for k in range(size)] for n, size in enumerate(sizes)}
    parts = list(chunks(wanted, most))
    assert [(u, i) for part in parts for u, items in part.items() for i in items] == [
        (u, i) for u, items in wanted.items() for i in items
    ]
    counts = [sum(map(len, part.values())) for part in parts]
    assert all(count == most for count in counts[:-1]) and all(0 < count <= most for count in counts)
