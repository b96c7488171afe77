"""The request log of a server that runs for long: files by rows and by time, bounded memory, and a disk that fails or hangs."""

import threading
import time
from random import Random

import pyarrow.parquet as pq
import pytest

from moontide.errors import Misconfigured, Transient
from moontide.live import load_spaces
from moontide.request_log import REQUEST_LOG
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.offline_files import FileTree
from serving import request_log
from serving.request_log import Limits, RequestLog, log_row, read_served

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000
DAY = 86_400_000_000
TOML = """
[[space]]
name = "moon"
version = 1
dim = 4
[[simtier]]
space = "moon_v1"
[[service]]
name = "bare"
space = "moon_v1"
simtier = "moon_v1_n20_l50_drop"
item_fields = []
"""


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    """A service and one request of it: two unknown candidates."""
    home = tmp_path_factory.mktemp("site")
    (home / "spaces.toml").write_text(TOML)
    live = load_spaces(home / "spaces.toml")
    store = online_store(Settings(home=home, online="memory"))
    service = live.service("bare")
    return service, read_served(store, service, "u", ["a", "b"])


@pytest.fixture
def log(tmp_path):
    """Makes logs, and closes them."""
    made = []

    def make(**limits):
        made.append(RequestLog(tmp_path / "log", rate=1.0, random=Random(1), clock=lambda: NOW, limits=Limits(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def files(tmp_path):
    return sorted((tmp_path / "log").rglob("date=*/*.parquet"))


def ids(tmp_path):
    return sorted(i for p in files(tmp_path) for i in pq.read_table(p, partitioning=None)["request_id"].to_pylist())


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def test_nothing_and_one(log, tmp_path, request_):
    log().close()
    assert not (tmp_path / "log").exists()
    one = log()
    one.add(*request_, NOW, "r")
    one.close()
    assert (ids(tmp_path), one.written, one.lost) == (["r"], 1, 0)
    assert pq.read_schema(files(tmp_path)[0]).equals(REQUEST_LOG)


def test_a_full_file_is_written_at_once_and_days_lie_apart(log, tmp_path, request_):
    made = log(rows=3, seconds=3_600)
    for n in range(5):
        made.add(*request_, NOW + DAY * (n == 1), f"r{n}")
    until(lambda: made.written == 3)
    assert ids(tmp_path) == ["r0", "r1", "r2"]
    assert sorted(p.parent.name for p in files(tmp_path)) == ["date=2023-11-14", "date=2023-11-15"]
    made.flush()
    assert (len(ids(tmp_path)), made.written) == (5, 5)


def test_a_quiet_server_does_not_hold_a_request_for_long(log, tmp_path, request_):
    made = log(rows=100, seconds=0.05)
    made.add(*request_, NOW, "a")
    until(lambda: made.written == 1)
    made.flush()
    made.add(*request_, NOW, "b")
    until(lambda: made.written == 2)
    assert ids(tmp_path) == ["a", "b"]


def test_a_full_disk_is_counted_and_the_next_file_is_written(log, tmp_path, request_, monkeypatch, caplog):
    whole = FileTree.commit
    broken = [Transient("no space left"), RuntimeError("anything")]

    def commit(self, *args):
        if broken:
            raise broken.pop()
        return whole(self, *args)

    monkeypatch.setattr(FileTree, "commit", commit)
    made = log(rows=2)
    for n in range(6):
        made.add(*request_, NOW, f"r{n}")
        made.flush() if n % 2 else None
    assert (made.lost, made.written, ids(tmp_path)) == (4, 2, ["r4", "r5"])
    assert "2 logged requests are lost: no space left" in caplog.text and "RuntimeError" in caplog.text


def test_a_disk_that_hangs_blocks_no_request_and_fills_no_memory(log, request_, monkeypatch):
    hang, begun = threading.Event(), threading.Event()

    def commit(self, folder, name, table):
        begun.set()
        hang.wait(30)

    monkeypatch.setattr(FileTree, "commit", commit)
    monkeypatch.setattr(request_log, "PATIENCE_SECONDS", 0.05)
    row = log_row(*request_, NOW, "r0000").nbytes
    made = log(rows=1, bytes=10 * row + row // 2)
    try:
        made.add(*request_, NOW, "r0000")
        assert begun.wait(20)
        started = time.monotonic()
        for n in range(1, 50):
            made.add(*request_, NOW, f"r{n:04d}")
        assert time.monotonic() - started < 5
        # The one that is being written counts, too: ten fit.
        assert made.lost == 40
        made.close()
        assert made.lost == 49
    finally:
        hang.set()
    until(lambda: made.written == 1)


def test_a_request_that_cannot_be_a_row_costs_itself_alone(log, tmp_path, request_):
    made = log()
    made.add(*request_, NOW, "\udc80")
    made.add(*request_, NOW, "fine")
    made.close()
    assert (ids(tmp_path), made.lost) == (["fine"], 1)
    made.add(*request_, NOW, "late")
    made.close()
    assert (ids(tmp_path), made.lost) == (["fine"], 2)


def test_every_request_of_many_threads_is_in_one_file(log, tmp_path, request_):
    made = log(rows=7, seconds=0.02)

    def work(worker):
        for n in range(25):
            made.add(*request_, NOW, f"{worker}-{n:02d}")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.close()
    assert ids(tmp_path) == sorted(f"{worker}-{n:02d}" for worker in range(4) for n in range(25))
    assert (made.written, made.lost) == (100, 0)


@pytest.mark.parametrize("limits", [{"rows": 0}, {"seconds": 0}, {"bytes": 0}])
def test_limits_that_cannot_be(limits):
    with pytest.raises(Misconfigured, match="expected 1 or more rows"):
        Limits(**limits)
