"""Measures of the evaluation against counting by hand, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.evaluation import measures
from encoders.evaluation.health import health
from encoders.evaluation.measures import by_query, figure, run, run_with_intervals
from encoders.evaluation.probe import rightly_common, votes_right
from encoders.evaluation.tasks import RANKINGS, VOTES, Listed, Mask, SameKey, Scores, Task, Truth, blocks
from encoders.item import Item
from encoders.metrics import best_first, mean_average_precision, precision_at, recall_at
from moontide import Embeddings, EmbeddingSpace, Misconfigured

pytestmark = pytest.mark.unit

SPACE = EmbeddingSpace("moon", 1, 8)


@dataclass(frozen=True)
class Table:
    """A method that knows all its scores."""

    scores_: NDArray[np.float32]
    name: str = "table"
    reads: frozenset[str] = frozenset({"text"})

    def scores(self, task: Task) -> Scores:
        return lambda start, stop: self.scores_[start:stop]


def _task(relevant: Mask, excluded: tuple[Mask, ...], shape: tuple[int, int], asked: tuple[str, ...] = RANKINGS) -> Task:
    queries, gallery = (tuple(Item(str(at), title=f"t{at}") for at in range(count)) for count in shape)
    return Task("shop/t", Path(), queries, gallery, Truth(relevant, excluded, np.arange(shape[0])), asked)


def _random_task(rows: int, width: int) -> tuple[Task, NDArray[np.float32]]:
    random = np.random.default_rng(rows)
    keys = random.integers(5, size=width)
    own = SameKey(np.arange(rows), np.arange(width))
    return _task(SameKey(keys[:rows], keys), (own,), (rows, width)), random.normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (30, 30), (7, 300)])
@pytest.mark.parametrize("cells", [1, 64, 1 << 22])
def test_blocks_give_what_one_table_gives(monkeypatch: pytest.MonkeyPatch, rows: int, width: int, cells: int) -> None:
    task, scores = _random_task(rows, width)
    monkeypatch.setattr(measures, "blocks", lambda r, w: blocks(r, w, cells=cells))
    right, out = task.right(0, rows)
    shown = np.where(out, -np.inf, scores).astype(np.float32)
    wanted = {f"recall_at_{k}": recall_at(shown, right, k) for k in (1, 10, 50)} if right.any() else {}
    if wanted:
        wanted["precision_at_10"] = precision_at(shown, right, 10)
        wanted["map"] = mean_average_precision(shown, right)
    assert run(task, Table(scores)) == pytest.approx(wanted)


def test_best_first_takes_the_same_rows_as_a_whole_sort() -> None:
    scores = np.random.default_rng(0).permutation(2000).reshape(4, 500).astype(np.float32)
    assert (best_first(scores, 10) == np.argsort(-scores, axis=1)[:, :10]).all()
    assert best_first(scores[:0], 10).shape == (0, 10)
    assert best_first(scores, 900).shape == (4, 500)


def test_no_query_and_no_answer_give_no_figure() -> None:
    nothing = _task(Listed((), 3), (), (0, 3))
    assert run(nothing, Table(np.zeros((0, 3), np.float32))) == {}
    unanswered = _task(Listed((np.array([0]),), 3), (SameKey(np.array([0]), np.array([0, 1, 2])),), (1, 3))
    assert run_with_intervals(unanswered, Table(np.zeros((1, 3), np.float32))) == {}


def test_equal_scores_win_by_chance_not_by_the_order_of_the_file() -> None:
    count = 400
    right = Listed(tuple(np.array([at // 2]) for at in range(count)), count)
    found = run(_task(right, (), (count, count)), Table(np.zeros((count, count), np.float32)))
    assert found["recall_at_50"] == pytest.approx(50 / count, abs=0.06)


def test_what_is_not_a_number_never_wins() -> None:
    scores = np.full((2, 40), 0.5, np.float32)
    scores[:, 0] = np.nan
    found = run(_task(Listed((np.array([0]), np.array([0])), 40), (), (2, 40)), Table(scores))
    assert found == {name: 0.0 for name in RANKINGS}
    nothing = np.full((2, 2), np.nan, np.float32)
    assert run(_task(SameKey.of("ab", "ab"), (), (2, 2), VOTES), Table(nothing)) == {"accuracy": 0.0}


def test_scores_of_another_shape_and_unknown_measures_are_refused() -> None:
    task = _task(SameKey(np.zeros(2, np.int64), np.zeros(3, np.int64)), (), (2, 3))
    with pytest.raises(Misconfigured, match="shape"):
        run(task, Table(np.zeros((2, 4), np.float32)))
    with pytest.raises(Misconfigured, match="ndcg"):
        run(_task(task.truth.relevant, (), (2, 3), ("ndcg",)), Table(np.zeros((2, 3), np.float32)))
    with pytest.raises(Misconfigured, match="SameKey"):
        run(_task(Listed((np.array([0]),), 3), (), (1, 3), VOTES), Table(np.zeros((1, 3), np.float32)))


def test_the_interval_holds_the_mean_and_counts_groups_not_rows() -> None:
    values = np.repeat([0.0, 1.0] * 10, 20)
    by_group, by_row = (figure(values, groups) for groups in (np.repeat(np.arange(20), 20), np.arange(400)))
    assert by_group.value == by_row.value == 0.5
    assert by_group.low < by_row.low < 0.5 < by_row.high < by_group.high
    # Of 20 coins the mean varies by 0.112; 1.96 of it to either side.
    assert by_group.high - by_group.low == pytest.approx(2 * 1.96 * 0.112, rel=0.15)
    alone = figure(values, np.zeros(400, np.int64))
    assert alone.value == 0.5 and math.isnan(alone.low)
    assert figure(values, np.arange(400)) == by_row


def test_votes_are_weighted_by_nearness() -> None:
    values = SameKey.of(["red", "blue", "green"], ["red", "blue", "blue", "green"])
    best, scores = np.array([[0, 1, 2]] * 2), np.array([[0.9, 0.1, 0.1]] * 2, np.float32)
    # red 1 + 1, blue 1 + 1: the nearer wins.
    assert votes_right(best, scores, values, np.array([0, 1])).tolist() == [1.0, 0.0]
    flat = np.array([[0.3, 0.3, 0.3]], np.float32)
    assert votes_right(best[:1], flat, values, np.array([1])).tolist() == [1.0]
    out = np.array([[0.3, -np.inf, -np.inf]], np.float32)
    assert votes_right(best[:1], out, values, np.array([0])).tolist() == [1.0]
    assert votes_right(best[:0], scores[:0], values, np.zeros(0, np.int64)).tolist() == []
    assert rightly_common(values).tolist() == [0.0, 1.0, 0.0]


def test_accuracy_goes_through_the_same_scores() -> None:
    values = SameKey.of(["a", "b", "z"], ["a", "b", "b"])
    scores = np.array([[9, 1, 1], [9, 1, 1], [9, 1, 1]], np.float32)
    found = by_query(_task(values, (), (3, 3), VOTES), Table(scores))["accuracy"]
    assert found.tolist() == [1.0, 0.0], "nobody can name z, so it is not asked"


def test_health_of_random_equal_and_absent_vectors() -> None:
    random = np.random.default_rng(0).normal(size=(4000, 8))
    spread = health(Embeddings.from_float(SPACE, random))
    assert spread["mean_cosine"] == pytest.approx(0.0, abs=0.02)
    assert spread["effective_rank"] == pytest.approx(8.0, abs=0.05)
    assert spread["top_eigenvalue"] == pytest.approx(1 / 8, abs=0.02)
    assert (spread["absent"], spread["duplicates"], spread["dead_dims"]) == (0.0, 0.0, 0.0)
    assert spread["saturated"] >= 1 / 8
    same = health(Embeddings.from_float(SPACE, np.tile([[1.0, 0, 0, 0, 0, 0, 0, -2.0]], (5, 1))))
    assert same["mean_cosine"] == pytest.approx(1.0) and same["effective_rank"] == pytest.approx(1.0)
    assert (same["duplicates"], same["dead_dims"], same["zero_codes"]) == (0.8, 1.0, 0.75)
    assert same["norm_mean"] == pytest.approx(math.sqrt(5), rel=1e-2)
    assert health(Embeddings.absent(SPACE, 3)) == {"count": 3.0, "absent": 1.0}
    assert health(Embeddings.absent(SPACE, 0)) == {"count": 0.0, "absent": 0.0}
    assert health(Embeddings.from_float(SPACE, random[:1]))["mean_cosine"] == 1.0
