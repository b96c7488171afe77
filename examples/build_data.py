"""How `examples/data/` was made: python examples/build_data.py --source DIR [--out examples/data].

DIR holds three public data sets, each in a folder of its own:

* ``online_retail/transactions.parquet`` (columns InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice,
  CustomerID) and ``items.csv`` (one row per StockCode: title, median_price, first_seen, is_product);
* ``luma/items.csv`` (item_id, title, color, material, pattern, style, main_category, price, description, main_image) and images;
* ``clothing/items.csv`` (image_id, sender_id, label) and ``images/<image_id>.jpg``.

The result follows `docs/reference/data-layout.md`. It depends on the input alone: the same input gives the same rows and
photos. Licences and attribution are in `examples/data/README.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moontide import schemas

CLOTHING_PHOTOS = 600
UNLABELLED = {"Not sure", "Other", "Skip"}
IMPRESSION_REQUESTS = 400
CANDIDATES = 8
LABELLED_FROM = pd.Timestamp("2011-10-01", tz="UTC")
OPENED = pd.Timestamp("2010-12-01", tz="UTC")
SHARE_OF_POPULARITY = 0.75


def main(argv: Sequence[str] | None = None) -> int:
    """Build the folder; returns 0."""
    parser = argparse.ArgumentParser(description="Build examples/data from the three public data sets.")
    parser.add_argument("--source", type=Path, required=True, help="folder with online_retail/, luma/ and clothing/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="default: examples/data")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    retail = retail_items(args.source / "online_retail")
    luma = luma_items(args.source / "luma", args.out)
    clothing = clothing_items(args.source / "clothing", args.out)
    catalog = pd.concat([retail, luma, clothing], ignore_index=True)
    behaviours = purchases(args.source / "online_retail", set(retail["item_id"]))
    write(catalog, schemas.CATALOG, args.out / "catalog.parquet")
    write(behaviours, schemas.BEHAVIOURS, args.out / "behaviours.parquet")
    write(impressions(behaviours), schemas.IMPRESSIONS, args.out / "impressions.parquet")
    return 0


def retail_items(folder: Path) -> pd.DataFrame:
    """Text only. Codes that differ in letter case are one product; its title is that of the code sold most often.

    An item enters the catalog with the month of its first sale.
    """
    table = pd.read_csv(folder / "items.csv", dtype={"StockCode": str})
    table = table[table["is_product"] & table["title"].notna()]
    table = table.assign(code=table["StockCode"].str.upper()).sort_values(["code", "n_lines"], ascending=[True, False])
    first = pd.to_datetime(table.groupby("code")["first_seen"].min()).dt.to_period("M").dt.start_time
    table = table.drop_duplicates("code").set_index("code").sort_index()
    return stamped(
        pd.DataFrame(
            {
                "item_id": "or:" + table.index,
                "title": [" ".join(title.split()) for title in table["title"]],
                "category": "Gift ware",
                "price": table["median_price"].to_numpy(),
                "event_timestamp": first.loc[table.index].to_numpy(),
            }
        ).assign(event_timestamp=lambda frame: frame["event_timestamp"].dt.tz_localize("UTC"))
    )


def luma_items(folder: Path, out: Path) -> pd.DataFrame:
    """Image and text: one row per parent and colour, with its main photo."""
    table = pd.read_csv(folder / "items.csv", keep_default_na=False).sort_values("item_id")
    table = table.map(lambda value: html.unescape(value) if isinstance(value, str) else value)
    leaves = [path.rpartition("/")[2] for path in table["main_category"]]
    parts = zip(table["color"], table["material"], table["pattern"], table["style"], leaves, strict=True)
    images = [copy_photo(folder / name, out, "luma") if name else None for name in table["main_image"]]
    return stamped(
        pd.DataFrame(
            {
                "item_id": "lu:" + table["item_id"],
                "title": table["title"],
                "description": table["description"],
                "attributes": ["; ".join(part.replace("|", ", ") for part in row if part) for row in parts],
                "image": images,
                "category": leaves,
                "price": pd.to_numeric(table["price"], errors="coerce"),
                "event_timestamp": OPENED,
            }
        )
    )


def clothing_items(folder: Path, out: Path) -> pd.DataFrame:
    """Image only: photos in turn from every label, and within a label in turn from every sender."""
    table = pd.read_csv(folder / "items.csv")
    table = table[~table["label"].isin(UNLABELLED)]
    table = table.assign(key=[hashlib.sha256(i.encode()).hexdigest() for i in table["image_id"]]).sort_values("key")
    table = table.assign(turn=table.groupby(["label", "sender_id"]).cumcount()).sort_values(["label", "turn", "key"])
    table = table.assign(turn=table.groupby("label").cumcount()).sort_values(["turn", "label"])
    table = table.head(CLOTHING_PHOTOS).sort_values("image_id")
    images = [copy_photo(folder / "images" / f"{image}.jpg", out, "clothing") for image in table["image_id"]]
    frame = {"item_id": "cl:" + table["image_id"], "image": images, "category": table["label"], "event_timestamp": OPENED}
    return stamped(pd.DataFrame(frame))


def copy_photo(source: Path, out: Path, name: str) -> str:
    """Copy a photo into the example folder; returns its path as the catalog names it."""
    target = out / "images" / name / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return str(target.relative_to(out))


def stamped(frame: pd.DataFrame) -> pd.DataFrame:
    """With the time an item entered the catalog, in seconds, as its version."""
    seconds = (frame["event_timestamp"] - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    return frame.assign(source_version=seconds, deleted=False).reset_index(drop=True)


def purchases(folder: Path, known: set[str]) -> pd.DataFrame:
    """Purchases of known customers; no cancellations, returns, duplicates or lines that are no product."""
    table = pd.read_parquet(folder / "transactions.parquet")
    kept = table["CustomerID"].notna() & ~table["InvoiceNo"].str.startswith("C") & (table["Quantity"] > 0)
    table = table[kept]
    frame = pd.DataFrame(
        {
            "user_id": "u:" + table["CustomerID"].astype("int64").astype(str),
            "item_id": "or:" + table["StockCode"].str.upper(),
            "action": "purchase",
            "event_timestamp": table["InvoiceDate"].dt.tz_localize("UTC"),
        }
    )
    frame = frame[frame["item_id"].isin(known)].drop_duplicates()
    return frame.sort_values(["user_id", "event_timestamp", "item_id"], ignore_index=True)


def impressions(behaviours: pd.DataFrame) -> pd.DataFrame:
    """Requests just before a real basket of October 2011: one bought item, the others sampled by popularity (label 0).

    The data has purchases only, so what was shown and not bought is not known: these negatives are made up.
    """
    random = np.random.default_rng(7)
    later = behaviours[behaviours["event_timestamp"] >= LABELLED_FROM]
    history = behaviours[behaviours["event_timestamp"] < LABELLED_FROM].groupby("user_id").size()
    baskets = (
        later[later["user_id"].isin(history[history >= 10].index)].groupby(["user_id", "event_timestamp"])["item_id"].agg(list)
    )
    baskets = baskets.sort_index().sample(IMPRESSION_REQUESTS, random_state=7).sort_index()
    weights = behaviours.groupby("item_id").size() ** SHARE_OF_POPULARITY
    rows = []
    for number, ((user, bought_at), basket) in enumerate(baskets.items()):
        pool = weights.drop(labels=basket, errors="ignore")
        sampled = random.choice(pool.index.to_numpy(), CANDIDATES - 1, replace=False, p=(pool / pool.sum()).to_numpy())
        shown = [(str(random.choice(basket)), 1.0), *((item, 0.0) for item in sampled)]
        random.shuffle(shown)
        asked_at = bought_at - pd.Timedelta(seconds=30)
        rows += [(user, item, asked_at, label, f"r{number:04d}") for item, label in shown]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "event_timestamp", "label", "request_id"])


def write(frame: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """One Parquet file with the columns of `schema` that the frame has."""
    fields = pa.schema([field for field in schema if field.name in frame])
    table = pa.Table.from_pandas(frame[fields.names], schema=fields, preserve_index=False).replace_schema_metadata()
    pq.write_table(table, path, compression="zstd", compression_level=15)
    sys.stdout.write(f"{path}: {table.num_rows} rows, {path.stat().st_size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    raise SystemExit(main())
