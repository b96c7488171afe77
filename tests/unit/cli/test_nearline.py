"""The nearline part of the demo, without a broker: quantiles of a metrics page, which events are followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from moontide.cli.effects import Subjects
from moontide.cli.gather import Catalog
from moontide.cli.nearline import EVENTS, Nearline, quantile

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
INF = float("inf")


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([], 0.5, None),
        ([(0.1, 0), (INF, 0)], 0.5, None),
        ([(0.1, 10), (0.2, 10), (INF, 10)], 0.5, 0.05),
        ([(0.1, 0), (0.2, 10), (INF, 10)], 0.5, 0.15),
        ([(0.1, 5), (0.2, 10), (INF, 10)], 0.99, 0.198),
        ([(INF, 10), (0.2, 5), (0.1, 0)], 0.99, 0.2),
    ],
)
def test_quantile(buckets, share, expected):
    got = quantile(buckets, share)
    assert got == (None if expected is None else pytest.approx(expected))


def test_the_example_events_have_one_of_each_kind_that_is_followed():
    catalog = Catalog.read(ROOT / "examples" / "data")
    found = Subjects.read(ROOT / EVENTS, catalog)
    assert catalog.rows[found.changed]["title"] != found.title
    assert found.created not in catalog.rows
    assert found.deleted in catalog.rows and found.deleted != found.changed
    assert found.user.startswith("u:") and len(found.shown) >= 5


def test_broker_and_consumer_agree_on_the_address(tmp_path):
    made = Nearline.made(ROOT, tmp_path, ["env", "MOONTIDE_HOME=x"])
    assert made.environment[:2] == ("env", "MOONTIDE_HOME=x")
    assert f"MOONTIDE_KAFKA_SERVERS=127.0.0.1:{made.port}" in made.environment
    assert made.broker_command[-4:] == ("--port", str(made.port), "--data", str(tmp_path / "kafka"))
    assert made.port != made.metrics_port
