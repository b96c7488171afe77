"""Training data from folders of CSV and images: `docs/reference/training-data.md` describes the layout."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from encoders.images import ImageLoader, decode
from encoders.item import Item
from encoders.seen import key_of, sample_of
from encoders.sources import SOURCES
from encoders.tables import ALIASES, ATTRIBUTE_COLUMNS, column, read_text_table
from encoders.transactions import BASKET_SIZES, Baskets, baskets, read_log, title_variants
from moontide.errors import Misconfigured

__all__ = ["ALIASES", "ATTRIBUTE_COLUMNS", "BASKET_SIZES", "SPLIT_SHARES", "UNKNOWN_LABELS", "Baskets", "DataSet",
           "Example", "read_data_set", "split_of"]  # fmt: skip

UNKNOWN_LABELS: Final = frozenset({"Not sure", "Other", "Skip"})
SPLIT_SHARES: Final = (("train", 0.65), ("val", 0.10), ("test", 0.25))
# 85123A and 85123B are one product; letters without a number before them are a name.
_VARIANT: Final = re.compile(r"(?<=[0-9])[A-Za-z]+$")
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Example:
    """One item: `images` are paths below its data set's folder; `group` never spans two splits.

    `values` are the attribute columns that are not empty. `product` is the same for the colours and sizes of one
    product: a group that is not a sender, else the item id. `row` is its row of ``items.csv``, from 0.
    """

    item: Item
    group: str
    label: str | None
    images: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    product: str = ""
    row: int = 0


@dataclass(frozen=True, slots=True)
class DataSet:
    """A folder's content. `variants` are (row, other title) pairs of one item; `source` names licence and attribution, and keeps
    a `sample` of the items' hashes (`encoders.seen`).

    `skipped` counts the rows left out, by reason.
    """

    folder: Path
    examples: tuple[Example, ...]
    variants: tuple[tuple[int, str], ...]
    baskets: Baskets | None
    source: dict[str, Any]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Folder name."""
        return self.folder.name

    def rows(self, split: str) -> list[int]:
        """Rows of ``train``, ``val`` or ``test``, or of ``all``."""
        return [row for row, example in enumerate(self.examples) if split in ("all", split_of(example.group))]

    def pixels(self, name: str, side: int) -> NDArray[np.uint8]:
        """(side, side, 3) uint8 of an image of this folder."""
        return decode(ImageLoader(root=self.folder).read(name), (side, side))


def split_of(group: str) -> str:
    """``train``, ``val`` or ``test``, by a hash of the group: stable when the data grows."""
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    share = int.from_bytes(digest, "little") / 2**64
    for name, part in SPLIT_SHARES:
        if share < part:
            return name
        share -= part
    return SPLIT_SHARES[-1][0]


def read_data_set(folder: Path, *, cutoff: str | None, licensed: bool = True) -> DataSet:
    """Read ``items.csv`` and, where there is one, ``transactions.parquet`` of days before `cutoff`.

    Args:
        folder: the data set.
        cutoff: a day; later sales, and items first sold later, are left out.
        licensed: require ``dataset.json``, as training does; measuring needs none.

    Raises:
        Misconfigured: no items.csv, one that cannot be read, no item id in it, or no licence.
    """
    folder = Path(os.path.abspath(folder))
    path = folder / "items.csv"
    if not path.is_file():
        raise Misconfigured(f"{folder}: expected items.csv; see docs/reference/training-data.md")
    table = read_text_table(path)
    if column(table, "item_id") is None:
        raise Misconfigured(f"{path}: expected a column item_id, got {list(table.columns)}")
    table, skipped = _sound_rows(table)
    log = read_log(folder, cutoff)
    if log is not None and cutoff is not None:
        table = table[table[_name_of(table, "item_id")].isin(set(log["item_id"]))]
    examples = tuple(_examples(table, folder))
    source = _source(folder, licensed=licensed)
    source["sample"] = sample_of(key_of(example.item, example.label) for example in examples)
    if log is None:
        return DataSet(folder, examples, (), None, source, skipped)
    rows = {example.item.item_id: row for row, example in enumerate(examples)}
    variants = tuple(title_variants(log, [example.item.title for example in examples], rows))
    return DataSet(folder, examples, variants, baskets(log, rows), source, skipped)


def _name_of(table: pd.DataFrame, name: str) -> str:
    return next(alias for alias in ALIASES[name] if alias in table)


def _sound_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """Rows that are products with an id of their own, and how many others there are of each kind."""
    skipped: Counter[str] = Counter()
    if "is_product" in table:
        product = table["is_product"].str.strip().str.lower().isin(("true", "1"))
        skipped["not_a_product"] = int((~product).sum())
        table = table[product]
    # Written back: an id with white space left around it would meet none of its sales and pictures.
    table = table.assign(**{(name := _name_of(table, "item_id")): table[name].str.strip()})
    ids = table[name]
    skipped["no_item_id"] = int((ids == "").sum())
    table, ids = table[ids != ""], ids[ids != ""]
    skipped["duplicate_item_id"] = int(ids.duplicated().sum())
    return table[~ids.duplicated()], {reason: count for reason, count in skipped.items() if count}


def _examples(table: pd.DataFrame, folder: Path) -> Iterator[Example]:
    names = ("item_id", "group", "title", "description", "label", "images", "product")
    columns = {name: column(table, name) for name in names}
    lists = {name: [""] * len(table) if values is None else values.tolist() for name, values in columns.items()}
    attributes = [name for name in ATTRIBUTE_COLUMNS if name in table]
    values = table[attributes].to_dict("records") if attributes else [{}] * len(table)
    whole = table["attributes"].tolist() if "attributes" in table else None
    default, file_rows = _default_images(folder), table.index.tolist()
    for row, item_id in enumerate(lists["item_id"]):
        title, description = lists["title"][row].strip() or None, lists["description"][row].strip() or None
        images = tuple(part.strip() for part in lists["images"][row].split(";") if part.strip())
        if not images and item_id in default:
            images = (default[item_id],)
        group = lists["group"][row] or _VARIANT.sub("", item_id)
        known = {name: value for name, value in values[row].items() if value}
        described = "; ".join(value.rpartition("/")[2] for value in known.values()) if whole is None else whole[row]
        item = Item(item_id, title, description, described or None)
        product = lists["product"][row] or item_id
        yield Example(item, f"{folder.name}/{group}", lists["label"][row] or None, images, known, product, file_rows[row])


def _default_images(folder: Path) -> dict[str, str]:
    """``images/<item_id>.jpg`` and the like, by item id; an id with a slash is in a folder below."""
    place = folder / "images"
    if not place.is_dir():
        return {}
    paths = (path.relative_to(place).as_posix() for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    found = sorted(paths)
    return {name.rpartition(".")[0]: f"images/{name}" for name in found}


def _source(folder: Path, *, licensed: bool) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        described = json.loads(path.read_text("utf-8")) if path.is_file() else SOURCES.get(folder.name)
    except ValueError as error:
        raise Misconfigured(f"{path}: expected a JSON object in UTF-8; {str(error)[:200]}") from error
    if described is None and licensed:
        raise Misconfigured(f"{folder}: expected dataset.json with licence and attribution; provenance is part of an encoder")
    if not isinstance(described or {}, dict):
        raise Misconfigured(f"{path}: expected a JSON object, got {type(described).__name__}")
    return {"name": folder.name, **(described or {})}
