"""From a model to its artifact: the served encoder is the trained model, and says how good it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from encoders import Item  # noqa: E402
from encoders.artifact import Preprocessing  # noqa: E402
from encoders.config import ModelConfig  # noqa: E402
from encoders.data import DataSet, read_data_set  # noqa: E402
from encoders.terms import TermTable, WeightConfig  # noqa: E402
from encoders.tokenizer import Tokenizer, TokenizerConfig  # noqa: E402
from encoders.towers import Moon  # noqa: E402
from encoders.training.publish import Publisher, table  # noqa: E402
from encoders.training.samples import sample_items, sample_pixels  # noqa: E402
from moontide import EmbeddingSpace  # noqa: E402

pytestmark = pytest.mark.e2e


@dataclass
class Bare:
    """What a publisher needs of a recipe."""

    model: Moon
    tokenizer: Tokenizer
    preprocessing: Preprocessing


@pytest.fixture
def recipe() -> Bare:
    torch.manual_seed(0)
    terms = TermTable.build(np.array([3, 9], np.uint32), np.array([5.0, 4.0]))
    tokenizer = Tokenizer(TokenizerConfig(buckets=256, weights=WeightConfig()), terms)
    model = Moon(ModelConfig(dim=16, prefix_dims=(8,), backbone="scratch", side=32, buckets=256)).eval()
    return Bare(model, tokenizer, Preprocessing(height=32, width=32))


@pytest.fixture
def shop(tmp_path: Path, make_image: Callable[..., bytes]) -> DataSet:
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    lines = ["item_id,group,title,images"]
    for at in range(40):
        picture = f"images/{at}.jpg" if at % 4 else ""
        lines.append(f"i{at},g{at},{f'mug number {at}' if at % 5 else ''},{picture}")
        (folder / "images" / f"{at}.jpg").write_bytes(make_image(at))
    (folder / "items.csv").write_text("\n".join(lines))
    return read_data_set(folder, cutoff=None, licensed=False)


def test_what_is_served_is_what_was_trained_and_is_compared(tmp_path: Path, recipe: Bare, shop: DataSet) -> None:
    said: list[str] = []
    publisher = Publisher(recipe, EmbeddingSpace("moon", 9, 16), threads=1)  # type: ignore[arg-type]
    files = publisher.export(recipe.model, [shop], said.append)
    encoder = publisher.save(files, tmp_path / "moon", training_cutoff="2011-07-01")
    publisher.compare(tmp_path / "moon", [shop], said.append)
    items = [Item(str(at), title=title) for at, title in enumerate(("red mug", "a blue mug with stars", "x"))]
    ids, kinds, weights = recipe.tokenizer(items).padded_weighted(np.arange(3))
    with torch.no_grad():
        text = recipe.model.text(torch.from_numpy(ids).long(), torch.from_numpy(kinds).long(), torch.from_numpy(weights))
        expected = recipe.model.fuse(None, text).numpy()
    got = encoder.encode(items).to_float()
    assert (got * expected).sum(axis=1) / np.linalg.norm(got, axis=1) == pytest.approx(np.ones(3), abs=2e-3)
    body = json.loads((tmp_path / "moon" / "manifest.json").read_text())
    assert body["training_cutoff"] == "2011-07-01" and body["space"]["version"] == 9
    assert body["variants"]["int8"]["items"] > 0
    assert "cosine with torch" in said[0] and any(line.startswith("int8: ") for line in said)


def test_the_table_has_both_models_beside_each_other(recipe: Bare, shop: DataSet) -> None:
    publisher = Publisher(recipe, EmbeddingSpace("moon", 9, 16), threads=1)  # type: ignore[arg-type]
    files = publisher.export(recipe.model, [], lambda _: None)
    metrics = publisher.measure({"trained": files, "untrained": files}, [shop], lambda _: None)
    assert metrics["test"]["trained"] == metrics["test"]["untrained"] != {}
    for line in table(metrics).splitlines():
        value, before = line.split()[3], line.partition("(untrained ")[2].rstrip(")")
        assert line.split()[2] == "queries" or value == before


def test_samples_are_of_their_split_and_of_every_form(shop: DataSet) -> None:
    pixels = sample_pixels([shop], 32, 5)
    assert pixels.shape == (5, 32, 32, 3) and pixels.dtype == np.uint8
    assert sample_pixels([], 32, 5).shape == (0, 32, 32, 3)
    items = sample_items([shop], "train", 20)
    forms = {(item.title is not None, item.image is not None) for item in items}
    assert forms == {(True, True), (True, False), (False, True)}
    train = {shop.examples[row].item.item_id for row in shop.rows("train")}
    assert {item.item_id for item in items} <= train and len(items) <= 20
    assert sample_items([shop], "train", 0) == []
