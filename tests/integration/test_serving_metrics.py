"""Metrics of several processes on one page."""

import os
import subprocess
import sys

import pytest

from serving.http.metrics import Metrics, MultiProcessCollector
from serving.http.metrics_files import forget

pytestmark = pytest.mark.integration

SEEN = """
import sys
from pathlib import Path
from serving.http.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.shared("moontide_serving_table_rows", "Rows", "space").labels("moon_v1").set(float(sys.argv[2]))
print(metrics.render()[0].decode())
"""


def process(folder, script, *arguments):
    """What a process that keeps its values in `folder` prints, and its process id."""
    command, environment = [sys.executable, "-c", script, str(folder), *arguments], {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    page, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return page, child.pid


def test_what_all_workers_see_is_as_the_last_of_them_saw_it(tmp_path):
    pages = [process(tmp_path, SEEN, value)[0] for value in ("inf", "6", "1")]
    lines = [line for line in pages[-1].splitlines() if line.startswith("moontide_serving_table_rows{")]
    assert lines == ['moontide_serving_table_rows{space="moon_v1"} 1.0']


COUNTED = """
import sys
from pathlib import Path
from serving.http.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
for seconds in sys.argv[2:]:
    metrics.answered("/v1/features", 200, float(seconds))
print(metrics.render()[0].decode())
"""
REQUESTS = 'moontide_serving_requests_total{route="/v1/features",status="200"}'
SECONDS = "moontide_serving_request_seconds"


def values(page):
    lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_what_workers_that_ended_counted_stays_in_one_file_a_kind(tmp_path):
    sizes = []
    for count in range(1, 4):
        page, pid = process(tmp_path, COUNTED, "0.25", "0.002")
        forget(tmp_path, pid)
        sizes.append({file.name: file.stat().st_size for file in tmp_path.iterdir()})
        found = values(page)
        assert found[REQUESTS] == 2 * count
        assert found[SECONDS + '_sum{route="/v1/features"}'] == pytest.approx(0.252 * count)
        assert [found[f'{SECONDS}_bucket{{le="{le}",route="/v1/features"}}'] for le in ("0.0015", "0.002", "0.25", "+Inf")] == [
            0, count, 2 * count, 2 * count,
        ]  # fmt: skip
    assert sizes[0] == sizes[1] == sizes[2] and set(sizes[0]) == {"counter_gone.db", "histogram_gone.db"}
    assert values(Metrics(tmp_path).render()[0].decode())[REQUESTS] == 6


def test_nothing_is_folded_while_it_is_read(tmp_path, monkeypatch):
    pids, really, seen = [process(tmp_path, COUNTED, "0.25")[1] for _ in range(2)], MultiProcessCollector.collect, []
    forget(tmp_path, pids[0])

    def collect(collector):
        forget(tmp_path, pids[1])
        seen.append(sorted(file.name for file in tmp_path.glob("counter*")))
        return really(collector)

    monkeypatch.setattr(MultiProcessCollector, "collect", collect)
    assert values(Metrics(tmp_path).render()[0].decode())[REQUESTS] == 2
    assert seen and all(each == [f"counter_{pids[1]}.db", "counter_gone.db"] for each in seen)
    monkeypatch.undo()
    forget(tmp_path, pids[1])
    assert [file.name for file in tmp_path.glob("counter*")] == ["counter_gone.db"]
    assert values(Metrics(tmp_path).render()[0].decode())[REQUESTS] == 2


@pytest.mark.parametrize("content", [b"", b"\xff\0\0\0", b"\1"])
def test_a_file_that_was_cut_short_ends_nobody_and_takes_no_count_away(tmp_path, content):
    _, pid = process(tmp_path, COUNTED, "0.25")
    forget(tmp_path, pid)
    (tmp_path / "counter_1.db").write_bytes(content)
    forget(tmp_path, 1)
    (tmp_path / "counter_1.db").unlink(missing_ok=True)
    assert values(Metrics(tmp_path).render()[0].decode())[REQUESTS] == 1
