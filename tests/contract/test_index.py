"""One contract for every vector index: memory, milvus-lite, its server mode, and a Milvus server where an address is given."""

import itertools
import os
import socket
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Misconfigured, Poison, SpaceMismatch
from moontide.stores.index import MilvusIndex
from moontide.stores.index_memory import MemoryIndex

pytestmark = pytest.mark.contract

SERVER = "MOONTIDE_TEST_MILVUS_URI"
DIGEST = "sha256:" + "0" * 64
_versions = itertools.count(1)


class Spaces:
    """Makes spaces no other test uses and remembers them."""

    def __init__(self):
        self.family = "t" + uuid.uuid4().hex[:12]
        self.made = []

    def new(self, dim=8, digest=DIGEST):
        space = EmbeddingSpace(self.family, next(_versions), dim, digest)
        self.made.append(space)
        return space


@pytest.fixture(scope="session")
def lite_server(tmp_path_factory):
    """URI of a milvus-lite server process on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("lite-server") / "server.db"
    command = [
        sys.executable,
        "-m",
        "milvus_lite",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--data-dir",
        str(folder),
    ]
    with open(folder.parent / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(150):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder.parent / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["memory", "milvus-lite", "milvus-lite-server", "milvus-server"])
def index(request, tmp_path_factory):
    if request.param == "memory":
        made = MemoryIndex()
    elif request.param == "milvus-lite":
        made = MilvusIndex(str(tmp_path_factory.mktemp("lite") / "index.db"))
    elif request.param == "milvus-lite-server":
        made = MilvusIndex(request.getfixturevalue("lite_server"))
    elif SERVER in os.environ:
        made = MilvusIndex(os.environ[SERVER], token=os.environ.get("MOONTIDE_TEST_MILVUS_TOKEN", ""))
    else:
        pytest.skip(f"not run: no Milvus server, {SERVER} is not set")
    yield made
    made.close()


@pytest.fixture
def spaces(index):
    made = Spaces()
    yield made
    for space in made.made:
        _drop(index, space)


def _drop(index, space):
    try:
        index.drop(space)
    except Misconfigured:  # still aliased, or another encoder's
        pass


def token(number):
    return int(number).to_bytes(40, "big")


def vectors(space, count, *, seed=0, start=0):
    rng = np.random.default_rng(seed)
    return Embeddings.from_float(space, rng.normal(size=(count, space.dim)), ids=[f"i{start + n}" for n in range(count)])


def from_codes(space, rows):
    """rows: {id: codes}"""
    codes = np.array(list(rows.values()), np.int8).reshape(-1, space.dim)
    return Embeddings.from_codes(space, codes, np.ones(len(rows), np.float32), ids=list(rows))


def true_cosine(left, right):
    """float64, from Python integers."""
    left, right = [int(v) for v in left], [int(v) for v in right]
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / (sum(a * a for a in left) * sum(b * b for b in right)) ** 0.5


def check_hits(hits, scores, query, rows, k):
    """Hits are right whatever order ties come in: true scores, falling, distinct, and no better row left out."""
    expected = sorted((true_cosine(query, codes) for codes in rows.values()), reverse=True)[:k]
    assert len(hits) == len(set(hits)) == len(expected)
    np.testing.assert_allclose(scores[: len(hits)], expected, atol=1e-5)
    np.testing.assert_allclose(scores[: len(hits)], [true_cosine(query, rows[i]) for i in hits], atol=1e-5)
    assert np.isnan(scores[len(hits) :]).all()
    assert (np.diff(scores[: len(hits)]) <= 0).all()


CODES = st.integers(-127, 127)
IDS = st.sampled_from([f"i{n}" for n in range(6)] + ["a.b:c-d_E", "x" * 64])


@st.composite
def histories(draw):
    dim = draw(st.integers(2, 9))
    vector = st.lists(CODES, min_size=dim, max_size=dim).filter(any)
    upsert = st.tuples(st.just("upsert"), st.dictionaries(IDS, vector, max_size=5))
    delete = st.tuples(st.just("delete"), st.lists(IDS, max_size=5))
    other = st.tuples(st.just("flush"), st.none())
    steps = draw(st.lists(st.one_of(upsert, upsert, delete, other), max_size=8))
    return dim, steps, draw(vector), draw(st.integers(1, 8))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories())
def test_any_history_of_writes_equals_a_dict(index, history):
    dim, steps, query, k = history
    made = Spaces()
    space, rows, tokens = made.new(dim), {}, {}
    index.ensure(space)
    try:
        for number, (step, argument) in enumerate(steps):
            if step == "upsert":
                index.upsert(space, from_codes(space, argument), [token(number)] * len(argument))
                rows.update(argument)
                tokens.update(dict.fromkeys(argument, token(number)))
            elif step == "delete":
                index.delete(space, argument)
                for item in argument:
                    rows.pop(item, None)
                    tokens.pop(item, None)
            else:
                index.flush(space)
        known = sorted(rows) + ["never"]
        assert index.count(space) == len(rows)
        assert index.tokens(space, known) == [tokens.get(i) for i in known]
        assert sorted(pair for page in index.scan(space) for pair in page) == sorted(tokens.items())
        found = index.search(space, from_codes(space, {"q": query}), k)
        check_hits(found.ids[0], found.scores[0], query, rows, k)
    finally:
        _drop(index, space)


def test_search_is_exact_in_score_and_finds_nearly_everything(index, spaces):
    space = spaces.new(32)
    index.ensure(space)
    items, queries = vectors(space, 1_500), vectors(space, 5, seed=1)
    index.upsert(space, items, [token(n) for n in range(1_500)])
    index.flush(space)
    found = index.search(space, queries, 10)
    assert found.scores.shape == (5, 10) and found.scores.dtype == np.float32
    wide = items.codes.astype(np.int64)
    hits = 0
    for row, query in enumerate(queries.codes.astype(np.int64)):
        true = (wide @ query) / np.sqrt((wide**2).sum(axis=1) * float((query**2).sum()))
        best = [f"i{n}" for n in np.argsort(-true)[:10]]
        hits += len(set(best) & set(found.ids[row]))
        np.testing.assert_allclose(found.scores[row], [true[int(i[1:])] for i in found.ids[row]], atol=1e-6)
    assert hits >= 49


def test_an_item_finds_itself_and_absent_queries_find_nothing(index, spaces):
    space = spaces.new()
    index.ensure(space)
    items = vectors(space, 3)
    index.upsert(space, items, [token(1)] * 3)
    zero = Embeddings.absent(space, 1, ids=["zero"])
    both = Embeddings.from_codes(space, np.vstack([zero.codes, items.codes[:1]]), np.ones(2, np.float32))
    found = index.search(space, both, 5)
    assert found.ids[0] == [] and np.isnan(found.scores[0]).all()
    assert found.ids[1][0] == "i0" and found.scores[1, 0] == pytest.approx(1.0, abs=1e-6) and len(found.ids[1]) == 3
    nothing = index.search(space, items.take(slice(0, 0)), 5)
    assert nothing.ids == [] and nothing.scores.shape == (0, 5)


def test_the_scale_of_a_vector_does_not_matter(index, spaces):
    space = spaces.new()
    index.ensure(space)
    values = vectors(space, 2).to_float()
    items = Embeddings.from_float(space, np.vstack([values[0] * 1e-30, values[1] * 1e30]), ids=["small", "large"])
    index.upsert(space, items, [token(1)] * 2)
    found = index.search(space, Embeddings.from_float(space, values), 1)
    assert found.ids == [["small"], ["large"]] and (found.scores > 0.999).all()


def test_empty_batches_change_nothing(index, spaces):
    space = spaces.new()
    index.ensure(space)
    index.upsert(space, vectors(space, 0), [])
    index.delete(space, [])
    index.flush(space)
    assert index.count(space) == 0 and index.tokens(space, []) == [] and list(index.scan(space)) == []
    assert index.search(space, vectors(space, 1), 3).ids == [[]]


def test_more_rows_than_a_batch_are_written_read_and_deleted_whole(index, spaces):
    space = spaces.new(2)
    index.ensure(space)
    items = vectors(space, 2_345)
    index.upsert(space, items, [token(n) for n in range(2_345)])
    pages = list(index.scan(space))
    assert len(pages) >= 3
    assert sorted(pair for page in pages for pair in page) == sorted((f"i{n}", token(n)) for n in range(2_345))
    assert index.tokens(space, list(items.ids)) == [token(n) for n in range(2_345)]
    index.delete(space, [f"i{n}" for n in range(2_000)])
    assert index.count(space) == 345


def test_of_two_rows_with_one_id_the_last_wins(index, spaces):
    space = spaces.new()
    index.ensure(space)
    index.upsert(space, vectors(space, 2).with_ids(["a", "a"]), [token(1), token(2)])
    assert index.count(space) == 1 and index.tokens(space, ["a", "a", "b"]) == [token(2), token(2), None]


def test_ensure_again_keeps_rows(index, spaces):
    space = spaces.new()
    index.ensure(space)
    index.upsert(space, vectors(space, 1), [token(1)])
    index.ensure(space)
    assert index.count(space) == 1


def uses(index, space):
    rows = vectors(space, 1)
    return [
        lambda: index.upsert(space, rows, [token(1)]),
        lambda: index.delete(space, ["a"]),
        lambda: index.tokens(space, ["a"]),
        lambda: list(index.scan(space)),
        lambda: index.search(space, rows, 1),
        lambda: index.count(space),
        lambda: index.flush(space),
        lambda: index.point_alias(space),
    ]


def test_another_encoder_or_dim_under_the_same_id_is_refused(index, spaces):
    space = spaces.new()
    index.ensure(space)
    index.upsert(space, vectors(space, 1), [token(1)])
    for other in (
        EmbeddingSpace(space.name, space.version, 8, "sha256:" + "1" * 64),
        EmbeddingSpace(space.name, space.version, 9, space.encoder_digest),
    ):
        for call in (lambda other=other: index.ensure(other), *uses(index, other), lambda other=other: index.drop(other)):
            with pytest.raises(SpaceMismatch, match=f"expected space {space.id}.*got"):
                call()
    assert index.tokens(space, ["i0"]) == [token(1)]


def test_a_space_never_encoded_and_a_prefix_are_refused(index, spaces):
    space = spaces.new()
    for call in uses(index, space):
        with pytest.raises(Misconfigured, match="expected collection"):
            call()
    index.drop(space)
    index.ensure(space)
    for call in uses(index, space.prefix(4)):
        with pytest.raises(Misconfigured, match="prefix"):
            call()
    for refused in (space.prefix(4), EmbeddingSpace(space.name, space.version + 1_000_000, 1)):
        with pytest.raises(Misconfigured):
            index.ensure(refused)


def test_vectors_of_two_spaces_never_meet(index, spaces):
    space, other = spaces.new(), spaces.new()
    index.ensure(space)
    index.ensure(other)
    with pytest.raises(SpaceMismatch):
        index.upsert(space, vectors(other, 1), [token(1)])
    with pytest.raises(SpaceMismatch):
        index.search(space, vectors(other, 1), 1)
    index.upsert(other, vectors(other, 1), [token(1)])
    assert index.count(space) == 0 and index.search(space, vectors(space, 1), 1).ids == [[]]


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, 'a"b', "a'b", "a\\b", 'x"] or item_id != "', "é", "a\n"])
def test_ids_are_checked_at_the_edge(index, spaces, bad):
    space = spaces.new()
    index.ensure(space)
    index.upsert(space, vectors(space, 1), [token(1)])
    for call in (
        lambda: index.upsert(space, vectors(space, 1).with_ids([bad]), [token(1)]),
        lambda: index.delete(space, [bad]),
        lambda: index.tokens(space, ["i0", bad]),
    ):
        with pytest.raises(Poison):
            call()
    assert index.count(space) == 1


def test_wrong_calls_are_refused_and_write_nothing(index, spaces):
    space = spaces.new()
    index.ensure(space)
    rows = vectors(space, 1)
    for call in (
        lambda: index.upsert(space, Embeddings.absent(space, 1, ids=["a"]), [token(1)]),
        lambda: index.upsert(space, vectors(space, 1), []),
        lambda: index.upsert(space, vectors(space, 1), [b"short"]),
        lambda: index.upsert(space, Embeddings.from_codes(space, rows.codes, rows.scale), [token(1)]),
        lambda: index.search(space, rows, 0),
        lambda: index.search(space, rows, 16_385),
    ):
        with pytest.raises(ValueError):
            call()
    assert index.count(space) == 0


def test_the_alias_moves_and_guards_what_it_points_at(index, spaces):
    blue, green = spaces.new(), spaces.new()
    assert index.resolve_alias(blue.name) is None
    index.ensure(blue)
    index.ensure(green)
    index.upsert(blue, vectors(blue, 1), [token(1)])
    index.point_alias(blue)
    index.point_alias(blue)
    assert index.resolve_alias(blue.name) == blue.id
    with pytest.raises(Misconfigured, match="alias"):
        index.drop(blue)
    assert index.count(blue) == 1
    index.point_alias(green)
    assert index.resolve_alias(blue.name) == green.id
    index.drop(blue)
    index.drop(blue)
    with pytest.raises(Misconfigured):
        index.count(blue)
    assert index.resolve_alias(blue.name) == green.id


def test_a_dropped_space_can_be_made_again_empty(index, spaces):
    space = spaces.new()
    index.ensure(space)
    index.upsert(space, vectors(space, 1), [token(1)])
    index.drop(space)
    index.ensure(space)
    assert index.count(space) == 0 and index.tokens(space, ["i0"]) == [None]


def made_anew(index, space):
    """Another encoder's space in the place of `space`."""
    other = EmbeddingSpace(space.name, space.version, space.dim, "sha256:" + "1" * 64)
    index.drop(space)
    index.ensure(other)
    return other


def test_a_collection_made_anew_by_another_object_is_checked_again(tmp_path):
    space = Spaces().new()
    here, there = MilvusIndex(str(tmp_path / "index.db")), MilvusIndex(str(tmp_path / "index.db"))
    try:
        here.ensure(space)
        here.upsert(space, vectors(space, 1), [token(1)])
        other = made_anew(there, space)
        for call in (*uses(here, space), lambda: here.drop(space)):
            with pytest.raises(SpaceMismatch, match=f"expected space {space.id}.*got"):
                call()
        assert there.count(other) == 0 and there.resolve_alias(space.name) is None
    finally:
        here.close()
        there.close()


def test_a_collection_made_anew_by_another_process_takes_no_write_of_this_one(lite_server):
    space = Spaces().new()
    here, there = MilvusIndex(lite_server, token="a:b"), MilvusIndex(lite_server, token="c:d")
    try:
        here.ensure(space)
        here.upsert(space, vectors(space, 1), [token(1)])
        other = made_anew(there, space)
        for call in (
            lambda: here.upsert(space, vectors(space, 1), [token(1)]),
            lambda: here.delete(space, ["i0"]),
            lambda: here.point_alias(space),
            lambda: here.drop(space),
        ):
            with pytest.raises(SpaceMismatch, match=f"expected space {space.id}.*got"):
                call()
        assert there.count(other) == 0 and there.resolve_alias(space.name) is None
        there.drop(other)
    finally:
        here.close()
        there.close()
