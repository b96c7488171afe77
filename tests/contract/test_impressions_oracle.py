"""Which impression a behaviour is credited to, against plain loops over the documented rule."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import impressions
from moontide import schemas
from moontide.request_log import REQUEST_LOG

pytestmark = pytest.mark.contract
START = 1_700_000_000_000_000
WITHIN = 10
SECOND = 1_000_000


def log_table(requests):
    """Requests of (id, user, second, items) as a log; the other columns are null, which this job does not read."""
    wanted = ("request_id", "user_id", "served_at", "service", "item_ids")
    columns = {
        "request_id": [r[0] for r in requests],
        "user_id": [r[1] for r in requests],
        "served_at": [START + r[2] * SECOND for r in requests],
        "service": [f"s{len(r[3]) % 2}" for r in requests],
        "item_ids": [list(r[3]) for r in requests],
    }
    return pa.table({name: pa.array(columns[name], REQUEST_LOG.field(name).type) for name in wanted})


def behaviour_table(rows):
    columns = zip(*[(u, i, a, START + t * SECOND) for u, i, a, t in rows], strict=True) if rows else [()] * 4
    return pa.table(
        [pa.array(list(c), f.type) for c, f in zip(columns, schemas.BEHAVIOURS, strict=True)], names=schemas.BEHAVIOURS.names
    )


def oracle(files, behaviours, actions, until, services=()):
    """(request, user, item, second, position, label) of every impression, in the log's order."""
    shown, served = [], [r for requests in files for r in requests]
    last = {}
    for n, request in enumerate(served):
        key = (request[0], request[1], len(request[3]) % 2)
        last[key] = max(last.get(key, (-1, -1)), (request[2], n))
    for n, request in enumerate(served):
        if last[request[0], request[1], len(request[3]) % 2] != (request[2], n):
            continue
        if services and f"s{len(request[3]) % 2}" not in services:
            continue
        seen = set()
        for position, item in enumerate(request[3]):
            if item not in seen:
                shown.append([request[0], request[1], item, request[2], position, 0.0])
            seen.add(item)
    for user, item, action, time in behaviours:
        if action not in actions:
            continue
        before = [n for n, s in enumerate(shown) if s[1:3] == [user, item] and s[3] < time <= s[3] + WITHIN]
        if before:
            shown[max(before, key=lambda n: (shown[n][3], n))][5] = 1.0
    return [s for s in shown if s[3] + WITHIN <= until]


def run(home, files, behaviours, until, *flags, actions=("click", "buy")):
    (home / "log").mkdir(parents=True, exist_ok=True)
    for old in (home / "log").iterdir():
        old.unlink()
    for n, requests in enumerate(files):
        pq.write_table(log_table(requests), home / "log" / f"{n:03d}.parquet", row_group_size=2)
    pq.write_table(behaviour_table(behaviours), home / "behaviours.parquet", row_group_size=3)
    out = home / "impressions.parquet"
    at = pa.scalar(START + until * SECOND, pa.timestamp("us", "UTC")).as_py().isoformat()
    code = impressions.main(
        ["--home", str(home), "--log", str(home / "log"), "--behaviours", str(home / "behaviours.parquet"), "--out", str(out),
         "--within", f"{WITHIN}s", "--until", at, "--actions", *actions, *flags]
    )  # fmt: skip
    rows = pq.read_table(out).to_pylist() if out.exists() else None
    return code, rows


def plain(rows):
    return [
        [r["request_id"], r["user_id"], r["item_id"], (micros(r["event_timestamp"]) - START) // SECOND, r["position"], r["label"]]
        for r in rows
    ]


def micros(time):
    return pa.scalar(time, pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()


users, items, seconds = st.sampled_from(["u", "v"]), st.sampled_from(["a", "b", "c"]), st.integers(0, 30)
requests = st.tuples(st.sampled_from(["r0", "r1", "r2"]), users, seconds, st.lists(items, max_size=4))
acts = st.tuples(users, st.sampled_from(["a", "b", "d"]), st.sampled_from(["click", "buy", "look"]), st.integers(0, 45))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(requests, min_size=1, max_size=5), min_size=1, max_size=3),
    st.lists(acts, max_size=12),
    st.integers(0, 45),
    st.sampled_from([(), ("s0",), ("s1",)]),
)
def test_every_label_is_that_of_plain_loops(tmp_path_factory, files, behaviours, until, services):
    home = tmp_path_factory.mktemp("site")
    flags = [flag for service in services for flag in ("--service", service)]
    code, rows = run(home, files, behaviours, until, *flags)
    assert code == 0
    assert plain(rows) == oracle(files, behaviours, ("click", "buy"), until, services)


def test_the_rule_by_example(tmp_path, capsys):
    files = [[("r1", "u", 5, ["a", "b", "a"])], [("r0", "u", 0, ["a"]), ("r2", "v", 25, ["a"])]]
    behaviours = [
        ("u", "a", "click", 5),  # at the very time of r1, so it follows r0
        ("u", "b", "buy", 15),  # at the very end of the window
        ("u", "b", "click", 16),  # after it
        ("v", "a", "look", 26),  # not an action that counts
    ]
    code, rows = run(tmp_path, files, behaviours, 30, actions=("click", "buy"))
    found = {(r["request_id"], r["item_id"]): r["label"] for r in rows}
    assert (code, found) == (0, {("r1", "a"): 0.0, ("r1", "b"): 1.0, ("r0", "a"): 1.0})
    said = capsys.readouterr().out
    assert "3 from 3 requests, 2 labelled 1" in said and "1 whose window ends after --until, 1 repeated" in said
    assert "behaviours: 2 of 3 follow a served item" in said


def test_of_a_request_that_came_again_only_the_last_was_seen(tmp_path, capsys):
    files = [[("r1", "u", 5, ["a", "b"]), ("r1", "v", 1, ["a", "b"])], [("r1", "u", 3, ["a", "c"]), ("r1", "u", 4, ["a"])]]
    code, rows = run(tmp_path, files, [("u", "a", "click", 6)], 30)
    # The request of one item is of another service.
    found = [(r["user_id"], micros(r["event_timestamp"]) - START, r["item_id"], r["label"]) for r in rows]
    assert code == 0 and found == [
        ("u", 5 * SECOND, "a", 1.0), ("u", 5 * SECOND, "b", 0.0), ("v", SECOND, "a", 0.0), ("v", SECOND, "b", 0.0),
        ("u", 4 * SECOND, "a", 0.0),
    ]  # fmt: skip
    assert "5 from 3 requests" in (said := capsys.readouterr().out) and "1 requests repeated later" in said


def test_requests_stay_together_and_what_a_set_needs_is_there(tmp_path):
    files = [[(f"r{n}", "u", n, ["a", "b", "c"]) for n in range(5)]]
    _, rows = run(tmp_path, files, [], 100)
    assert [r["request_id"] for r in rows] == [f"r{n}" for n in range(5) for _ in range(3)]
    assert [r["position"] for r in rows] == [0, 1, 2] * 5
    schema = pq.read_schema(tmp_path / "impressions.parquet")
    assert [schema.field(f.name).type for f in schemas.IMPRESSIONS] == [f.type for f in schemas.IMPRESSIONS]


def test_nothing_and_no_candidate(tmp_path):
    assert run(tmp_path, [[]], [], 30) == (0, [])
    assert run(tmp_path, [[("r", "u", 1, [])]], [("u", "a", "click", 2)], 30) == (0, [])


def test_what_cannot_be_used_is_rejected_and_the_rest_is_written(tmp_path):
    files = [[("r0", "no user!", 1, ["a"]), ("r1", "u", 1, ["a", "no item!", "b"]), (None, "u", 1, ["a"]), ("r2", "u", 1, [])]]
    behaviours = [("u", "a", "", 2), ("u", "b", "click", 2)]
    code, rows = run(tmp_path, files, behaviours, 30)
    assert code == 3 and [(r["item_id"], r["position"], r["label"]) for r in rows] == [("a", 0, 0.0), ("b", 2, 1.0)]
    rejects = pq.read_table(tmp_path / "rejects" / "impressions.parquet").to_pylist()
    assert sorted((r["reason"], r["row"]) for r in rejects) == [
        ("bad_action", 0), ("invalid_id", 0), ("invalid_id", 1), ("no_id", 2),
    ]  # fmt: skip


def test_a_dry_run_writes_nothing_and_wrong_files_fail(tmp_path, capsys):
    files = [[("r", "u", 1, ["a"])]]
    code, rows = run(tmp_path, files, [("u", "a", "click", 2)], 30, "--dry-run")
    assert (code, rows) == (0, None) and "1 from 1 requests, 1 labelled 1: would be written" in capsys.readouterr().out
    assert run(tmp_path, files, [], 30, "--out", str(tmp_path))[0] == 1
    assert "expected a Parquet file to write, got a folder" in capsys.readouterr().err
    assert run(tmp_path, files, [], 30, "--log", str(tmp_path / "behaviours.parquet"))[0] == 1
    assert "expected columns" in capsys.readouterr().err
    for span in ("1 day", "999999999d", "36501d"):
        with pytest.raises(SystemExit) as ended:
            run(tmp_path, files, [], 30, "--within", span)
        assert ended.value.code == 2
