from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from encoders.study.vector_file import read_vectors, write_vectors
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit.histories import histories_of
from moontide.pit.impressions import make_impressions
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.spaces import EmbeddingSpace
from ranking.din import Din, DinConfig
from ranking.examples import make_examples, with_simtier
from ranking.features import Standard, aligned, simtier
from ranking.fit import FitConfig, fit, measure, score
from ranking.splits import split
from ranking.train import _parser, main
from tests.unit.ranking.purchases_world import random_purchases, write_shop

pytestmark = pytest.mark.unit

SPACE = EmbeddingSpace("toy", 1, 8)


def vectors_of(ids, seed=0):
    return Embeddings.from_float(SPACE, np.random.default_rng(seed).normal(size=(len(ids), 8)), ids=ids)


def test_counts_are_the_kernels_of_each_request_alone():
    purchases = random_purchases(baskets=150)
    made = make_impressions(purchases, variant="all", seed=0)
    histories = histories_of(purchases, made, 5)
    vectors = vectors_of(purchases.item_ids[:-3])
    found = simtier(purchases, made, histories, vectors, tiers=10)
    catalog = aligned(vectors, purchases.item_ids)
    spec = SimTierSpec("toy_v1", tiers=10, length=5)
    assert len(found.counts) == len(made)
    for request in np.unique(made.request):
        rows = made.request == request
        history = catalog.take(histories.items[histories.start[request] : histories.stop[request]])
        expected = reference_tier_counts(catalog.take(made.item[rows]), history, spec)
        assert (found.counts[rows] == expected.counts).all()
        assert (found.missing[rows] == expected.missing).all()


def test_no_impressions_have_no_counts():
    purchases = random_purchases(baskets=3, days=2)
    made = make_impressions(purchases, variant="all", seed=0)
    assert len(made) == 0
    found = simtier(purchases, made, histories_of(purchases, made, 5), vectors_of(purchases.item_ids), tiers=4)
    assert found.counts.shape == (0, 4)


def test_examples_are_standardised_on_the_training_rows():
    purchases = random_purchases()
    made = make_impressions(purchases, variant="all", seed=0)
    parts = split(made, None, budget=None, seed=0)
    given = with_simtier(make_examples(purchases, made, parts, length=5), purchases, vectors_of(purchases.item_ids), tiers=4)
    assert given.tiers is not None
    assert given.scalars[parts.train].mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-3)
    assert given.tiers.shape == (len(made), 5)
    assert Standard.of(np.ones((4, 2), np.float32))(np.ones((4, 2), np.float32)).tolist() == [[0, 0]] * 4


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_din_ignores_padding(rows):
    torch.manual_seed(0)
    model = Din(DinConfig(items=9, scalars=2, tiers=4)).eval()
    item, history = torch.randint(9, (rows,)), torch.randint(9, (rows, 3))
    present = torch.ones(rows, 3, dtype=torch.bool)
    scalars, tiers = torch.randn(rows, 2), torch.randn(rows, 5)
    plain = model(item, history, present, scalars, tiers)
    junk = torch.randint(9, (rows, 4))
    padded = model(
        item, torch.cat([junk, history], 1), torch.cat([torch.zeros(rows, 4, dtype=torch.bool), present], 1), scalars, tiers
    )
    assert plain.shape == (rows,)
    assert torch.allclose(plain, padded, atol=1e-6)
    empty = model(item, history, torch.zeros_like(present), scalars, tiers)
    assert torch.isfinite(empty).all()
    with pytest.raises(ValueError, match="tiers"):
        model(item, history, present, scalars)


def test_vector_file_round_trip_and_faults(tmp_path):
    vectors = vectors_of(["a", "b", "c"])
    path = tmp_path / "v.npz"
    write_vectors(path, vectors)
    again = read_vectors(path)
    assert again.ids == vectors.ids
    assert again.space == vectors.space
    assert (again.codes == vectors.codes).all()
    assert (again.inv_norm == vectors.inv_norm).all()
    prefix = vectors.prefix(4)
    write_vectors(path, prefix)
    assert read_vectors(path).space == prefix.space
    write_vectors(path, vectors.with_ids(["a", "b", "a"]))
    with pytest.raises(Misconfigured, match="once"):
        read_vectors(path)
    np.savez(path, item_ids=np.array(["a"], dtype=object), codes=1, scale=1, space="{}")
    with pytest.raises(Misconfigured):
        read_vectors(path)
    path.write_bytes(b"no zip")
    with pytest.raises(Misconfigured):
        read_vectors(path)
    with pytest.raises(Misconfigured):
        read_vectors(tmp_path / "none.npz")


def test_a_tiny_shop_end_to_end_twice_the_same(tmp_path):
    made = write_shop(tmp_path / "shop", baskets=600)
    write_vectors(tmp_path / "v.npz", vectors_of(made.item_ids))
    defaults = _parser().parse_args(["--data", "x", "--json", "y"])
    assert (defaults.epochs, defaults.seeds, defaults.variant) == (FitConfig().epochs, (0, 1, 2), "new")
    command = ["--data", str(tmp_path / "shop"), "--embeddings", str(tmp_path / "v.npz"), "--features", "id", "simtier",
               "--seeds", "2", "--epochs", "1", "--length", "5", "--tiers", "4", "--variant", "all"]  # fmt: skip
    bodies = []
    for name in ("a.json", "b.json"):
        assert main([*command, "--json", str(tmp_path / name)]) == 0
        bodies.append(json.loads((tmp_path / name).read_text()))
    assert bodies[0] == bodies[1]
    body = bodies[0]
    entries = body["models"]["simtier"]
    assert [entry["seed"] for entry in entries] == [0, 1]
    assert entries[0]["gauc"] != entries[1]["gauc"]
    weights = body["users"]["impressions"]
    assert entries[0]["gauc"] == pytest.approx(np.average(entries[0]["user_auc"], weights=weights))
    found = body["differences"]["simtier - id"]
    assert found["low"] <= found["value"] <= found["high"]
    assert body["data"]["train"]["last"] < body["data"]["split"][0] <= body["data"]["validation"]["first"]


def test_vectors_that_know_the_basket_raise_gauc():
    """Items of one half are bought by one half of the users: vectors that know the half must help."""
    from moontide.pit.purchases import DAY
    from tests.unit.ranking.purchases_world import purchases_of

    draw = np.random.default_rng(0)
    rows = []
    for basket in range(2_500):
        user = int(draw.integers(60))
        time = int(draw.integers(120)) * DAY
        rows += [(user, int(item) * 2 + user % 2, basket, time) for item in draw.choice(400, size=3)]
    purchases = purchases_of(rows, 60, 800)
    made = make_impressions(purchases, variant="new", seed=0)
    base = make_examples(purchases, made, split(made, None, budget=None, seed=0), length=20)
    sides = np.array([[1.0, 0.1] if at % 2 else [-1.0, 0.1] for at in range(800)])
    helped = with_simtier(
        base, purchases, Embeddings.from_float(EmbeddingSpace("side", 1, 2), sides, ids=purchases.item_ids), tiers=4
    )
    config = FitConfig(epochs=1)
    gains = []
    for given in (base, helped):
        fitted = fit(given, config, items=800, seed=0, say=lambda _: None)
        gains.append(measure(given, given.split.test, score(fitted.model, given, given.split.test))["gauc"])
    assert gains[1] > 0.7
    assert gains[1] > gains[0] + 0.1


def test_wrong_use_is_told(tmp_path, capsys):
    write_shop(tmp_path)
    assert main(["--data", str(tmp_path), "--features", "simtier", "--json", str(tmp_path / "out.json")]) == 1
    assert "--embeddings" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), "--seeds", "0", "--json", "x"])
