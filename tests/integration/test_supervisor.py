"""The parent of the server: it replaces children that end, and ends all of them with itself."""

import errno
import os
import signal
import threading
import time

import pytest

from serving import supervisor
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


def test_a_child_that_does_not_end_is_killed(tmp_path):
    when(lambda: begun(tmp_path, "stay"))
    assert Supervisor([role(tmp_path, "stay", deaf=True)], 0.2).run() == 0
    assert not os.path.exists(f"/proc/{begun(tmp_path, 'stay')[0]}")


def test_signals_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    when(lambda: begun(tmp_path, "stay"))
    Supervisor([role(tmp_path, "stay")], 5).run()
    assert signal.getsignal(signal.SIGTERM) is before
