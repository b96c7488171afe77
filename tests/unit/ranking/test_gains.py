from __future__ import annotations

import json

import numpy as np
import pytest

from encoders.study.vector_file import read_vectors, write_vectors
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace
from ranking.gains import _parser, main
from tests.unit.ranking.purchases_world import write_shop

pytestmark = pytest.mark.unit

SPACE = EmbeddingSpace("toy", 1, 8)


def vectors_of(ids, seed=0):
    return Embeddings.from_float(SPACE, np.random.default_rng(seed).normal(size=(len(ids), 8)), ids=ids)


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
    assert (defaults.seeds, defaults.variant, defaults.train_impressions) == ((0, 1, 2), "new", 0)
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


def test_wrong_use_is_told(tmp_path, capsys):
    write_shop(tmp_path)
    assert main(["--data", str(tmp_path), "--features", "simtier", "--json", str(tmp_path / "out.json")]) == 1
    assert "--embeddings" in capsys.readouterr().err
    for days in (
        ["2011-02-01", "2011-01-01", "2012-01-01"],
        ["1990-01-01", "1990-01-02", "1990-01-03"],
        ["soon", "later", "never"],
    ):
        assert main(["--data", str(tmp_path), "--days", *days, "--json", str(tmp_path / "out.json")]) == 1
        assert "choose others, or none for days that fit: --days VALIDATION TEST END" in capsys.readouterr().err
    for seeds in ("0", ",", "3,-1", "1,x"):
        with pytest.raises(SystemExit) as stop:
            main(["--data", str(tmp_path), "--seeds", seeds, "--json", "x"])
        assert stop.value.code == 2
    assert _parser().parse_args(["--data", "x", "--seeds", "4,7,4", "--json", "y"]).seeds == (4, 7)
