"""The small shared parts: progress, rejects, masters, errors from executors, chunks of pairs, the zip, the flags."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import (
    _index,
    backfill_embeddings,
    compact_log,
    impressions,
    package,
    parity_audit,
    simtier_backfill,
    training_set,
    user_sequences,
)
from jobs._cli import Exit, run
from jobs._progress import Progress, progress_line
from jobs._rejects import Rejected, RejectFile
from jobs._simtier import CHUNK, chunks_of, cross
from jobs._spark import default_partitions, from_spark, is_local, require_reachable
from moontide import schemas
from moontide.errors import Misconfigured, Poison, SpaceMismatch, Transient
from moontide.settings import Settings

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
PROGRAMS = [
    backfill_embeddings,
    compact_log,
    impressions,
    package,
    parity_audit,
    simtier_backfill,
    training_set,
    user_sequences,
]


def test_progress_line_says_done_rate_and_time_left():
    assert progress_line("encode", 1_200, 10_000, 3.0) == "encode: 1,200/10,000 (12 %), 400 items/s, 22 s left"
    assert progress_line("load", 0, 10, 0.0) == "load: 0/10 (0 %), 0 items/s"
    assert progress_line("load", 0, 0, 1.0) == "load: 0/0 (100 %), 0 items/s"
    assert progress_line("load", 1, 10_001, 1.0).endswith("3 h 46 min left") is False
    assert progress_line("load", 1, 10_001, 1.0).endswith("2 h 46 min left")


def test_progress_prints_the_end_but_not_of_a_failure(capsys):
    with Progress("a", 2, lambda: 2):
        pass
    assert "a: 2/2 (100 %)" in capsys.readouterr().err
    with pytest.raises(RuntimeError), Progress("b", 2, lambda: 1):
        raise RuntimeError
    assert capsys.readouterr().err == ""


def test_no_rejects_no_file_and_an_old_one_goes(tmp_path):
    path = tmp_path / "deep" / "r.parquet"
    file = RejectFile(path, at_us=1)
    file.add([Rejected("f", 3, None, "no_id", "d")])
    assert file.close() == 1
    assert pq.read_table(path).schema == schemas.REJECTS
    assert RejectFile(path, at_us=1).close() == 0
    assert not path.exists()


def test_many_rejects_are_written_in_chunks(tmp_path):
    file = RejectFile(tmp_path / "r.parquet", at_us=5)
    file.add(Rejected("f", n, f"i{n}", "no_id", "d") for n in range(2 * RejectFile.CHUNK + 1))
    assert file.close() == 2 * RejectFile.CHUNK + 1
    assert pq.read_table(tmp_path / "r.parquet")["row"].to_pylist() == list(range(2 * RejectFile.CHUNK + 1))


@pytest.mark.parametrize(
    ("master", "local"),
    [
        ("local", True),
        ("local[2]", True),
        ("local[*]", True),
        ("local-cluster[2,1,1024]", False),
        ("yarn", False),
        ("spark://h:7077", False),
    ],
)
def test_embedded_stores_are_refused_beside_executors_elsewhere(master, local, tmp_path):
    assert is_local(master) == local
    embedded = Settings(home=tmp_path, online="lmdb")
    lite = Settings(home=tmp_path, online="redis")
    served = Settings(home=tmp_path, online="redis", index_uri="http://127.0.0.1:19530")
    require_reachable(served, master, index=True)
    require_reachable(lite, master, index=False)
    for settings, index in ((embedded, False), (lite, True)):
        if local:
            require_reachable(settings, master, index=index)
        else:
            with pytest.raises(Misconfigured, match="every machine reaches"):
                require_reachable(settings, master, index=index)


@pytest.mark.parametrize("kind", [Misconfigured, Transient, Poison, SpaceMismatch])
def test_an_error_of_an_executor_comes_back_as_itself(kind):
    text = (
        "An exception was thrown from the Python worker. Please see the stack trace below.\nTraceback (most recent call last):\n"
        f'  File "x.py", line 3, in f\n    raise Odd("y")\nmoontide.errors.{kind.__name__}: expected a, got b; do c\n'
    )
    error = from_spark(text)
    assert type(error) is kind
    assert str(error) == "expected a, got b; do c"


def test_any_other_error_of_an_executor_is_one_line():
    error = from_spark("Job aborted:\nTraceback\nZeroDivisionError: division by zero\n")
    assert isinstance(error, Transient)
    assert "ZeroDivisionError: division by zero" in str(error)
    assert "\n" not in str(error)
    assert isinstance(from_spark("no traceback at all"), Transient)


def test_expected_failures_are_one_line_and_one(capsys):
    def fail():
        raise Misconfigured("expected a,\n got b")

    assert run(fail) == 1
    assert capsys.readouterr().err == "error: expected a, got b\n"
    assert run(lambda: Exit.REJECTED) == 3


def test_a_dead_connection_is_tried_again_and_then_reported(monkeypatch, capsys):
    pauses, failures = [], [Transient("gone"), Transient("gone")]

    def once(settings, space):
        if failures:
            raise failures.pop()
        return "done"

    monkeypatch.setattr(_index, "_once", once)
    assert _index.index_space(None, None, sleep=pauses.append) == "done"
    assert pauses == [1.0, 5.0]
    failures.extend([Transient("gone")] * 9)
    with pytest.raises(Transient):
        _index.index_space(None, None, sleep=pauses.append)
    assert len(failures) == 5
    assert "gone; again in 1 s" in capsys.readouterr().err


def test_default_partitions():
    assert default_partitions(0, 2) == 2
    assert default_partitions(100_000, 2) == 50
    assert default_partitions(1_000_000, 2) == 200
    assert default_partitions(100_000_000, 2) == 2_000


ids = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(ids, ids), max_size=30))
def test_chunks_hold_every_pair_once(pairs):
    import pyarrow as pa

    batch = pa.RecordBatch.from_pydict(
        {"user_id": pa.array([u for u, _ in pairs], pa.string()), "item_id": pa.array([i for _, i in pairs], pa.string())}
    )
    got = [(u, i) for chunk in chunks_of(batch) for u, items in chunk.items() for i in items]
    assert sorted(got) == sorted(set(pairs))


@pytest.mark.parametrize(("users", "items"), [(0, 5), (3, 0), (1, 1), (2, CHUNK), (2, CHUNK + 1), (CHUNK + 1, 1), (5, 1_500)])
def test_cross_holds_every_pair_in_bounded_chunks(users, items):
    chunks = list(cross((f"u{n}" for n in range(users)), [f"i{n}" for n in range(items)]))
    assert all(sum(map(len, c.values())) <= CHUNK for c in chunks)
    got = [(u, i) for c in chunks for u, part in c.items() for i in part]
    assert len(got) == len(set(got)) == users * items


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_0_and_unknown_flags_are_2(program, capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(["--help"])
    assert stopped.value.code == 0
    with pytest.raises(SystemExit) as stopped:
        program.main(["--no-such-flag"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "flags",
    [
        ["--snapshot-time", "yesterday"],
        ["--snapshot-time", "2026-01-01T00:00:00"],
        ["--encoder", "stub"],
        ["--encoder", "real:3"],
        ["--batch-size", "0"],
        ["--partitions", "-1"],
    ],
)
def test_wrong_flags_of_the_backfill_are_2(flags):
    with pytest.raises(SystemExit) as stopped:
        backfill_embeddings.main(["--catalog", "x", "--space", "y", *flags])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "flags", [[], ["--users", "u"], ["--pairs", "p", "--users", "u", "--candidates", "c"], ["--candidates", "c"]]
)
def test_simtier_wants_pairs_or_users_with_candidates(flags):
    with pytest.raises(SystemExit) as stopped:
        simtier_backfill.main(["--spec", "s", *flags])
    assert stopped.value.code == 2


def test_no_spaces_file_is_one_line(tmp_path, capsys):
    assert backfill_embeddings.main(["--home", str(tmp_path), "--catalog", "x", "--space", "y"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: live spaces: expected a file")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_zip_is_whole_reproducible_and_enough_to_import(tmp_path):
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    assert package.build(ROOT, first) == package.build(ROOT, second) > 50
    assert first.read_bytes() == second.read_bytes()
    code = (
        f"import sys; sys.path.insert(0, {str(first)!r}); import moontide, encoders, serving, jobs._encode, jobs._load; "
        "print(all('a.zip' in m.__file__ for m in (moontide, encoders, serving, jobs._encode)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match="run this from a checkout"):
        package.build(tmp_path, tmp_path / "x.zip")
