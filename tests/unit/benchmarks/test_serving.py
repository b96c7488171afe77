"""The serving benchmark at a size where it takes no time: its oracle, its peers, its gate, its report."""

import numpy as np
import orjson
import pytest

from benchmarks._serving_callers import counts_of, table_of
from benchmarks._serving_http import arrow_body, feast_body, json_body
from benchmarks._serving_peers import DuckDb, tiers_of, without_self
from benchmarks._serving_read import gate
from benchmarks._serving_report import BEGIN, END, claim, loads, put, timings, verdicts
from benchmarks._serving_world import SCALAR_VIEW, SERVICE, TIERS, Size, World
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def world():
    return World.make(Size(items=300, users=3, requests=5, candidates=40, length=60))


@pytest.fixture(scope="module")
def client(world, tmp_path_factory):
    home = tmp_path_factory.mktemp("serving")
    store = online_store(Settings(home=home, online="memory", project="benchserving"))
    world.fill(store)
    with RankingClient(store, world.live(home)) as made:
        made.store = store
        yield made


def test_the_client_gives_the_oracles_answer(world, client):
    for request in world.requests:
        found = client.features(request.user, request.ids, service=SERVICE)
        assert np.array_equal(np.array(found["counts"].to_pylist()), world.tiers(request))
        assert found["missing"].to_pylist() == np.where(request.rows < 0, world.size.length, 0).tolist()
        matrix = client.store.read_matrix(SCALAR_VIEW, request.ids).values
        assert np.array_equal(np.nan_to_num(matrix), world.matrix(request)[:, : matrix.shape[1]])


def test_a_world_has_unknown_candidates_and_self_matches(world):
    assert any((request.rows < 0).any() for request in world.requests)
    assert any(set(request.ids) & set(world.history_ids(request.user)) for request in world.requests)
    assert World.make(world.size).requests[0].ids == world.requests[0].ids


def test_duckdb_and_numpy_give_the_oracles_tiers(world):
    duckdb = DuckDb(world, 1)
    for request in world.requests[:2]:
        truth, history = world.tiers(request), world.histories[request.user]
        assert np.array_equal(duckdb.tiers(request), truth)
        vectors = world.vectors
        dots = vectors.codes[request.rows].astype(np.float32) @ vectors.codes[history].astype(np.float32).T
        cosines = dots * vectors.inv_norm[request.rows][:, None] * vectors.inv_norm[history]
        counts = tiers_of(cosines, request.rows >= 0, np.ones(len(history), bool))
        assert np.array_equal(without_self(counts, request.ids, world.history_ids(request.user)), truth)


@pytest.mark.parametrize(("name", "stops"), [("moontide, LMDB", True), ("raw redis", True), ("DuckDB", False)])
def test_nothing_is_timed_after_a_wrong_tier(world, name, stops):
    def off_by_one(request):
        found = world.tiers(request)
        row = int(found.sum(axis=1).argmax())
        tier = int(found[row].argmax())
        found[row, tier] -= 1
        found[row, tier - 1] += 1
        return found

    big = World.make(Size(items=300, users=1, requests=1, candidates=250, length=100)) if not stops else world
    world = big
    if stops:
        with pytest.raises(SystemExit, match="differ"):
            gate({name: off_by_one}, world, world.tiers)
    else:
        assert 0 < gate({name: off_by_one}, world, world.tiers)[name] < 1e-4
    with pytest.raises(SystemExit, match="shape"):
        gate({name: lambda request: world.tiers(request)[1:]}, world, world.tiers)


def test_every_form_of_a_request_and_an_answer(world):
    request = world.requests[0]
    asked = table_of(arrow_body(request))
    assert asked["item_id"].to_pylist() == request.ids
    assert asked.schema.metadata == {b"user_id": request.user.encode(), b"service": SERVICE.encode()}
    assert orjson.loads(json_body(request)) == {"user_id": request.user, "item_ids": request.ids, "service": SERVICE}
    assert set(orjson.loads(feast_body(request))["entities"]["user_id"]) == {request.user}
    counts = world.tiers(request).tolist()
    assert counts_of("json", orjson.dumps({"columns": {"counts": counts}})).tolist() == counts
    feast = {"metadata": {"feature_names": ["item_id", "counts"]}, "results": [{"values": request.ids}, {"values": counts}]}
    assert counts_of("feast", orjson.dumps(feast)).shape == (len(counts), TIERS)


def test_a_ratio_is_no_claim_where_its_interval_holds_one():
    even, double = np.linspace(1.0, 1.2, 50), np.linspace(2.0, 2.4, 50)
    assert claim(even, even).startswith("level [")
    assert claim(double, even).startswith("**2.00x** [") and "slower" not in claim(double, even)
    assert claim(even, double).endswith(": slower")


def test_a_report_says_what_was_not_met_and_who_was_faster():
    times = {"moontide, LMDB": [0.002] * 9, "raw": [0.001] * 9, "floor: bare": [0.0005] * 9}
    text = timings(
        times,
        floor=lambda name: "floor: bare" if name.startswith("moontide") else "",
        rival=lambda name: "moontide, LMDB" if name == "raw" else "",
        ours=lambda name: name.startswith("moontide"),
    )
    assert "25%" in text and "slower" in text
    assert verdicts([("p50", 2.0, 1.0, " ms"), ("ratio", 40.0, -30.0, "x")]) == (
        "p50 2.00 ms, asked at most 1 ms: **not met**; ratio 40.00x, asked at least 30x: met."
    )
    run = {"latencies": [1.0] * 10, "errors": {"503": 2}, "wrong": 1, "checked": 5, "seconds": 2.0, "cpu": 0.5}
    found = loads([("moontide, LMDB, 1 worker", run)], "note", 0.025)
    assert "503 2" in found and "1 of 5" in found and "| 20 | 50% |" in found and "3.00, asked at most 0: **not met**" in found


def test_a_document_keeps_everything_but_what_lies_between_the_marks():
    page = f"before\n{BEGIN}old\n{END}after\n"
    assert put(put(page, "new"), "newer") == f"before\n{BEGIN}\nnewer\n\n{END}after\n"
    for broken in ("no marks", f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}"):
        with pytest.raises(SystemExit):
            put(broken, "new")
