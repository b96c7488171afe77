from __future__ import annotations

import json
import math

import numpy as np
import pytest

from moontide.errors import Misconfigured
from ranking import run_file
from ranking.evaluation import SLICES, WHOLE, evaluate, headline, slices_of
from ranking.metrics import auc, gauc, user_aucs
from ranking.run_file import TestRows, read_rows, read_run, rows_path, write_run

pytestmark = pytest.mark.unit


def ints(*values):
    return np.array(values, np.int64)


def test_new_items_have_fewer_than_ten_training_impressions():
    train = np.repeat(ints(0, 1, 2), [9, 10, 11])
    found = slices_of(ints(0, 1, 2, 3), ints(9, 9, 9, 9), train, np.zeros(len(train), np.float32))
    assert found["new_items"].tolist() == [True, False, False, True]


def test_short_histories_have_at_most_five_behaviours():
    found = slices_of(ints(0, 0, 0), ints(0, 5, 6), ints(0), np.ones(1, np.float32))
    assert found["short_histories"].tolist() == [True, True, False]


def test_the_tail_is_what_the_head_of_four_fifths_leaves():
    # Positives 50, 30, 15, 5: the first two make 80 %; negatives do not count.
    train = np.concatenate([np.repeat(ints(0, 1, 2, 3), [50, 30, 15, 5]), np.repeat(ints(3), 90)])
    labels = np.concatenate([np.ones(100), np.zeros(90)]).astype(np.float32)
    found = slices_of(ints(0, 1, 2, 3, 4), ints(9, 9, 9, 9, 9), train, labels)
    assert found["tail_items"].tolist() == [False, False, True, True, True]


def test_items_as_popular_as_the_last_of_the_head_are_in_it():
    train = np.repeat(ints(0, 1, 2, 3), [10, 2, 2, 2])
    found = slices_of(ints(0, 1, 2, 3), np.zeros(4, np.int64), train, np.ones(16, np.float32))
    assert found["tail_items"].tolist() == [False] * 4


def test_without_training_rows_or_test_rows_slices_are_there():
    nothing = np.zeros(0, np.int64)
    untrained = slices_of(ints(3), ints(0), nothing, np.zeros(0, np.float32))
    assert {name: mask.tolist() for name, mask in untrained.items()} == dict.fromkeys(SLICES, [True])
    empty = slices_of(nothing, nothing, nothing, np.zeros(0, np.float32))
    assert {name: mask.tolist() for name, mask in empty.items()} == dict.fromkeys(SLICES, [])
    no_positive = slices_of(ints(0), ints(9), np.repeat(ints(0), 20), np.zeros(20, np.float32))
    assert no_positive["tail_items"].tolist() == [True]


def drawn(rows=400, seed=0):
    draw = np.random.default_rng(seed)
    users, labels = draw.integers(20, size=rows), draw.integers(2, size=rows).astype(np.float32)
    return users, labels, (labels + draw.normal(size=rows)).astype(np.float32), draw.random(rows) < 0.3


def test_figures_of_a_slice_are_those_of_its_rows_alone():
    users, labels, logits, mask = drawn()
    found = evaluate(labels, logits, users, {"some": mask})
    assert list(found) == [WHOLE, "some"]
    assert found["some"]["gauc"] == gauc(user_aucs(users[mask], labels[mask], logits[mask]))
    assert found["some"]["auc"] == auc(labels[mask], logits[mask])
    assert (found["some"]["rows"], found["some"]["positives"]) == (mask.sum(), labels[mask].sum())
    assert {name: found[WHOLE][name] for name in ("auc", "gauc", "log_loss")} == headline(labels, logits, users)
    assert len(found[WHOLE]["segments"]) == 10


@pytest.mark.parametrize("labels", [[], [0], [1], [1, 1], [0, 0, 0]])
def test_a_slice_without_both_labels_has_no_auc_and_does_not_raise(labels):
    y = np.array(labels, np.float32)
    found = evaluate(y, np.zeros(len(y), np.float32), np.zeros(len(y), np.int64), {"none": np.zeros(len(y), bool)})
    assert math.isnan(found[WHOLE]["auc"])
    assert math.isnan(found[WHOLE]["gauc"])
    assert math.isnan(found["none"]["log_loss"])
    assert found[WHOLE]["users"] == found["none"]["rows"] == 0
    assert found["none"]["segments"] == []


def rows_of(users, labels, mask):
    return TestRows(users, np.arange(len(users)), labels, {"some": mask})


def test_a_run_comes_back_as_it_was_written_with_rows_in_one_file(tmp_path):
    users, labels, logits, mask = drawn()
    rows = rows_of(users, labels, mask)
    for name in ("a", "b"):
        write_run(tmp_path / name / "result.json", {"curve": [float("nan")]}, rows, logits, rows_folder=tmp_path)
    got = read_run(tmp_path / "a" / "result.json")
    assert got.body == {"format_version": 2, "curve": [None], "rows": {"digest": rows.digest, "count": 400}}
    assert np.array_equal(got.logits, logits)
    again = read_rows(rows_path(tmp_path, rows.digest))
    assert all(np.array_equal(again.arrays()[name], values) for name, values in rows.arrays().items())
    assert sorted(path.name for path in tmp_path.glob("**/*.*") if path.is_file()) == [
        "result.json", "result.json", "result.npz", "result.npz", f"rows-{rows.digest}.npz"
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1])
def test_a_run_of_no_row_and_of_one_row(tmp_path, count):
    rows = rows_of(np.zeros(count, np.int64), np.ones(count, np.float32), np.ones(count, bool))
    write_run(tmp_path / "run.json", {}, rows, np.zeros(count, np.float32))
    assert len(read_run(tmp_path / "run.json").logits) == count
    assert len(read_rows(rows_path(tmp_path, rows.digest)).user) == count


def test_digests_tell_rows_labels_and_slices_apart():
    users, labels, _, mask = drawn()
    flipped = mask.copy()
    flipped[3] = not flipped[3]
    digests = {rows_of(*each).digest for each in ((users, labels, mask), (users, 1 - labels, mask), (users, labels, flipped))}
    assert len(digests) == 3


def test_damaged_or_foreign_files_say_what_is_wrong(tmp_path):
    users, labels, logits, mask = drawn(10)
    rows, path = rows_of(users, labels, mask), tmp_path / "run.json"
    with pytest.raises(ValueError, match="expected"):
        write_run(path, {}, rows, logits[:3])
    with pytest.raises(Misconfigured, match="expected a run file"):
        read_run(path)
    write_run(path, {}, rows, logits)
    for damaged in (b"", b"PK no zip"):
        (tmp_path / "run.npz").write_bytes(damaged)
        with pytest.raises(Misconfigured, match=r"expected an \.npz"):
            read_run(path)
    path.write_text(json.dumps({"format_version": 1, "rows": {"count": 10}}))
    with pytest.raises(Misconfigured, match="format_version 2"):
        read_run(path)
    rows_path(tmp_path, rows.digest).rename(tmp_path / "rows-0.npz")
    with pytest.raises(Misconfigured, match="rows of that digest"):
        read_rows(tmp_path / "rows-0.npz")


def test_a_run_that_is_cut_short_leaves_no_logits_beside_another_runs_figures(tmp_path, monkeypatch):
    users, labels, logits, mask = drawn(10)
    rows, path = rows_of(users, labels, mask), tmp_path / "run.json"
    write_run(path, {"model": "first"}, rows, logits)
    monkeypatch.setattr(run_file, "write_json", lambda *_: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception):
        write_run(path, {"model": "second"}, rows, -logits)
    with pytest.raises(Misconfigured, match="expected a run file"):
        read_run(path)
