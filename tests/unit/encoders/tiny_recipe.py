"""A whole recipe on data made on the fly: photos of senders, titled pictures, titles with sales; seconds of training at most."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from encoders.config import EncoderConfig, ModelConfig, StageConfig, Switches
from encoders.data import DataSet, read_data_set
from encoders.terms import TermTable
from encoders.training import stages
from encoders.training.stages import Inputs, MoonRecipe
from moontide import schemas

WORDS = ("red", "blue", "mug", "tea", "large", "tin", "lamp", "glass")
STEPS = 6


def config(*, model: Mapping[str, Any] | None = None, stage: Mapping[str, Any] | None = None, **switches: bool) -> EncoderConfig:
    """Dim 16 on a random backbone; six steps before and six after."""
    sizes = {"steps": STEPS, "photos": 6, "illustrated": 6, "titles": 8, "behaviour": 8, "queue_size": 20, **(stage or {})}
    shape = {"dim": 16, "prefix_dims": (8,), "backbone": "scratch", "side": 32, "buckets": 256, "views": 1, **(model or {})}
    one = StageConfig(**sizes)
    return EncoderConfig("tiny", 3, ModelConfig(**shape), replace(Switches(), **switches), one, one)


def picture(seed: int, side: int = 40, *, colour: int | None = None) -> bytes:
    """A PNG; of one grey where `colour` is given."""
    random = np.random.default_rng(seed)
    rough = random.integers(0, 256, (5, 5, 3), dtype=np.uint8) if colour is None else np.full((5, 5, 3), colour, np.uint8)
    file = io.BytesIO()
    Image.fromarray(rough).resize((side, side), Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


def folder(path: Path, header: str, rows: Sequence[str], images: Mapping[str, bytes] | None = None) -> Path:
    """A data set of training."""
    (path / "images").mkdir(parents=True)
    (path / "dataset.json").write_text('{"licence": "CC0-1.0", "author": "nobody"}')
    (path / "items.csv").write_text("\n".join([header, *rows]) + "\n")
    for name, data in (images or {}).items():
        (path / "images" / name).write_bytes(data)
    return path


def photos(path: Path, count: int = 24) -> Path:
    """Photos without a title, three labels, two a sender."""
    rows = [f"p{at},s{at // 2},{('hat', 'shoe', 'coat')[at % 3]},images/{at}.png" for at in range(count)]
    return folder(path, "item_id,group,label,images", rows, {f"{at}.png": picture(at) for at in range(count)})


def illustrated(path: Path, count: int = 24) -> Path:
    """Titled pictures of two categories."""
    rows = [
        f"g{at},{title(at)},{('cups', 'lamps')[at % 2]},{WORDS[at % 8]},images/g{at}.png" for at in range(count)
    ]  # fmt: skip
    images = {f"g{at}.png": picture(100 + at) for at in range(count)}
    return folder(path, "item_id,title,main_category,color,images", rows, images)


def sales(path: Path, count: int = 40, *, columns: str = "item_id,title,main_category") -> Path:
    """Titles of two categories, and baskets of two to four."""
    rows = [f"{1000 + at},{title(at)},{('cups', 'lamps')[at % 2]}" for at in range(count)]
    folder(path, columns, rows)
    random = np.random.default_rng(1)
    lines = [
        {
            "basket_id": str(basket),
            "event_timestamp": pd.Timestamp("2024-01-01"),
            "item_id": str(1000 + item),
            "title": title(item),
        }
        for basket in range(60)
        for item in random.choice(count, size=2 + basket % 3, replace=False)
    ]
    pd.DataFrame(lines).to_parquet(path / "transactions.parquet")
    return path


def title(at: int) -> str:
    """Different for each item."""
    return f"{WORDS[at % 8]} {WORDS[(at // 8 + at) % 8]} cup n{at}"


def world(path: Path) -> list[DataSet]:
    """All three kinds of data."""
    made = (photos(path / "photos"), illustrated(path / "goods"), sales(path / "shop"))
    return [read_data_set(each, cutoff=None) for each in made]


def term_table() -> TermTable:
    """Two words; the one of training takes seconds to read."""
    return TermTable.build(np.array([5, 9], np.uint32), np.array([4.0, 6.0]))


def build(settings: EncoderConfig, data_sets: Sequence[DataSet], patch: pytest.MonkeyPatch, **inputs: Any) -> MoonRecipe:
    """The recipe, with a tiny term table."""
    patch.setattr(stages, "build_term_table", term_table)
    return stages.build(settings, Inputs(data_sets, **inputs), say=lambda _: None)


def pair_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A folder of pairs; a row names what differs from a basket pair that was bought."""
    path.mkdir(parents=True)
    plain = {
        "query_item_id": None, "query_text": None, "query_image": None, "negative_item_id": None, "kind": "basket",
        "purchased": True, "weight": 1.0, "log_q": -3.0, "category": None,
        "event_timestamp": pd.Timestamp("2024-01-01", tz="UTC"),
    }  # fmt: skip
    table = [[{**plain, **row}.get(field.name) for row in rows] for field in schemas.TRAINING_PAIRS]
    arrays = [pa.array(values, field.type) for values, field in zip(table, schemas.TRAINING_PAIRS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, names=schemas.TRAINING_PAIRS.names), path / "part-0.parquet")
    return path


def ids_of(data: DataSet, split: str) -> list[str]:
    """Item ids of a split."""
    return [data.examples[row].item.item_id for row in data.rows(split)]
