from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from encoders.item import Item
from encoders.lexical import main
from encoders.runtime import Encoder
from encoders.tokenizer import Tokenizer, TokenizerConfig
from encoders.training.purchase_factors import fit_map, purchase_factors
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
    assert cosines[same].mean() > cosines[~same].mean() + 0.2
    assert json.loads((out / "manifest.json").read_text())["training_cutoff"] == "2020-02-01"
    assert main([*command, "--cutoff", "2019-01-01"]) == 1
    assert "expected" in capsys.readouterr().err
