"""What a shop's log of sales says of its items: other titles they were sold under, and what was bought together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from encoders.tables import ALIASES, column, read_table
from moontide.errors import Misconfigured

BASKET_SIZES: Final = range(2, 61)
#: Basket ids of cancellations, as UCI's logs of Online Retail write them; the whole id, so that ``Cart-17`` is a sale.
CANCELLATION: Final = r"C[0-9]+"


@dataclass(frozen=True, slots=True)
class Baskets:
    """Items bought together before the cut-off: `items[offsets[k]:offsets[k + 1]]` are rows of the data set."""

    items: NDArray[np.int64]
    offsets: NDArray[np.int64]


def read_log(folder: Path, cutoff: str | None, *, titles: bool = True) -> pd.DataFrame | None:
    """Sales before the day `cutoff`, or None without a ``transactions.parquet``.

    Args:
        folder: the shop's.
        cutoff: an ISO day; None: all sales.
        titles: whether the titles that items were sold under are wanted, as column ``title``; all null where the file has none.

    Returns:
        columns ``basket_id``, ``event_timestamp`` (UTC without a zone; NaT: not known), ``item_id`` (without white space around
        it) and, if wanted, ``title``; rows keep the file's numbers.

    Raises:
        Misconfigured: a column is missing, times are no times or quantities no numbers, or the file is no Parquet.
    """
    path = folder / "transactions.parquet"
    if not path.is_file():
        return None
    table = read_table(path)
    columns = {name: column(table, name) for name in ("basket_id", "event_timestamp", "item_id")}
    missing = [" or ".join(ALIASES[name]) for name, values in columns.items() if values is None]
    if missing:
        raise Misconfigured(f"{path}: expected a column {', and one '.join(missing)}, got {list(table.columns)}")
    log = pd.DataFrame(columns)
    log["item_id"] = log["item_id"].astype(str).str.strip()
    log["event_timestamp"] = _times(log["event_timestamp"], path)
    if titles:
        sold_as = column(table, "sold_title")
        log["title"] = pd.Series(pd.NA, index=log.index, dtype="string") if sold_as is None else sold_as.astype("string")
    sold = ~log["basket_id"].astype(str).str.strip().str.fullmatch(CANCELLATION)
    if "Quantity" in table:
        sold &= _quantities(table["Quantity"], path) > 0
    if cutoff is not None:
        sold &= log["event_timestamp"] < pd.Timestamp(cutoff)
    return log[sold]


def _times(values: pd.Series, path: Path) -> pd.Series:
    """UTC without a zone; what names none is UTC."""
    try:
        # One spelling only: 3/12/2011 is another day in another country.
        return pd.to_datetime(values, utc=True, format="ISO8601").dt.tz_localize(None)
    except (ValueError, TypeError, OverflowError) as error:
        raise Misconfigured(
            f"{path}: column {' or '.join(ALIASES['event_timestamp'])}: expected timestamps, dates or ISO 8601 texts of "
            f"the years 1678 to 2261, got {str(error).splitlines()[0][:100]}; write it as timestamps"
        ) from error


def _quantities(values: pd.Series, path: Path) -> pd.Series:
    try:
        return pd.to_numeric(values)
    except (ValueError, TypeError) as error:
        raise Misconfigured(
            f"{path}: column Quantity: expected numbers, got {str(error)[:100]}; write it as numbers, or leave the column out"
        ) from error


def title_variants(log: pd.DataFrame, titles: Sequence[str | None], rows: dict[str, int]) -> list[tuple[int, str]]:
    """Other titles an item was sold under; stock-keepers' remarks share no letters with the title and are left out."""
    found = []
    pairs = log[["item_id", "title"]].dropna().drop_duplicates().sort_values(["item_id", "title"])
    for item_id, sold_as in pairs.itertuples(index=False):
        row = rows.get(item_id)
        title = titles[row] if row is not None else None
        other = " ".join(sold_as.split())
        if row is not None and title and other.isupper() and _squash(other) != _squash(title):
            if _overlap(other, title) >= 0.3:
                found.append((row, other))
    return found


def baskets(log: pd.DataFrame, rows: dict[str, int]) -> Baskets:
    """Baskets of a plain size; `rows` are the data set's rows by item id."""
    known = log[log["item_id"].isin(rows)].drop_duplicates(["basket_id", "item_id"])
    known = known.sort_values(["basket_id", "item_id"])
    sizes = known.groupby("basket_id", sort=True)["item_id"].transform("size")
    known = known[sizes.isin(BASKET_SIZES)]
    items = known["item_id"].map(rows).to_numpy(np.int64)
    counts = known.groupby("basket_id", sort=True).size().to_numpy(np.int64)
    return Baskets(items, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))


def _squash(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", " ", text.upper()).strip()


def _overlap(a: str, b: str) -> float:
    first, second = ({text[at : at + 3] for at in range(len(text) - 2)} for text in (_squash(a), _squash(b)))
    return len(first & second) / max(1, min(len(first), len(second)))
