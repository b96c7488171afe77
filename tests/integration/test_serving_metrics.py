"""Metrics of several processes on one page."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

SEEN = """
import sys
from pathlib import Path
from serving.http.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.shared("moontide_serving_table_rows", "Rows", "space").labels("moon_v1").set(float(sys.argv[2]))
print(metrics.render()[0].decode())
"""


def test_what_all_workers_see_is_as_the_last_of_them_saw_it(tmp_path):
    pages = [
        subprocess.run(
            [sys.executable, "-c", SEEN, str(tmp_path), value], env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout
        for value in ("inf", "6", "1")
    ]  # fmt: skip
    lines = [line for line in pages[-1].splitlines() if line.startswith("moontide_serving_table_rows{")]
    assert lines == ['moontide_serving_table_rows{space="moon_v1"} 1.0']
