"""The join benchmark at a size where it takes no time: its data, its brute force, and two of its systems."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import join
from benchmarks._join_data import NAMES, START, Size, files, make, oracle
from benchmarks._join_systems import SYSTEMS, in_label_order

pytestmark = pytest.mark.unit
TINY = Size(labels=300, rows=900, keys=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("join")
    make(folder, TINY)
    return folder


@pytest.mark.parametrize("workload", NAMES)
@pytest.mark.parametrize("system", ["moontide", "DuckDB ASOF"])
def test_the_answer_is_that_of_brute_force(data, system, workload):
    truth = oracle(data, workload)
    known = truth.rows >= 0
    present, values = in_label_order(SYSTEMS[system](data, workload, 1)(), workload, TINY.labels)
    assert np.array_equal(present[truth.labels], known)
    assert np.array_equal(values[truth.labels][known], truth.values[known])
    assert not values[~present].any()


def test_some_labels_come_before_their_item_and_some_features_late(data):
    truth = oracle(data, "codes")
    assert sorted(truth.labels) == list(range(TINY.labels))
    assert 0 < (truth.rows < 0).sum() < TINY.labels // 4
    log = pq.read_table(files(data, "codes")[1])
    event, known = (log[name].cast(pa.int64()).to_numpy() for name in ("event_timestamp", "content_known_at"))
    assert (known > event).any() and (known >= event).all() and event.min() >= START
    assert truth.late.any()


class Stub:
    """A system that answers with brute force, but for what is done to it."""

    def __init__(self, folder, name, change):
        self.name, self.log = name, "its log"
        self._folder, self._change = folder, change

    def ask(self, line):
        path = line.split(" ", 1)[1]
        present, values = in_label_order(SYSTEMS["moontide"](self._folder, "codes", 1)(), "codes", TINY.labels)
        answer = {"present": present, "values": values, "times": np.ones(TINY.labels, int), "digest": values[:, 0]}
        self._change(answer)
        np.savez(path, **(answer | {"values": answer["values"][np.load(path)["labels"]]}))
        return {"seconds": 1.0}


def lose_one(answer):
    answer["times"][5] = 0


def wrong_value(answer):
    answer["values"][answer["present"].argmax()] += 1


@pytest.mark.parametrize(
    ("system", "change", "stops"),
    [
        ("Feast dask", lose_one, False),
        ("DuckDB ASOF", lose_one, True),
        ("moontide", wrong_value, True),
        ("moontide", lambda a: None, False),
    ],
)
def test_nothing_is_timed_after_a_wrong_answer_or_a_lost_row(data, tmp_path, monkeypatch, system, change, stops):
    truth = oracle(data, "codes")
    monkeypatch.setattr(join, "oracle", lambda *_: truth)
    worker = Stub(data, system, change)
    if stops:
        with pytest.raises(SystemExit, match="nothing was timed"):
            join.check([worker], tmp_path, "codes")
    else:
        assert join.check([worker], tmp_path, "codes") == {system: "1" if change is lose_one else "0"}


def test_the_table_has_a_line_for_each_system():
    times = {"moontide": [1.0, 1.1], "DuckDB ASOF": [2.0, 2.2]}
    replies = {name: [{"seconds": each, "cpu": 1.5 * each, "peak_mb": 10.0} for each in taken] for name, taken in times.items()}
    text = join.report("codes", dict.fromkeys(times, "0"), replies, 100)
    assert "**2.00x**" in text.splitlines()[-1] and "| 3.15 |" in text.splitlines()[-1]
