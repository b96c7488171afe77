"""Steps of events against heads, without a store."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import schemas
from moontide.embeddings import Embeddings
from moontide.events import Content, ItemEvent
from moontide.records import embedding_rows
from moontide.standing import Step, first_steps, standing
from streaming.item_heads import FeatureHeads, Heads, SpaceHeads
from streaming.item_plan import NO_VALUES, Events, known_at, plan, settle
from tests.item_world import BLUE, GREEN

pytestmark = pytest.mark.unit
HASHES = ["a" * 32, "b" * 32]


def event(item, version, time, deleted=False):
    return ItemEvent("e", item, version, time, deleted, None if deleted else Content(title="t"))


def heads_of(events, *spaces):
    """Heads from rows of (item, version, time, hash or None for a tombstone, known) per space; no features."""
    numbers = {item: n for n, item in enumerate(events.ids)}
    found = []
    for space, rows in zip((BLUE, GREEN), spaces, strict=False):
        ids = [row[0] for row in rows]
        gone = np.array([row[3] is None for row in rows], bool)
        codes = np.where(gone[:, None], 0, np.ones((len(rows), space.dim))).astype(np.int8)
        table = embedding_rows(
            Embeddings.from_codes(space, codes, np.where(gone, 0, 1).astype(np.float32), ids=ids),
            source_version=np.array([row[1] for row in rows], np.int64),
            event_timestamp=np.array([row[2] for row in rows], np.int64),
            encoded_at=1,
            content_known_at=np.array([row[4] for row in rows], np.int64),
            content_hash=[row[3] or "0" * 32 for row in rows],
            deleted=gone,
        )
        found.append(SpaceHeads(space, numbers, table))
    return Heads(tuple(found), FeatureHeads(numbers, schemas.ITEM_FEATURES.empty_table()))


def wave_of(events, heads):
    wave = plan(events, np.arange(len(events.item)), heads)
    settle(wave, events, heads)
    return wave


def test_nothing():
    events = Events([], 1)
    wave = wave_of(events, heads_of(events, []))
    assert (wave.steps.shape, wave.verdicts(), events.ids) == ((1, 0), [], [])


def test_one_unknown_item_is_to_be_encoded_in_every_space():
    events = Events([event("i", 1, 5)], 2)
    heads = heads_of(events, [], [])
    wave = wave_of(events, heads)
    assert wave.steps.tolist() == [[Step.ENCODE], [Step.ENCODE]]
    assert (wave.verdicts(), wave.features.tolist(), events.values) == (["applied"], [True], [NO_VALUES])


def test_each_space_gets_what_it_lacks():
    events = Events([event("i", 2, 5)], 2)
    events.know(0, [HASHES[0]] * 2, NO_VALUES)
    heads = heads_of(events, [("i", 2, 5, HASHES[0], 77)], [("i", 1, 4, HASHES[0], 33)])
    wave = wave_of(events, heads)
    assert wave.steps.tolist() == [[Step.UNCHANGED], [Step.REUSE]]
    assert wave.verdicts() == ["unchanged"]
    assert known_at(wave, np.array([0]), events, heads, 99).tolist() == [[77], [77]]


def test_content_was_known_since_the_earliest_space_that_has_it_under_this_version():
    events = Events([event("i", 2, 6)], 2)
    for content_hash, want in ((HASHES[0], 33), (HASHES[1], 99)):
        events.know(0, [content_hash] * 2, NO_VALUES)
        heads = heads_of(events, [("i", 2, 5, HASHES[0], 77)], [("i", 2, 5, HASHES[0], 33)])
        wave = wave_of(events, heads)
        assert known_at(wave, np.array([0]), events, heads, 99).tolist() == [[want]] * 2


def test_spaces_that_read_different_parts_of_an_item_are_judged_apart():
    events = Events([event("i", 2, 6)], 2)
    events.know(0, [HASHES[0], HASHES[1]], NO_VALUES)
    heads = heads_of(events, [("i", 1, 5, HASHES[0], 77)], [("i", 1, 5, HASHES[0], 33)])
    wave = wave_of(events, heads)
    assert wave.steps.tolist() == [[Step.REUSE], [Step.ENCODE]]
    assert wave.verdicts() == ["applied"]
    heads = heads_of(events, [("i", 2, 5, HASHES[0], 77)], [("i", 2, 5, HASHES[0], 33)])
    assert known_at(wave, np.array([0]), events, heads, 99).tolist() == [[33], [99]]


@pytest.mark.parametrize(
    ("blue", "green", "time", "step", "version"),
    [
        ([], [], 5, Step.UNCHANGED, 0),
        ([("i", 3, 4, HASHES[0], 1)], [], 5, Step.TOMBSTONE, 3),
        ([("i", 3, 4, HASHES[0], 1)], [("i", 4, 4, HASHES[0], 1)], 5, Step.TOMBSTONE, 4),
        ([("i", 3, 4, HASHES[0], 1)], [("i", 3, 6, HASHES[0], 1)], 5, Step.STALE, 3),
        ([("i", 3, 5, HASHES[0], 1)], [], 5, Step.STALE, 3),
        ([("i", 3, 5, None, 1)], [("i", 3, 5, None, 1)], 5, Step.UNCHANGED, 3),
    ],
)
def test_a_tombstone_without_version_is_judged_by_the_newest_head(blue, green, time, step, version):
    events = Events([event("i", None, time, deleted=True)], 2)
    wave = wave_of(events, heads_of(events, blue, green))
    assert (wave.steps.tolist(), wave.version.tolist()) == ([[step], [step]], [version])
    assert wave.ghost.tolist() == [not blue]


small = st.integers(0, 3)
head = st.none() | st.tuples(small, small, st.sampled_from([*HASHES, None]))
row = st.tuples(small, small, st.booleans(), head)


@settings(max_examples=80, deadline=None)
@given(st.lists(row, max_size=10))
def test_with_a_version_the_steps_are_those_of_a_backfill(rows):
    """Apart from a delete at an earlier time of the same version, which a backfill counts as unchanged."""
    events = Events([event(f"i{n}", version, time, deleted) for n, (version, time, deleted, _) in enumerate(rows)], 1)
    known = [(f"i{n}", *at, 1) for n, (*_, at) in enumerate(rows) if at is not None]
    wave = plan(events, np.arange(len(rows)), heads_of(events, known))
    columns = [pa.array([None if r[3] is None else f(r[3]) for r in rows], kind) for f, kind in _HEAD]
    at = standing(events.version, events.event_us, columns[0], columns[1])
    want = first_steps(at, events.deleted, columns[2])
    earlier = events.deleted & at.known & ~at.newer & ~at.equal & ~columns[2].fill_null(True).to_numpy(zero_copy_only=False)
    want[earlier] = Step.STALE
    assert wave.steps[0].tolist() == want.tolist()
    assert wave.at[0].event_us.tolist() == at.event_us.tolist()


_HEAD = [(lambda h: h[0], pa.int64()), (lambda h: h[1], pa.int64()), (lambda h: h[2] is None, pa.bool_())]
