"""The queue is a FIFO of rows and survives a checkpoint; the momentum copy follows its formula."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from encoders.training.momentum import MomentumCopy  # noqa: E402
from encoders.training.queue import Keys, NegativeQueue, near  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402

pytestmark = pytest.mark.unit


def _keys(first: int, count: int) -> Keys:
    ids = torch.arange(first, first + count)
    vectors = torch.stack([ids.float(), -ids.float()], dim=1) if count else torch.zeros(0, 2)
    return Keys.of(vectors, ids, labels=ids % 3, categories=ids % 5, days=ids.double() / 4, log_q=-ids.float())


@given(st.integers(0, 7), st.lists(st.integers(0, 10), max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_newest_rows_are_kept_oldest_first(size: int, counts: list[int]) -> None:
    queue, pushed = NegativeQueue(size, 2), 0
    for count in counts:
        assert queue.push(_keys(pushed, count)) == 0
        pushed += count
        rows, expected = queue.rows(), list(range(max(pushed - size, 0), pushed))
        assert rows.items.tolist() == expected and len(queue) == len(rows) == len(expected)
        assert rows.vectors.tolist() == [[x, -x] for x in expected]
        assert rows.labels.tolist() == [x % 3 for x in expected] and rows.categories.tolist() == [x % 5 for x in expected]
        assert rows.days.tolist() == [x / 4 for x in expected] and rows.log_q.tolist() == [-x for x in expected]


@given(st.integers(0, 7), st.lists(st.integers(0, 10), max_size=5), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_queue_that_slept_goes_on_bit_for_bit(size: int, counts: list[int], more: int) -> None:
    queue, other = NegativeQueue(size, 2), NegativeQueue(size, 2)
    for count in counts:
        queue.push(_keys(count, count))
    other.load_state(queue.state())
    for each in (queue, other):
        each.push(_keys(50, more))
    for name, tensor in queue.state().items():
        assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(other.state()[name])), name


def test_rows_hold_no_gradient_and_outlive_the_next_push() -> None:
    queue = NegativeQueue(2, 2)
    vectors = torch.ones(2, 2, requires_grad=True)
    queue.push(Keys.of(vectors, torch.arange(2)))
    rows = queue.rows()
    queue.push(_keys(7, 2))
    assert not rows.vectors.requires_grad and rows.items.tolist() == [0, 1]


def test_keys_that_are_not_finite_are_left_out_and_counted() -> None:
    queue = NegativeQueue(4, 2)
    vectors = torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, math.inf], [0.0, 1.0]])
    assert queue.push(Keys.of(vectors, torch.arange(4))) == 2
    assert queue.rows().items.tolist() == [0, 3]


def test_a_state_of_another_queue_is_refused() -> None:
    queue = NegativeQueue(4, 2)
    with pytest.raises(Misconfigured, match="expected the state"):
        queue.load_state(NegativeQueue(5, 2).state())
    state = {**queue.state(), "place": torch.tensor([3, 1])}
    with pytest.raises(Misconfigured, match="place"):
        queue.load_state(state)
    with pytest.raises(Misconfigured, match="model's dim"):
        queue.push(Keys.of(torch.zeros(1, 3), torch.arange(1)))
    with pytest.raises(Misconfigured, match="expected 1 items"):
        Keys.of(torch.zeros(1, 3), torch.arange(2))


def test_near_rows_share_category_and_time_or_else_all_are_seen() -> None:
    keys = Keys.of(
        torch.zeros(5, 2), torch.arange(5), categories=torch.tensor([1, 1, 1, 2, -1]), days=torch.tensor([0.0, 9.0, math.nan, 0.0, 0.0])
    )  # fmt: skip
    categories, days = torch.tensor([1, 2, 1, -1]), torch.tensor([1.0, 1.0, math.nan, 0.0])
    seen = near(keys, categories, days, window=2.0, least=2)
    assert seen.int().tolist() == [[1, 0, 1, 0, 0], [1] * 5, [1, 1, 1, 0, 0], [1] * 5]
    assert near(keys, categories, days, window=2.0, least=0)[1].tolist() == [False, False, False, True, False]
    assert near(keys, categories[:0], days[:0], window=2.0, least=2).shape == (0, 5)
    assert near(keys.take(slice(0, 0)), categories, days, window=2.0, least=2).shape == (4, 0)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_copy_follows_its_formula_and_takes_buffers_as_they_are() -> None:
    model = _model()
    model[2].weight.requires_grad_(False)
    slow = MomentumCopy(model, 0.9)
    before = slow.state()
    frozen = model[2].weight.clone()
    with torch.no_grad():
        model[0].weight += 1.0
    model(torch.randn(5, 3))
    slow.update()
    assert torch.allclose(slow.model[0].weight, before["0.weight"] + 0.1)
    assert torch.equal(slow.model[1].running_mean, model[1].running_mean) and bool(model[1].running_mean.any())
    assert int(slow.model[1].num_batches_tracked) == 1
    assert torch.equal(slow.model[2].weight, frozen)
    assert not any(parameter.requires_grad for parameter in slow.model.parameters())
    assert model[0].weight.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_of_momentum_copy_and_keep(momentum: float) -> None:
    model = _model()
    slow = MomentumCopy(model, momentum)
    first = slow.state()["0.weight"]
    with torch.no_grad():
        model[0].weight *= -3.0
    slow.update()
    assert torch.equal(slow.model[0].weight, first if momentum else model[0].weight)


def test_a_copy_that_slept_goes_on_bit_for_bit() -> None:
    model = _model()
    slow, other = MomentumCopy(model, 0.7), MomentumCopy(_model(), 0.7)
    with torch.no_grad():
        model[0].weight += 0.1
    slow.update()
    other.load_state(slow.state())
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in slow.state().items())
    with pytest.raises(Misconfigured, match=r"0\.weight"):
        other.load_state({name: tensor for name, tensor in slow.state().items() if name != "0.weight"})
    with pytest.raises(Misconfigured, match=r"0\.\.1"):
        MomentumCopy(model, 1.5)
