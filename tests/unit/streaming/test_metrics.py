"""What the consumer counts, and that it is documented."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from moontide.errors import Misconfigured, Poison, SpaceMismatch, Transient
from streaming.message import Message, Result, Verdict
from streaming.metrics import MOST_WORDS, Metrics

pytestmark = pytest.mark.unit


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, {k: str(v) for k, v in labels.items()})


def result(verdict, topic="item-events", reason=""):
    return Result(Message(topic, 0, 0, None, None), verdict, reason=reason)


def test_each_verdict_counts_once_and_a_dead_letter_under_its_reason():
    metrics = Metrics()
    metrics.settled([])
    metrics.settled(
        [result(Verdict.APPLIED), result(Verdict.APPLIED), result(Verdict.STALE), result(Verdict.DEAD, reason="not_json")]
    )
    metrics.settled([result(Verdict.DEAD, reason="encoder_crashed", topic="behaviour-events")])
    assert value(metrics, "moontide_events_total", topic="item-events", verdict="applied") == 2
    assert value(metrics, "moontide_events_total", topic="item-events", verdict="dead") == 1
    assert value(metrics, "moontide_events_total", topic="item-events", verdict="unchanged") is None
    assert value(metrics, "moontide_dead_letters_total", topic="item-events", reason="not_json") == 1
    assert value(metrics, "moontide_dead_letters_total", topic="behaviour-events", reason="encoder_crashed") == 1


def test_labels_cannot_grow_without_bound():
    metrics = Metrics()
    for n in range(10 * MOST_WORDS):
        metrics.settled([result(Verdict.DEAD, reason=f"payload {n}", topic=f"t{n}")])
        metrics.stage(f"stage {n}", 0.1)
        metrics.failed(f"sink {n}", Transient("x"))
    body = metrics.render()[0].decode()
    assert "payload" not in body
    assert sum(line.startswith("moontide_dead_letters_total") for line in body.splitlines()) <= MOST_WORDS + 1
    assert sum(line.startswith("moontide_sink_errors_total") for line in body.splitlines()) <= MOST_WORDS + 1
    assert value(metrics, "moontide_stage_seconds_count", stage="other") == 9 * MOST_WORDS


def test_ages_ahead_of_the_clock_count_as_zero_and_as_skew():
    metrics = Metrics()
    metrics.readable([], "item-events")
    metrics.readable([0.05, -3.0], "item-events")
    metrics.searchable([-1.0, 2.0])
    metrics.tiers([0.1])
    assert value(metrics, "moontide_event_to_readable_seconds_count", topic="item-events") == 2
    assert value(metrics, "moontide_event_to_readable_seconds_sum", topic="item-events") == pytest.approx(0.05)
    assert value(metrics, "moontide_event_to_searchable_seconds_sum") == 2
    assert value(metrics, "moontide_clock_skew_total") == 2


def test_the_targets_are_bucket_bounds():
    metrics = Metrics()
    metrics.readable([0.15, 1.0, 1.001], "item-events")
    assert value(metrics, "moontide_event_to_readable_seconds_bucket", topic="item-events", le="0.15") == 1
    assert value(metrics, "moontide_event_to_readable_seconds_bucket", topic="item-events", le="1.0") == 2


def test_a_partition_that_went_away_has_no_lag():
    metrics = Metrics()
    metrics.forget("item-events", 3)
    metrics.lag("item-events", 3, 17)
    metrics.committed("item-events", 3, 5)
    assert value(metrics, "moontide_consumer_lag_records", topic="item-events", partition=3) == 17
    metrics.forget("item-events", 3)
    assert value(metrics, "moontide_consumer_lag_records", topic="item-events", partition=3) is None
    assert value(metrics, "moontide_committed_offset", topic="item-events", partition=3) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Transient("x"), "transient"), (Poison("x"), "poison"), (SpaceMismatch("x"), "misconfigured"), (OSError("x"), "other")],
)
def test_an_error_counts_under_what_it_makes_the_consumer_do(error, kind):
    metrics = Metrics()
    metrics.failed("index", error)
    assert value(metrics, "moontide_sink_errors_total", sink="index", kind=kind) == 1
    assert isinstance(SpaceMismatch("x"), Misconfigured)


def test_one_thread_that_no_longer_waits_leaves_the_other_waiting():
    metrics = Metrics()
    metrics.waiting(None)
    metrics.waiting("online")
    other = threading.Thread(target=metrics.waiting, args=("index",))
    other.start()
    other.join()
    metrics.waiting(None)
    assert value(metrics, "moontide_sink_waiting", sink="online") == 0
    assert value(metrics, "moontide_sink_waiting", sink="index") == 1


def test_a_thread_that_waits_for_another_sink_no_longer_waits_for_the_first():
    metrics = Metrics()
    metrics.waiting("online")
    metrics.waiting("index")
    assert value(metrics, "moontide_sink_waiting", sink="online") == 0
    assert value(metrics, "moontide_sink_waiting", sink="index") == 1


def test_many_consumers_of_one_process_share_nothing():
    one, other = Metrics(), Metrics()
    one.redriven(3)
    assert value(other, "moontide_redriven_total") == 0


def filled():
    metrics = Metrics()
    metrics.settled([result(Verdict.DEAD, reason="not_json")])
    metrics.batch(0)
    metrics.encoded(1, 0.1)
    metrics.stage("parse", 0.1)
    metrics.readable([0.1], "item-events")
    metrics.searchable([0.1])
    metrics.tiers([0.1])
    metrics.lag("item-events", 0, 1)
    metrics.committed("item-events", 0, 1)
    metrics.uncommitted(1)
    metrics.gap("item-events", 1)
    metrics.left_out(1, 2)
    metrics.checkpoint(0.1)
    metrics.failed("index", Transient("x"))
    metrics.waiting("index")
    metrics.redriven(1)
    metrics.rebalance("lost")
    metrics.rebalance("nonsense")
    metrics.restarted(1)
    metrics.encoder_restarts("moon_v1", 1)
    metrics.space_info("moon_v1", "ab" * 32)
    metrics.progress(1_700_000_000_500_000)
    return metrics


def test_the_page_is_one_that_prometheus_reads():
    metrics = filled()
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["moontide_last_progress_timestamp_seconds"].samples[0].value == 1_700_000_000.5
    assert not [name for name in families if name.endswith("_created")]
    assert all(family.documentation for family in families.values())
    assert {s.labels["kind"] for s in families["moontide_rebalances"].samples} == {"lost", "other"}


ROOT = Path(__file__).parents[3]
#: What Prometheus makes of one metric.
SUFFIXES = ("_bucket", "_count", "_sum")


def exposed():
    """Name -> (kind, labels) of every metric, as a user sees it."""
    found = {}
    for family in text_string_to_metric_families(filled().render()[0].decode()):
        name = family.name + "_total" if family.type == "counter" else family.name
        found[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    return found


def test_docs_and_code_name_the_same_metrics_with_the_same_labels():
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(moontide_\w+)` \| (\w+) \|([^|]*)\|", page, re.M)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == exposed()


def named(text):
    """Metrics a query or rule names, without the suffixes of histograms."""
    names = set(re.findall(r"\bmoontide_\w+", text))
    return {next((n.removesuffix(s) for s in SUFFIXES if n.endswith(s) and n not in exposed()), n) for n in names}


def test_the_dashboard_shows_every_metric_and_no_other():
    board = json.loads((ROOT / "ops" / "grafana" / "moontide-nearline.json").read_text())
    panels = [p for p in board["panels"] if p["type"] != "row"]
    queries = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    assert named(queries) == set(exposed())
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
    assert all(p["title"] and p["description"] for p in panels)
    assert board["schemaVersion"] >= 39


def test_panels_do_not_overlap():
    board = json.loads((ROOT / "ops" / "grafana" / "moontide-nearline.json").read_text())
    cells = [
        (x, y)
        for g in (p["gridPos"] for p in board["panels"])
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_quantiles_are_asked_of_histograms_and_rates_of_counters():
    board = json.loads((ROOT / "ops" / "grafana" / "moontide-nearline.json").read_text())
    kinds = exposed()
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expr = target["expr"]
            assert expr.count("(") == expr.count(")")
            for name in re.findall(r"(?:rate|increase)\((moontide_\w+)", expr):
                assert name.endswith(SUFFIXES) or kinds[name][0] == "counter", expr
            if "histogram_quantile" in expr:
                assert "_bucket" in expr
                assert re.search(r"sum by \(le\b", expr)


def test_alerts_name_metrics_that_exist():
    text = (ROOT / "ops" / "prometheus" / "alerts.yml").read_text()
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert named(rule["expr"]) <= set(exposed()), rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]


def test_a_timed_block_counts_also_where_it_fails():
    metrics = Metrics()
    with metrics.timed("online"):
        pass
    with pytest.raises(ValueError, match="x"), metrics.timed("online"):
        raise ValueError("x")
    assert value(metrics, "moontide_stage_seconds_count", stage="online") == 2
