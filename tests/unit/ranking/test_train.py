from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.study.vector_file import write_vectors
from encoders.training.checkpoint import CheckpointFolder
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit.impressions import make_impressions
from moontide.pit.in_memory import from_purchases
from moontide.pit.purchases import DAY
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.spaces import EmbeddingSpace
from ranking.config import FitConfig, ModelConfig, RankingConfig, load_config
from ranking.evaluation import headline
from ranking.examples import make_examples
from ranking.export import restore
from ranking.fingerprint import fingerprint
from ranking.fit import Trial, fit, score
from ranking.groups import batches, groups_of
from ranking.models.base import Sizes
from ranking.run_file import read_run
from ranking.spaces import shuffled, with_tiers, with_vectors
from ranking.splits import DEFAULT_DAYS, split
from ranking.stages import make_stage, new_model
from ranking.train import main
from tests.unit.ranking.purchases_world import purchases_of, random_purchases, write_shop

pytestmark = pytest.mark.unit

SPACE = EmbeddingSpace("toy", 1, 8)
SMALL = RankingConfig(sizes=Sizes(8, 8, (8, 4), 0.1), fit=FitConfig(epochs=2, groups=8, candidates=8))


def vectors_of(ids, seed=0):
    return Embeddings.from_float(SPACE, np.random.default_rng(seed).normal(size=(len(ids), 8)), ids=ids)


def examples_of(purchases=None, length=5, vectors=True, variant="all", baskets=400):
    purchases = purchases or random_purchases(baskets=baskets)
    data = from_purchases(purchases, make_impressions(purchases, variant=variant, seed=0), length, None)
    if vectors:
        data = with_vectors(data, vectors_of(purchases.item_ids[:-3]))
    return make_examples(data, split(data), length=length)


def trial_of(examples, seed=0):
    return Trial(examples, seed, lambda _: None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40).map(sorted), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_every_row_is_in_one_group_of_its_request(requests, size, count, shuffle):
    request = np.array(requests, np.int64)
    rows = np.flatnonzero(request % 3 != 1)
    order = np.random.default_rng(0) if shuffle else None
    groups = groups_of(request, rows, size, order)
    assert sorted(groups[groups >= 0].tolist()) == rows.tolist()
    for group in groups:
        there = group[group >= 0]
        assert len(there) > 0
        assert len(set(request[there].tolist())) == 1
        assert (group[: len(there)] >= 0).all()
    for of in set(request[rows].tolist()):
        expected = -(-int((request[rows] == of).sum()) // size)
        assert len({tuple(g) for g in groups.tolist() if request[g[0]] == of}) == expected
    lengths = np.arange(len(groups))[::-1].copy()
    found = [tuple(g) for part in batches(groups, lengths, count, order) for g in part.tolist()]
    assert sorted(found) == sorted(tuple(g) for g in groups.tolist())
    assert all(len(part) <= count for part in batches(groups, lengths, count, order))


def test_a_batch_is_what_the_set_says():
    examples = examples_of(length=3)
    data = examples.data
    rows = examples.split.train[:40]
    groups = groups_of(data.request, rows, 4)
    batch = examples.batch(groups)
    for g, group in enumerate(groups):
        request = data.request[group[0]]
        seen = data.history_items[data.history_offsets[request] : data.history_offsets[request + 1]][-3:]
        assert batch.history[g][batch.present[g]].tolist() == (seen + 1).tolist()
        assert (batch.history[g][~batch.present[g]] == 0).all()
        for k, row in enumerate(group):
            assert bool(batch.valid[g, k]) == (row >= 0)
            if row >= 0:
                assert batch.item[g, k] == data.item[row] + 1
                assert batch.vector[g, k] == data.vector[row] + 1
                assert batch.label[g, k] == data.label[row]


def test_tiers_of_a_shorter_history_are_the_definitions():
    examples = with_tiers(examples_of(length=3), 10)
    data, vectors = examples.data, examples.data.vectors
    spec = SimTierSpec("toy_v1", tiers=10, length=3)
    for request in np.unique(data.request)[:40]:
        rows = np.flatnonzero(data.request == request)
        history = slice(
            max(data.history_offsets[request], data.history_offsets[request + 1] - 3), data.history_offsets[request + 1]
        )
        expected = reference_tier_counts(
            _taken(vectors, data.vector[rows], data.item[rows]),
            _taken(vectors, data.history_vectors[history], data.history_items[history]),
            spec,
        )
        assert examples.counts[rows, :-1].tolist() == expected.counts.tolist()
        assert examples.counts[rows, -1].tolist() == expected.missing.tolist()


def _taken(vectors, rows, items):
    taken = vectors.take(np.maximum(rows, 0))
    return replace(taken, present=taken.present & (rows >= 0), ids=tuple(map(str, items.tolist())))


def test_shuffled_vectors_are_the_same_vectors_of_other_items():
    data = examples_of().data
    other = shuffled(data, 1)
    assert sorted(map(bytes, other.vectors.codes)) == sorted(map(bytes, data.vectors.codes))
    assert (other.vectors.codes != data.vectors.codes).any()
    assert (other.vector == data.vector).all()


def test_a_set_too_short_and_labels_that_are_not_there_are_refused():
    data = replace(examples_of().data, card={"length": 5})
    with pytest.raises(Misconfigured, match="at most 5"):
        make_examples(data, split(data), length=6)
    with pytest.raises(Misconfigured, match="labels"):
        make_examples(data, split(data), length=5, labels=["paid"])
    with pytest.raises(Misconfigured, match="none"):
        with_vectors(data, vectors_of(["somewhere", "else"]))


@pytest.mark.parametrize("value", [-1, 0.5, 2, np.inf, -np.inf, np.nan])
def test_a_primary_label_other_than_0_and_1_is_refused(value):
    data = replace(examples_of().data, label_row=np.arange(len(examples_of().data)) + 100)
    label = data.label.copy()
    label[[3, 8]] = value
    with pytest.raises(
        Misconfigured, match=f"label: expected labels 0 or 1, got {value:g} in label_row 103, one of 2 such of {len(data)}"
    ):
        make_examples(replace(data, label=label), split(data), length=5)


@pytest.mark.parametrize("value", [-0.5, 1.5, np.inf, -np.inf])
def test_a_further_label_is_a_share_or_null(value):
    data = examples_of().data
    clicked = np.full(len(data), 0.25, np.float32)
    clicked[4] = np.nan
    data = replace(data, labels={"clicked": clicked})
    assert np.isnan(make_examples(data, split(data), length=5, labels=["clicked"]).labels[4])
    clicked[5] = value
    with pytest.raises(Misconfigured, match=f"clicked: expected labels 0 to 1, or null, got {value:g} in label_row 5"):
        make_examples(data, split(data), length=5, labels=["clicked"])
    make_examples(data, split(data), length=5)


def test_a_model_of_several_labels_learns_from_labels_that_are_partly_null():
    data = examples_of(baskets=80).data
    clicked = np.where(np.arange(len(data)) % 7, data.label, np.nan).astype(np.float32)
    data = replace(data, labels={"clicked": clicked, "never": np.full(len(data), np.nan, np.float32)})
    trial = trial_of(make_examples(data, split(data), length=5, labels=["clicked", "never"]))
    fitted = fit(new_model(trial, SMALL, ModelConfig(backbone="multitask"), None), trial, SMALL.fit)
    assert np.isfinite(score(fitted.model, trial.examples, trial.examples.split.test)).all()


@pytest.mark.parametrize("chosen", [ModelConfig(), ModelConfig(sides=("make",)), ModelConfig(sides=("simtier",), tiers=4)])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, chosen):
    examples = examples_of()
    examples = with_tiers(examples, 4) if chosen.tiers else examples
    whole, parts = [], []
    for epochs, resume, into in ((2, False, whole), (1, False, []), (2, True, parts)):
        folder = None if into is whole else CheckpointFolder(tmp_path / "c", {"of": "test"}, resume=resume)
        trial = trial_of(examples)
        model = new_model(trial, SMALL, chosen, make_stage(trial, SMALL, chosen))
        fitted = fit(model, trial, replace(SMALL.fit, epochs=epochs), checkpoints=folder)
        into += [score(fitted.model, examples, examples.split.test), fitted.curve]
    assert (whole[0] == parts[0]).all()
    assert whole[1] == tuple(parts[1])


def test_log_loss_chooses_the_epoch_where_no_user_of_the_validation_days_has_both_labels():
    examples = examples_of(baskets=80)
    label = np.ones_like(examples.data.label)
    label[examples.split.validation] = 0
    examples = replace(examples, data=replace(examples.data, label=label))
    lines, config = list[str](), replace(SMALL.fit, epochs=3, patience=3)
    trial = Trial(examples, 0, lines.append)
    fitted = fit(new_model(trial, SMALL, ModelConfig(), None), trial, config)
    losses = [record["validation"]["log_loss"] for record in fitted.curve]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
    rows = examples.split.validation
    chosen = headline(label[rows], score(fitted.model, examples, rows), examples.users(rows))
    assert chosen["log_loss"] == losses[0]
    assert sum("chosen by log-loss" in line for line in lines) == 1
    assert not any("nan" in line for line in lines)


def test_vectors_that_know_the_basket_raise_gauc():
    """Items of one half are bought by one half of the users: vectors that know the half must help."""
    draw = np.random.default_rng(0)
    rows = []
    for basket in range(2_500):
        user, time = int(draw.integers(60)), int(draw.integers(120)) * DAY
        rows += [(user, int(item) * 2 + user % 2, basket, time) for item in draw.choice(400, size=3)]
    purchases = purchases_of(rows, 60, 800)
    sides = np.array([[1.0, 0.1] if at % 2 else [-1.0, 0.1] for at in range(800)])
    base = examples_of(purchases, 20, vectors=False, variant="new")
    known = with_vectors(base.data, Embeddings.from_float(EmbeddingSpace("side", 1, 2), sides, ids=purchases.item_ids))
    helped = with_tiers(replace(base, data=known), 4)
    config = replace(SMALL, fit=FitConfig(epochs=1, groups=16, candidates=8))
    gains = []
    for examples, chosen in ((base, ModelConfig()), (helped, ModelConfig(sides=("simtier",), tiers=4))):
        trial = trial_of(examples)
        fitted = fit(new_model(trial, config, chosen, None), trial, config.fit)
        rows = examples.split.test
        gains.append(headline(examples.data.label[rows], score(fitted.model, examples, rows), examples.users(rows))["gauc"])
    assert gains[1] > 0.7
    assert gains[1] > gains[0] + 0.1


def test_the_shipped_configuration_reads_and_mistakes_are_named(tmp_path):
    config = load_config("online_retail", overrides=["fit.epochs=1"])
    assert config.fit.epochs == 1
    assert set(config.compare.models) <= set(config.models)
    assert not config.model("id").reads_vectors
    assert config.digest("id") != config.digest("raw")
    pinned = load_config("online_retail", overrides=["fit.epochs=1", f"data.days={json.dumps(DEFAULT_DAYS)}"])
    assert config.data.days == load_config("served").data.days == ()
    assert (config.digest(1), config.make_digest(1)) == (pinned.digest(1), pinned.make_digest(1))
    assert config.digest(1) != load_config(
        "online_retail", overrides=['data.days=["2011-09-01", "2011-09-02", "2011-09-03"]']
    ).digest(1)
    with pytest.raises(Misconfigured, match="one of"):
        config.model("best")
    with pytest.raises(Misconfigured, match="unknown"):
        load_config("online_retail", overrides=["fit.speed=1"])


@pytest.mark.parametrize("name", sorted(load_config("online_retail").models))
def test_every_model_of_the_shipped_configuration_learns_a_step(name):
    chosen = replace(load_config("online_retail").model(name), tiers=4 if load_config("online_retail").model(name).tiers else 0)
    examples = examples_of(baskets=80)
    trial = trial_of(with_tiers(examples, 4) if chosen.tiers else examples)
    config = replace(SMALL, fit=replace(SMALL.fit, epochs=1), make=replace(SMALL.fit, epochs=1))
    fitted = fit(new_model(trial, config, chosen, make_stage(trial, config, chosen)), trial, config.fit)
    assert np.isfinite(score(fitted.model, trial.examples, trial.examples.split.test)).all()


def test_a_tiny_model_end_to_end_twice_the_same(tmp_path, capsys):
    made = write_shop(tmp_path / "shop", baskets=600)
    write_vectors(tmp_path / "v.npz", vectors_of(made.item_ids))
    sets = [
        "fit.epochs=1",
        "make.epochs=1",
        "data.variant=all",
        "sizes.hidden=[8,4]",
        "models.simtier_make.tiers=4",
    ]
    command = ["--data", str(tmp_path / "shop"), "--vectors", str(tmp_path / "v.npz"), "--length", "5", "--cache", str(tmp_path / "c"),
               *(part for value in sets for part in ("--set", value))]  # fmt: skip
    for name in ("a", "b"):
        assert main([*command, "--model", "simtier_make", "--json", str(tmp_path / name / "run.json")]) == 0
    first, again = (read_run(tmp_path / name / "run.json") for name in ("a", "b"))
    assert (first.logits == again.logits).all()
    assert first.body["test"]["whole"]["rows"] == len(first.logits) > 0
    card = first.body["card"]
    assert card["test"]["impressions"] == len(first.logits)
    assert card["test"]["positives"] == first.body["test"]["whole"]["positives"]
    assert (
        card["train"]["last"]
        < card["split"][0]
        <= card["validation"]["first"]
        <= card["validation"]["last"]
        < card["test"]["first"]
    )
    assert card["input"]["sampler"] == {"variant": "all", "negatives": 4, "window_days": 30, "seed": 7}
    assert first.body["recalibrated"] == again.body["recalibrated"]
    assert first.body["recalibrated"]["after"]["validation"]["calibration"] == pytest.approx(1.0, abs=1e-9)
    assert first.body["recalibrated"]["before"]["test"]["whole"]["log_loss"] == first.body["test"]["whole"]["log_loss"]
    assert first.body["settings"]["space"]["id"] == "toy_v1"
    assert [record["epoch"] for record in first.body["make_curve"]] == [1]
    assert main([*command, "--model", "id", "--json", str(tmp_path / "id.json"), "--save", str(tmp_path / "id.safetensors")]) == 0
    assert json.loads((tmp_path / "id.json").read_text())["settings"]["space"] is None
    assert main([*command[:2], "--model", "raw", "--json", str(tmp_path / "x.json"), *command[8:]]) == 1
    assert "--vectors" in capsys.readouterr().err


def turned(data):
    """The same labels and vectors; histories run backwards."""
    return replace(data, history_items=data.history_items[::-1].copy(), history_vectors=data.history_vectors[::-1].copy())


CHANGED = {
    "histories": turned,
    "history items": lambda data: replace(data, history_items=data.history_items[::-1].copy()),
    "times": lambda data: replace(data, request_time=data.request_time + 1),
    "labels": lambda data: replace(data, label=1 - data.label),
    "users": lambda data: replace(data, request_user=data.request_user[::-1].copy()),
    "ids": lambda data: replace(data, item_ids=("new", *data.item_ids[1:])),
    "a scalar": lambda data: replace(data, scalars={**data.scalars, "age_days": data.scalars["age_days"] + 1}),
    "vectors": lambda data: with_vectors(data, vectors_of(data.item_ids[:-3], seed=1)),
}


@pytest.mark.parametrize("what", CHANGED)
def test_the_fingerprint_follows_what_training_reads(what):
    examples = examples_of(baskets=60)
    other = CHANGED[what](examples.data)
    other = make_examples(other, replace(examples.split), length=5)
    assert fingerprint(other, vectors=True) != fingerprint(examples, vectors=True)
    assert (fingerprint(other, vectors=False) == fingerprint(examples, vectors=False)) == (what == "vectors")


def test_the_fingerprint_follows_split_and_length_and_leaves_tiers_out():
    examples = examples_of(baskets=60)
    found = fingerprint(examples, vectors=True)
    assert fingerprint(with_tiers(examples, 4), vectors=True) == found == fingerprint(examples_of(baskets=60), vectors=True)
    assert fingerprint(replace(examples, length=3), vectors=True) != found
    assert fingerprint(replace(examples, split=replace(examples.split, train=examples.split.train[1:])), vectors=True) != found


def test_the_multimodal_model_is_shared_over_tiers_and_trained_anew_for_other_histories(tmp_path):
    examples = examples_of(baskets=200)
    config, chosen, steps = replace(SMALL, make=replace(SMALL.fit, epochs=1)), ModelConfig(sides=("make",)), []
    curves = []
    for each in (examples, with_tiers(examples, 4), replace(examples, data=turned(examples.data))):
        made = make_stage(Trial(each, 0, steps.append), config, chosen, cache=tmp_path)
        curves.append(made.curve)
    assert len(steps) == 2
    assert curves[0] == curves[1] != curves[2]
    for cached in tmp_path.iterdir():
        cached.write_bytes(cached.read_bytes()[:100])
    again = [make_stage(Trial(each, 0, steps.append), config, chosen, cache=tmp_path).curve for each in (examples, examples)]
    assert (len(steps), again) == (3, [curves[0], curves[0]])


def shop_command(folder, model, *extra):
    sets = ("fit.epochs=1", "data.days=[]", "data.variant=all", "sizes.hidden=[8,4]", "models.simtier.tiers=4")
    chosen = [part for value in sets for part in ("--set", value)]
    return [str(part) for part in ("--data", folder, "--model", model, "--length", 5, *chosen, *extra)]


def test_a_checkpoint_of_other_data_or_vectors_is_refused(tmp_path, capsys):
    made = write_shop(tmp_path / "shop", baskets=200)
    write_shop(tmp_path / "other", seed=1, baskets=200)
    for seed in (1, 2):
        write_vectors(tmp_path / f"v{seed}.npz", vectors_of(made.item_ids, seed))
    out = ("--json", tmp_path / "run.json")
    for model, first, second in (
        ("id", (), ()), ("simtier", ("--vectors", tmp_path / "v1.npz"), ("--vectors", tmp_path / "v2.npz")),
    ):  # fmt: skip
        kept = ("--checkpoints", tmp_path / model)
        assert main(shop_command(tmp_path / "shop", model, *first, *kept, *out)) == 0
        assert main(shop_command(tmp_path / "shop", model, *first, *kept, *out, "--resume")) == 0
        capsys.readouterr()
        data = tmp_path / ("shop" if second else "other")
        assert main(shop_command(data, model, *second, *kept, *out, "--resume")) == 1
        assert "expected data " in capsys.readouterr().err


def test_weights_are_restored_for_the_same_items_only(tmp_path):
    write_shop(tmp_path / "shop", baskets=200)
    saved = tmp_path / "id.safetensors"
    command = shop_command(tmp_path / "shop", "id", "--json", tmp_path / "run.json", "--save", saved)
    assert main(command) == 0
    config = load_config("online_retail", overrides=[b for a, b in zip(command, command[1:], strict=False) if a == "--set"])
    assert restore(config, "id", tmp_path / "shop", saved, vectors=None, length=5)
    shutil.copytree(tmp_path / "shop", tmp_path / "renamed")
    for name, read, write in (("items.csv", pd.read_csv, "to_csv"), ("transactions.parquet", pd.read_parquet, "to_parquet")):
        table = read(tmp_path / "renamed" / name)
        table["item_id"] = "x" + table["item_id"]
        getattr(table, write)(tmp_path / "renamed" / name, index=False)
    with pytest.raises(Misconfigured, match="expected a run of"):
        restore(config, "id", tmp_path / "renamed", saved, vectors=None, length=5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--json", "a.s0"], "ends in .json"), (["--json", "run.npz"], "ends in .json"), (["--json", ".json"], "ends in .json"),
        (["--json", "a.json", "--seed", "-1"], "0 or more"), (["--json", "a.json", "--seed", str(2**64)], "0 or more"),
    ],
)  # fmt: skip
def test_names_and_seeds_that_cannot_be_are_wrong_use(tmp_path, capsys, wrong, said):
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(tmp_path), "--model", "id", *wrong])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_no_rows_score_to_nothing():
    examples = examples_of()
    torch.manual_seed(0)
    model = new_model(trial_of(examples), SMALL, ModelConfig(), None)
    assert score(model, examples, np.zeros(0, np.int64)).shape == (0,)
    one = examples.split.test[:1]
    assert score(model, examples, one).shape == (1,)
