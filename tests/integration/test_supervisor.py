"""The parent of the server: it replaces children that end, and ends all of them with itself."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from moontide import Misconfigured
from serving import supervisor
from serving.site_files import find_site
from serving.supervisor import Role, Supervisor

pytestmark = pytest.mark.integration
PLACE = "tests.integration.supervised:"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(supervisor, "_GRACE", 0.5)


def role(folder, name, **arguments):
    return Role(name, PLACE + name, {"file": folder / name, **arguments})


def begun(folder, name):
    """Process ids, in the order in which they began."""
    return [int(line) for line in (folder / name).read_text().split()] if (folder / name).exists() else []


def when(condition):
    """SIGTERM to this process as soon as `condition` holds, or after a minute."""

    def watch():
        ends = time.monotonic() + 60
        while not condition() and time.monotonic() < ends:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def test_a_child_that_crashes_is_started_again_and_the_others_stay(tmp_path):
    gone = []
    when(lambda: len(begun(tmp_path, "crash")) >= 3 and begun(tmp_path, "stay"))
    assert Supervisor([role(tmp_path, "crash"), role(tmp_path, "stay")], 5, gone=gone.append).run() == 0
    assert len(begun(tmp_path, "stay")) == 1 and len(begun(tmp_path, "crash")) >= 3
    assert set(begun(tmp_path, "crash")[:3]) <= set(gone)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in begun(tmp_path, "stay"))


def test_a_killed_child_is_replaced(tmp_path):
    dead = []

    def killed():
        pids = begun(tmp_path, "stay")
        if pids and not dead:
            dead.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)
        return len(pids) == 2

    when(killed)
    assert Supervisor([role(tmp_path, "stay")], 5).run() == 0
    assert len(begun(tmp_path, "stay")) == 2


def test_a_system_without_room_for_a_process_ends_nothing(tmp_path, monkeypatch, caplog):
    tried, really = [], supervisor.SpawnProcess.start

    def start(process):
        tried.append(time.monotonic())
        if len(tried) in {2, 3}:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        really(process)

    monkeypatch.setattr(supervisor.SpawnProcess, "start", start)
    other = Role("other", PLACE + "stay", {"file": tmp_path / "other"})
    when(lambda: begun(tmp_path, "stay") and begun(tmp_path, "other"))
    assert Supervisor([role(tmp_path, "stay"), other], 5).run() == 0
    assert len(tried) == 4 and len(begun(tmp_path, "stay")) == len(begun(tmp_path, "other")) == 1
    assert tried[2] - tried[1] >= 0.1 and tried[3] - tried[2] >= 0.2
    assert caplog.text.count("other could not be started") == 2


def test_a_wrong_set_up_at_the_first_start_ends_all(tmp_path, capfd):
    assert Supervisor([role(tmp_path, "stay"), role(tmp_path, "wrong")], 5).run() == 1
    assert capfd.readouterr().err.count("serving: wrong: set-up: expected one, got none\n") == 1
    assert len(begun(tmp_path, "wrong")) == 1
    assert not any(os.path.exists(f"/proc/{pid}") for pid in begun(tmp_path, "stay"))


def test_a_set_up_found_wrong_later_is_an_end_like_any_other(tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "_LIVED", 0.3)
    when(lambda: len(begun(tmp_path, "late")) >= 2)
    assert Supervisor([role(tmp_path, "stay"), role(tmp_path, "late")], 5).run() == 0
    assert "serving: late: set-up: expected one, got none\n" in capfd.readouterr().err
    assert "ended with 1 and is started again" in caplog.text and len(begun(tmp_path, "stay")) == 1


def test_ctrl_c_reaches_the_parent_alone_and_the_port_closes_before_a_child_is_told(tmp_path):
    states = []

    def ending():
        (pid,) = begun(tmp_path, "stay")
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        states.append((lines["State"].split()[0], int(lines["SigBlk"], 16) & (1 << (signal.SIGINT - 1)) > 0))

    when(lambda: begun(tmp_path, "stay"))
    assert Supervisor([role(tmp_path, "stay")], 5, ending=ending).run() == 0
    assert states == [("S", True)]


def test_reading_a_site_ends_with_whoever_wants_it(tmp_path):
    class EndedError(Exception):
        pass

    def end(*_):
        raise EndedError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    began = time.monotonic()
    try:
        with pytest.raises(EndedError):
            find_site(tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    # Feast takes seconds to import.
    assert time.monotonic() - began < 2 and not multiprocessing.active_children()


class Crash:
    """What a process that reads it does not survive."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_crash_of_what_reads_a_site_is_a_line(tmp_path):
    with pytest.raises(Misconfigured, match="got a crash"):
        find_site(Crash())


def test_a_child_that_does_not_end_is_killed(tmp_path):
    when(lambda: begun(tmp_path, "stay"))
    assert Supervisor([role(tmp_path, "stay", deaf=True)], 0.2).run() == 0
    assert not os.path.exists(f"/proc/{begun(tmp_path, 'stay')[0]}")


def test_signals_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    when(lambda: begun(tmp_path, "stay"))
    Supervisor([role(tmp_path, "stay")], 5).run()
    assert signal.getsignal(signal.SIGTERM) is before
