from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from encoders import lexical
from encoders.data import read_data_set
from encoders.item import Item
from encoders.lexical import bought_by_one, main
from encoders.runtime import Encoder
from encoders.tokenizer import Tokenizer, TokenizerConfig
from encoders.training.purchase_factors import fit_map, purchase_factors, term_directions
from encoders.transactions import Baskets
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

ADJECTIVES = [f"{c}{v}{d}ish" for c in "bdgk" for v in "aeo" for d in "lmnr"]
NOUNS = [f"{c}{v}{d}" for c in "fhpstv" for v in "iu" for d in "blt"]


def shop(seed=0, users=300):
    """Items of two kinds; a basket holds one kind, and the first word of a title tells it."""
    draw = np.random.default_rng(seed)
    titles = [f"{adjective} {noun}" for adjective in ADJECTIVES[:12] for noun in NOUNS[:12]]
    kind = np.array([ADJECTIVES.index(title.split()[0]) % 2 for title in titles])
    rows = [draw.choice(np.flatnonzero(kind == basket % 2), size=6, replace=False) for basket in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return titles, kind, Baskets(np.concatenate(rows).astype(np.int64), offsets)


def test_factors_tell_what_is_bought_together():
    titles, kind, baskets = shop()
    factors, counts = purchase_factors(baskets, len(titles), 4, seed=0)
    again, _ = purchase_factors(baskets, len(titles), 4, seed=0)
    assert (factors == again).all()
    assert counts.sum() == len(baskets.items)
    cosines = factors @ factors.T
    same = kind[:, None] == kind[None, :]
    assert cosines[same].mean() > cosines[~same].mean() + 0.3


def test_an_item_never_bought_gets_what_its_words_promise():
    titles, kind, baskets = shop()
    factors, counts = purchase_factors(baskets, len(titles), 4, seed=0)
    tokenizer = Tokenizer(TokenizerConfig(buckets=1024))
    known = np.arange(len(titles)) % 5 != 0
    fit = fit_map(tokenizer([Item("x", title=t) for t in titles]), factors * known[:, None], counts * known, 1024, seed=0)
    assert fit.table.shape == (1024, 4)
    bags = np.zeros((len(titles), 1024), np.float32)
    tokens = tokenizer([Item("x", title=t) for t in titles])
    for row in range(len(titles)):
        np.add.at(bags[row], tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]], 1.0)
    guessed = bags @ fit.table
    guessed /= np.linalg.norm(guessed, axis=1, keepdims=True)
    cosines = guessed[~known] @ guessed[known].T
    same = kind[~known][:, None] == kind[known][None, :]
    assert cosines[same].mean() > cosines[~same].mean() + 0.5


def test_directions_of_terms_are_those_of_the_exact_decomposition():
    titles, _, _ = shop()
    tokens = Tokenizer(TokenizerConfig(buckets=1024))([Item("x", title=t) for t in titles])
    bags = np.zeros((len(titles), 1024))
    for row in range(len(titles)):
        np.add.at(bags[row], tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]], 1.0)
    bags /= np.linalg.norm(bags, axis=1, keepdims=True)
    left, sizes, _ = np.linalg.svd(bags)
    root = np.sqrt(sizes[:6])
    expected = left[:, :6] * sizes[:6] * root / root.mean()
    table = term_directions(tokens, 1024, 6, seed=0)
    found = bags @ table
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)
    fresh = np.linalg.norm(table[bags.sum(axis=0) == 0], axis=1)
    assert fresh.size and np.allclose(fresh, fresh[0]) and fresh[0] > 0
    with pytest.raises(Misconfigured, match="more than 200"):
        term_directions(tokens, 1024, 200, seed=0)


def test_what_a_customer_bought_counts_once_and_before_the_cutoff_only(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{at},mug {at}\n" for at in range(5)))
    lines = [("a", 1, "i0", 1), ("b", 1, "i1", 2), ("c", 1, "i0", 3), ("d", 2, "i2", 4), ("e", 2, "i3", 9), ("f", 0, "i4", 1)]
    pd.DataFrame(
        {"basket_id": b, "CustomerID": u, "item_id": i, "title": "MUG", "event_timestamp": pd.Timestamp(2020, 1, d)}
        for b, u, i, d in lines
    ).to_parquet(tmp_path / "transactions.parquet")
    data = read_data_set(tmp_path, cutoff="2020-01-09", licensed=False)
    found = bought_by_one(data, "2020-01-09")
    ids = [data.examples[row].item.item_id for row in found.items]
    assert [ids[start:stop] for start, stop in itertools.pairwise(found.offsets)] == [["i0", "i1"], ["i2"]]


def test_too_few_sales_are_refused_and_an_item_without_company_has_no_factors():
    titles, _, baskets = shop(users=3)
    factors, counts = purchase_factors(baskets, len(titles), 4, seed=0)
    assert (factors[counts == 0] == 0).all()
    with pytest.raises(Misconfigured, match="100 items"):
        fit_map(Tokenizer(TokenizerConfig(buckets=64))([Item("x", title=t) for t in titles]), factors, counts, 64, seed=0)


def test_the_command_makes_an_artifact_that_encodes_titles(tmp_path, capsys):
    titles, kind, baskets = shop()
    folder = tmp_path / "shop"
    folder.mkdir()
    ids = [f"i{at}" for at in range(len(titles))]
    pd.DataFrame({"item_id": ids, "title": titles}).to_csv(folder / "items.csv", index=False)
    (folder / "dataset.json").write_text(json.dumps({"title": "toy", "licence": "CC0-1.0", "url": "none", "author": "nobody"}))
    basket = np.repeat(np.arange(len(baskets.offsets) - 1), np.diff(baskets.offsets))
    pd.DataFrame(
        {"basket_id": basket.astype(str), "event_timestamp": pd.Timestamp("2020-01-01"), "item_id": [ids[at] for at in baskets.items],
         "title": [titles[at] for at in baskets.items]}
    ).to_parquet(folder / "transactions.parquet")  # fmt: skip
    out = tmp_path / "out"
    command = ["--data", str(folder), "--out", str(out), "--version", "3"]
    assert main([*command, "--cutoff", "2020-02-01"]) == 0
    encoder = Encoder.load(out)
    assert encoder.space.id == "moontext_v3"
    vectors = encoder.encode([Item(i, title=t) for i, t in zip(ids, titles, strict=True)]).to_float()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    same = kind[:, None] == kind[None, :]
    cosines = vectors @ vectors.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.05
    assert json.loads((out / "manifest.json").read_text())["training_cutoff"] == "2020-02-01"
    assert main([*command, "--cutoff", "2019-01-01"]) == 1
    assert "expected" in capsys.readouterr().err


def test_a_catalog_whose_tables_do_not_fit_is_refused_before_they_are_made(tmp_path, capsys, monkeypatch):
    (tmp_path / "items.csv").write_text("item_id,title\ni1,mug\n")
    (tmp_path / "dataset.json").write_text("{}")
    data = read_data_set(tmp_path, cutoff=None)
    monkeypatch.setattr(lexical, "read_data_set", lambda folder, cutoff: replace(data, examples=data.examples * 200_000))
    monkeypatch.setattr(lexical, "machine_memory", lambda: 16_000_000_000)
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--cutoff", "2020-02-01"]) == 1
    assert "fit in 16.0 GB, got 200,000 items, which need 800.0 GB; leave out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--cutoff", "2020-13-40"], ["--seed", "-1"], ["--space", "Bad_Name"]], ids=["cutoff", "seed", "space"]
)
def test_wrong_flags_are_wrong_use(tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--cutoff", "2020-02-01", *flags])
    assert left.value.code == 2
    assert f"argument {flags[0]}: expected" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_before_the_data_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "file" / "out"), "--cutoff", "2020-02-01"]) == 1
    assert "--out" in (said := capsys.readouterr().err)
    assert "place to write" in said
