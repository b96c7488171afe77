"""Training data from folders of CSV and images: `docs/reference/training-data.md` describes the layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from encoders.images import ImageLoader, decode
from encoders.item import Item
from encoders.sources import SOURCES
from moontide.errors import Misconfigured

# The first name is ours; the others are those of public data sets, so that they can be read as they are published.
ALIASES: Final = {
    "item_id": ("item_id", "image_id", "StockCode"),
    "group": ("group", "parent_sku", "sender_id"),
    "title": ("title",),
    "description": ("description",),
    "label": ("label",),
    "images": ("images", "all_images"),
    "basket_id": ("basket_id", "InvoiceNo"),
    "event_timestamp": ("event_timestamp", "InvoiceDate"),
    "sold_title": ("title", "Description"),
}
ATTRIBUTE_COLUMNS: Final = ("color", "material", "pattern", "style", "main_category")
UNKNOWN_LABELS: Final = frozenset({"Not sure", "Other", "Skip"})
SPLIT_SHARES: Final = (("train", 0.65), ("val", 0.10), ("test", 0.25))
BASKET_SIZES: Final = range(2, 61)


@dataclass(frozen=True, slots=True)
class Example:
    """One item: `images` are paths below its data set's folder; `group` never spans two splits."""

    item: Item
    group: str
    label: str | None
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Baskets:
    """Items bought together before the cut-off: `items[offsets[k]:offsets[k + 1]]` are rows of the data set."""

    items: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A folder's content. `variants` are (row, other title) pairs of one item; `source` names licence and attribution."""

    folder: Path
    examples: tuple[Example, ...]
    variants: tuple[tuple[int, str], ...]
    baskets: Baskets | None
    source: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder name."""
        return self.folder.name

    def rows(self, split: str) -> list[int]:
        """Rows of ``train``, ``val`` or ``test``."""
        return [row for row, example in enumerate(self.examples) if split_of(example.group) == split]

    def pixels(self, name: str, side: int) -> NDArray[np.uint8]:
        """(side, side, 3) uint8 of an image of this folder."""
        return decode(ImageLoader(root=self.folder).read(name), (side, side))


def split_of(group: str) -> str:
    """``train``, ``val`` or ``test``, by a hash of the group: stable when the data grows."""
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "little") / 2**64
    for name, part in SPLIT_SHARES:
        if share < part:
            return name
        share -= part
    return SPLIT_SHARES[-1][0]


def read_data_set(folder: Path, *, cutoff: str | None) -> DataSet:
    """Read ``items.csv`` and, where there is one, ``transactions.parquet`` of days before `cutoff`.

    Raises:
        Misconfigured: no items.csv, or no item id in it.
    """
    path = folder / "items.csv"
    if not path.is_file():
        raise Misconfigured(f"{folder}: expected items.csv; see docs/reference/training-data.md")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    ids = _column(table, "item_id")
    if ids is None:
        raise Misconfigured(f"{path}: expected a column item_id, got {list(table.columns)}")
    if "is_product" in table:
        keep = table["is_product"].str.lower().isin(("true", "1"))
        table, ids = table[keep], ids[keep]
    log = _transactions(folder, cutoff)
    if log is not None and cutoff is not None:
        known = ids.isin(set(log["item_id"]))
        table, ids = table[known], ids[known]
    examples = tuple(_examples(table, folder))
    rows = {example.item.item_id: row for row, example in enumerate(examples)}
    variants = () if log is None else tuple(_variants(log, examples, rows))
    return DataSet(folder, examples, variants, None if log is None else _baskets(log, rows), _source(folder))


def _column(table: pd.DataFrame, name: str) -> pd.Series | None:
    for alias in ALIASES[name]:
        if alias in table:
            return table[alias]
    return None


def _examples(table: pd.DataFrame, folder: Path) -> list[Example]:
    columns = {name: _column(table, name) for name in ("item_id", "group", "title", "description", "label", "images")}
    lists = {name: [""] * len(table) if column is None else column.tolist() for name, column in columns.items()}
    attributes = _attributes(table)
    has_folder = columns["images"] is None and (folder / "images").is_dir()
    found = []
    for row, item_id in enumerate(lists["item_id"]):
        title, description = lists["title"][row].strip() or None, lists["description"][row].strip() or None
        names = tuple(part for part in lists["images"][row].split(";") if part)
        if has_folder and (folder / "images" / f"{item_id}.jpg").is_file():
            names = (f"images/{item_id}.jpg",)
        group = lists["group"][row] or item_id.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
        item = Item(item_id, title, description, attributes[row] or None)
        found.append(Example(item, f"{folder.name}/{group}", lists["label"][row] or None, names))
    return found


def _attributes(table: pd.DataFrame) -> list[str]:
    if "attributes" in table:
        return [str(value) for value in table["attributes"]]
    present = [name for name in ATTRIBUTE_COLUMNS if name in table]
    if not present:
        return [""] * len(table)
    rows = table[present].itertuples(index=False)
    return ["; ".join(value.rpartition("/")[2] for value in row if value) for row in rows]


def _transactions(folder: Path, cutoff: str | None) -> pd.DataFrame | None:
    path = folder / "transactions.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(path)
    columns = {name: _column(table, name) for name in ("basket_id", "event_timestamp", "item_id", "sold_title")}
    missing = [name for name, column in columns.items() if column is None]
    if missing:
        raise Misconfigured(f"{path}: expected columns {list(columns)}, got none for {missing}")
    log = pd.DataFrame(columns).rename(columns={"sold_title": "title"})
    log["item_id"] = log["item_id"].astype(str)
    log["title"] = log["title"].astype("string")
    sold = ~log["basket_id"].astype(str).str.startswith("C")
    if "Quantity" in table:
        sold &= table["Quantity"] > 0
    if cutoff is not None:
        sold &= log["event_timestamp"] < pd.Timestamp(cutoff)
    return log[sold]


def _variants(log: pd.DataFrame, examples: Sequence[Example], rows: dict[str, int]) -> list[tuple[int, str]]:
    """Other titles an item was sold under; stock-keepers' remarks share no letters with the title and are left out."""
    found = []
    pairs = log[["item_id", "title"]].dropna().drop_duplicates().sort_values(["item_id", "title"])
    for item_id, sold_as in pairs.itertuples(index=False):
        row = rows.get(item_id)
        title = examples[row].item.title if row is not None else None
        other = " ".join(sold_as.split())
        if row is not None and title and other.isupper() and _squash(other) != _squash(title):
            if _overlap(other, title) >= 0.3:
                found.append((row, other))
    return found


def _squash(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", " ", text.upper()).strip()


def _overlap(a: str, b: str) -> float:
    first, second = ({text[at : at + 3] for at in range(len(text) - 2)} for text in (_squash(a), _squash(b)))
    return len(first & second) / max(1, min(len(first), len(second)))


def _baskets(log: pd.DataFrame, rows: dict[str, int]) -> Baskets:
    known = log[log["item_id"].isin(rows)].drop_duplicates(["basket_id", "item_id"])
    known = known.sort_values(["basket_id", "item_id"])
    sizes = known.groupby("basket_id", sort=True)["item_id"].transform("size")
    known = known[sizes.isin(BASKET_SIZES)]
    items = known["item_id"].map(rows).to_numpy(np.int64)
    counts = known.groupby("basket_id", sort=True).size().to_numpy(np.int64)
    return Baskets(items, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))


def _source(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    described = json.loads(path.read_text("utf-8")) if path.is_file() else SOURCES.get(folder.name)
    if described is None:
        raise Misconfigured(f"{folder}: expected dataset.json with licence and attribution; provenance is part of an encoder")
    return {"name": folder.name, **described}
