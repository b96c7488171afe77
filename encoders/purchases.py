"""Sales of known customers from a data folder, as arrays in time order, and the products they are of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from encoders.tables import column, read_table, read_text_table
from encoders.transactions import read_log
from moontide import schemas
from moontide.errors import Misconfigured
from moontide.pit.purchases import DAY, Purchases

USER_COLUMNS: Final = ("user_id", "CustomerID")
_ZERO_IS_NOBODY: Final = "CustomerID"


def read_purchases(folder: Path) -> Purchases:
    """Read ``transactions.parquet`` and ``items.csv``.

    A basket is the sales of one user under one basket id with no more than a day between one and the next; a sale without a
    basket id is in the basket of its user and time.

    Left out: cancellations and returns, rows without a customer, items that are no product or not in ``items.csv``, rows
    without a time, and repeats of (user, item, time), exact duplicates among them.

    Raises:
        Misconfigured: a file or column is missing, or nothing is left.
    """
    path = folder / "transactions.parquet"
    log = read_log(folder, None, titles=False)
    if log is None:
        raise Misconfigured(f"{path}: expected a log of sales, got no file; see docs/reference/training-data.md")
    table = read_table(path)
    names = [name for name in USER_COLUMNS if name in table]
    if not names:
        raise Misconfigured(f"{path}: expected a column of {list(USER_COLUMNS)}, got {list(table.columns)}")
    left_out = {"cancellation": len(table) - len(log)}
    log = log.assign(user_id=_ids(table[names[0]].loc[log.index], zero_is_nobody=names[0] == _ZERO_IS_NOBODY))
    products = _products(folder)
    for reason in ("no_customer", "no_time", "no_product", "repeat"):
        chosen = log[~_out(log, reason, products)]
        left_out[reason], log = len(log) - len(chosen), chosen
    if log.empty:
        raise Misconfigured(f"{path}: expected sales of known customers, got none; left out: {left_out}")
    return _arrays(log, left_out)


def read_catalog(folder: Path, *, known: int | None = None) -> pa.Table:
    """The products of ``items.csv`` as rows of `schemas.CATALOG`, with titles and median prices, in the order of the file.

    Args:
        folder: the shop's.
        known: microseconds UTC from when on all of it was true; None: each product from its first sale on.

    Raises:
        Misconfigured: a file or column is missing.
    """
    items = read_text_table(folder / "items.csv")
    for name in ("StockCode", "title", "median_price", "first_seen", "is_product"):
        if name not in items:
            raise Misconfigured(f"{folder / 'items.csv'}: expected a column {name!r}, got {list(items.columns)}")
    items = items[items["is_product"].str.lower() == "true"]
    first = pa.array(items["first_seen"].tolist()).cast(pa.timestamp("us")).cast(pa.int64())
    since = first if known is None else pa.array(np.full(len(items), known))
    columns = {
        "item_id": pa.array(items["StockCode"].str.strip().tolist(), pa.string()),
        "title": pa.array(items["title"].tolist(), pa.string()),
        "price": pa.array(items["median_price"].astype(float).tolist(), pa.float64()),
        "source_version": pc.divide(since, 1_000_000), "event_timestamp": since.cast(schemas.TIMESTAMP),
    }  # fmt: skip
    made = [columns.get(field.name, pa.nulls(len(items), field.type)).cast(field.type) for field in schemas.CATALOG]
    return pa.table(made, schema=schemas.CATALOG)


def _out(log: pd.DataFrame, reason: str, products: set[str]) -> pd.Series:
    """Rows to be left out for one reason."""
    if reason == "no_customer":
        return log["user_id"] == ""
    if reason == "no_time":
        return log["event_timestamp"].isna()
    if reason == "no_product":
        return ~log["item_id"].isin(products)
    return log.duplicated(["user_id", "item_id", "event_timestamp"])


def _arrays(log: pd.DataFrame, left_out: Mapping[str, int]) -> Purchases:
    user_ids, user = np.unique(log["user_id"].to_numpy(str), return_inverse=True)
    item_ids, item = np.unique(log["item_id"].to_numpy(str), return_inverse=True)
    time = pd.DatetimeIndex(pd.to_datetime(log["event_timestamp"], utc=True)).as_unit("us").asi8
    basket = _baskets(user, log["basket_id"], time)
    order = np.lexsort((item, user, time))
    return Purchases(
        user[order].astype(np.int64), item[order].astype(np.int64), basket[order], time[order],
        tuple(user_ids.tolist()), tuple(item_ids.tolist()), left_out,
    )  # fmt: skip


def _baskets(user: NDArray[np.int64], ids: pd.Series, time: NDArray[np.int64]) -> NDArray[np.int64]:
    """(P,) number of the basket of each of P sales."""
    named = ids.astype("string").fillna("").to_numpy(str)
    unnamed = np.char.strip(named) == ""
    own_time = np.where(unnamed, time, -1)
    keys = (own_time, np.unique(np.where(unnamed, "", named), return_inverse=True)[1], user)
    order = np.lexsort((time, *keys))
    begins = np.ones(len(order), bool)
    begins[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    # Counters that start anew give one id to sales of other days.
    begins[1:] |= np.diff(time[order]) > DAY
    basket = np.empty(len(order), np.int64)
    basket[order] = np.cumsum(begins) - 1
    return basket


def _ids(values: pd.Series, *, zero_is_nobody: bool) -> pd.Series:
    """Ids as strings; empty for a missing one, and for a number of 0 or below where that means nobody."""
    if pd.api.types.is_numeric_dtype(values):
        known = values.notna() & ((values > 0) | (not zero_is_nobody))
        return values.where(known, 0).astype("int64").astype(str).where(known, "")
    return values.astype("string").fillna("").str.strip().astype(str)


def _products(folder: Path) -> set[str]:
    path = folder / "items.csv"
    if not path.is_file():
        raise Misconfigured(f"{folder}: expected items.csv; see docs/reference/training-data.md")
    table = read_text_table(path)
    ids = column(table, "item_id")
    if ids is None:
        raise Misconfigured(f"{path}: expected a column item_id, got {list(table.columns)}")
    if "is_product" in table:
        ids = ids[table["is_product"].str.lower().isin(("true", "1"))]
    return set(ids.str.strip()) - {""}
