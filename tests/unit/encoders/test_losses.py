"""Losses against loops written from their formulas; nothing to learn from is a 0 that has a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from encoders import losses  # noqa: E402
from encoders.losses import info_nce_queue, supervised, supervised_queue, triplet  # noqa: E402
from encoders.towers import unit  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402

pytestmark = pytest.mark.unit

DIM = 6
SEEDS = st.integers(0, 10_000)


def _units(seed: int, rows: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return unit(torch.randn(rows, DIM, generator=random, dtype=torch.float64)).requires_grad_()


def _ids(seed: int, rows: int, kinds: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, kinds, rows))


def _lists(*parts: torch.Tensor) -> list[np.ndarray]:
    return [part.detach().numpy() for part in parts]


@given(SEEDS, st.integers(1, 6), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_info_nce_with_a_queue_is_the_formula(seed: int, rows: int, extra: int) -> None:
    q, k, queue = _units(seed, rows), _units(seed + 1, rows), _units(seed + 2, extra)
    same, ids = _ids(seed, rows), _ids(seed + 1, extra)
    log_q, queue_log_q = -_ids(seed, rows).double(), -_ids(seed + 3, extra).double()
    allowed = _ids(seed, rows * extra, 2).reshape(rows, extra).bool()
    got = info_nce_queue(
        q, k, queue, temperature=0.2, same=same, queue_ids=ids, log_q=log_q, queue_log_q=queue_log_q, allowed=allowed
    )
    a, b, c = _lists(q, k, queue)
    total = 0.0
    for n in range(rows):
        logits = {m: a[n] @ b[m] / 0.2 - log_q[m].item() for m in range(rows) if m == n or same[m] != same[n]}
        more = [a[n] @ c[m] / 0.2 - queue_log_q[m].item() for m in range(extra) if ids[m] != same[n] and allowed[n, m]]
        total += math.log(sum(math.exp(x) for x in [*logits.values(), *more])) - logits[n]
    assert got.item() == pytest.approx(total / rows, abs=1e-9)


@given(SEEDS, st.integers(1, 6), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_circle_is_the_formula(seed: int, rows: int, extra: int) -> None:
    q, k, queue = _units(seed, rows), _units(seed + 1, rows), _units(seed + 2, extra)
    same, ids = _ids(seed, rows), _ids(seed + 1, extra)
    got = losses.circle(q, k, queue, margin=0.25, scale=8.0, same=same, queue_ids=ids)
    a, b, c = _lists(q, k, queue)
    found = []
    for n in range(rows):
        cosines = [(a[n] @ b[m], same[m] == same[n]) for m in range(rows)]
        cosines += [(a[n] @ c[m], ids[m] == same[n]) for m in range(extra)]
        pulled = sum(math.exp(-8 * max(0.0, 1.25 - s) * (s - 0.75)) for s, twin in cosines if twin)
        pushed = sum(math.exp(8 * max(0.0, s + 0.25) * (s - 0.25)) for s, twin in cosines if not twin)
        if pushed:
            found.append(math.log1p(pulled * pushed))
    assert got.item() == pytest.approx(np.mean(found) if found else 0.0, abs=1e-9)


@given(SEEDS, st.integers(0, 6), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_supervised_with_a_queue_is_the_formula(seed: int, rows: int, extra: int) -> None:
    x, queue = _units(seed, rows), _units(seed + 1, extra)
    labels, names = _ids(seed, rows, 4) - 1, _ids(seed + 1, extra, 4) - 1
    got = supervised_queue(x, labels, queue, names, temperature=0.3)
    every, label = np.concatenate(_lists(x, queue)), [*labels.tolist(), *names.tolist()]
    found = []
    for n in range(rows):
        others = [m for m in range(rows + extra) if m != n and label[m] >= 0]
        positive = [m for m in others if label[m] == label[n]]
        if label[n] < 0 or not positive:
            continue
        log_sum = math.log(sum(math.exp(every[n] @ every[m] / 0.3) for m in others))
        found.append(np.mean([log_sum - every[n] @ every[m] / 0.3 for m in positive]))
    assert got.item() == pytest.approx(np.mean(found) if found else 0.0, abs=1e-9)


def test_triplet_is_the_formula() -> None:
    a, p, n = _units(0, 4), _units(1, 4), _units(2, 4)
    valid = torch.tensor([True, False, True, True])
    x, y, z = _lists(a, p, n)
    expected = np.mean([max(0.0, 0.2 - x[m] @ y[m] + x[m] @ z[m]) for m in (0, 2, 3)])
    assert triplet(a, p, n, margin=0.2, valid=valid).item() == pytest.approx(expected)
    assert triplet(a, a, -a, margin=0.2).item() == 0.0


def test_balance_is_one_when_even_and_the_number_of_experts_when_one_does_all() -> None:
    assert losses.balance(torch.eye(4)).item() == pytest.approx(1.0)
    assert losses.balance(torch.eye(4)[:1].expand(7, 4)).item() == pytest.approx(4.0)
    shares = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]], requires_grad=True)
    value = losses.balance(shares)
    assert value.item() == pytest.approx(2 * (2 / 3 * 1.4 / 3 + 1 / 3 * 1.6 / 3))
    value.backward()
    assert (shares.grad[:, 0] > shares.grad[:, 1]).all()


def test_sparsity_is_the_entropy_over_its_largest_value() -> None:
    assert losses.sparsity(torch.eye(3)).item() == pytest.approx(0.0)
    assert losses.sparsity(torch.full((2, 5), 0.2)).item() == pytest.approx(1.0)
    assert losses.sparsity(torch.ones(4, 1)).item() == 0.0
    hard = torch.tensor([[1.0, 0.0]], requires_grad=True)
    losses.sparsity(hard).backward()
    assert torch.isfinite(hard.grad).all()


def test_every_form_of_a_query_is_aligned_with_all_items_as_negatives() -> None:
    text, image, items = _units(0, 4), _units(1, 4), _units(2, 4)
    there = torch.tensor([True, True, False, True])
    none = torch.zeros(4, dtype=torch.bool)
    queries = {"t": (text, there), "i": (image, ~none), "mm": (image, none)}
    got = losses.inter_alignment(queries, items, temperature=0.2, shares={"t": 3.0})
    t, i, k = _lists(text, image, items)

    def cost(q: np.ndarray, rows: list[int]) -> float:
        return float(np.mean([np.log(np.exp(q[n] @ k.T / 0.2).sum()) - q[n] @ k[n] / 0.2 for n in rows]))

    assert got.item() == pytest.approx(0.75 * cost(t, [0, 1, 3]) + 0.25 * cost(i, [0, 1, 2, 3]))


def test_intra_alignment_leaves_out_items_of_one_modality() -> None:
    image, text = _units(0, 4), _units(1, 4)
    present = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 1]])
    rows = torch.tensor([0, 2])
    expected = losses.info_nce(image[rows], text[rows], temperature=0.2)
    assert torch.equal(losses.intra_alignment(image, text, present, temperature=0.2), expected)


def _cases() -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    zeros = partial(torch.zeros, dtype=torch.int64)
    return {
        "info_nce": lambda x, y: losses.info_nce(x, y, temperature=0.1, same=zeros(len(x))),
        "queue": lambda x, y: info_nce_queue(x, y, y[:0], temperature=0.1, same=zeros(len(x))),
        "circle": lambda x, y: losses.circle(x, y, y[:0], same=zeros(len(x)), queue_ids=zeros(0)),
        "triplet": lambda x, y: triplet(x, y, x, margin=0.2, valid=torch.zeros(len(x), dtype=torch.bool)),
        "supervised": lambda x, y: supervised(x, torch.arange(len(x)), temperature=0.1) + 0 * y.sum(),
        "unknown labels": lambda x, y: supervised(x, zeros(len(x)) - 1, temperature=0.1) + 0 * y.sum(),
        "inter": lambda x, y: losses.inter_alignment({"t": (x, zeros(len(x)).bool())}, y, temperature=0.1) + 0 * x.sum(),
        "intra": lambda x, y: losses.intra_alignment(x, y, torch.zeros(len(x), 2), temperature=0.1),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(_cases()))
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_nothing_to_learn_from_is_zero_with_a_gradient(name: str, rows: int) -> None:
    x, y = _units(0, rows), _units(1, rows)
    value = _cases()[name](x, y)
    assert value.shape == () and value.item() == 0.0
    value.backward()
    assert all(torch.count_nonzero(part.grad) == 0 for part in (x, y) if part.grad is not None)
    assert x.grad is not None


@pytest.mark.parametrize("loss", [losses.balance, losses.sparsity])
def test_experts_without_rows_cost_nothing(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    shares = torch.zeros(0, 3, requires_grad=True)
    value = loss(shares)
    value.backward()
    assert value.shape == () and value.item() == 0.0


@given(SEEDS, st.integers(1, 6), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_order_changes_nothing_and_neither_does_a_masked_row(seed: int, rows: int, extra: int) -> None:
    q, k, queue = _units(seed, rows), _units(seed + 1, rows), _units(seed + 2, extra)
    same, ids = _ids(seed, rows), _ids(seed + 1, extra)
    value = info_nce_queue(q, k, queue, temperature=0.2, same=same, queue_ids=ids)
    random = torch.Generator().manual_seed(seed)
    order, other = torch.randperm(rows, generator=random), torch.randperm(extra, generator=random)
    moved = info_nce_queue(q[order], k[order], queue[other], temperature=0.2, same=same[order], queue_ids=ids[other])
    assert moved.item() == pytest.approx(value.item(), abs=1e-9)
    allowed = torch.cat([torch.ones(rows, extra, dtype=torch.bool), torch.zeros(rows, 1, dtype=torch.bool)], dim=1)
    longer, more = torch.cat([queue, _units(seed + 9, 1)]), torch.cat([ids, torch.tensor([77])])
    masked = info_nce_queue(q, k, longer, temperature=0.2, same=same, queue_ids=more, allowed=allowed)
    assert masked.item() == pytest.approx(value.item(), abs=1e-12)
    harder = info_nce_queue(q, k, longer, temperature=0.2, same=same, queue_ids=more)
    assert harder > value


def test_gradients_are_finite_where_rows_have_no_negative() -> None:
    q, k, queue = _units(0, 3), _units(1, 3), _units(2, 2)
    same, ids = torch.tensor([4, 4, 4]), torch.tensor([4, 4])
    value = info_nce_queue(q, k, queue, temperature=0.01, same=same, queue_ids=ids)
    value = value + losses.circle(q, k, queue, same=torch.tensor([4, 4, 5]), queue_ids=ids)
    value = value + supervised_queue(q, torch.tensor([0, 1, -1]), queue, torch.tensor([1, -1]), temperature=0.01)
    value.backward()
    assert torch.isfinite(q.grad).all() and torch.isfinite(k.grad).all()


def test_ids_of_one_side_only_are_refused() -> None:
    q = _units(0, 2)
    with pytest.raises(Misconfigured, match="queue_ids"):
        info_nce_queue(q, q, q, temperature=0.1, same=torch.tensor([1, 2]))
