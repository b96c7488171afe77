"""Names of the columns that data folders may use, and one way to read their tables."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import pandas as pd

from moontide.errors import Misconfigured

# The first name is ours; the others are those of public data sets, so that they can be read as they are published.
ALIASES: Final = {
    "item_id": ("item_id", "image_id", "StockCode"),
    "group": ("group", "parent_sku", "sender_id"),
    "product": ("parent_sku", "group"),
    "title": ("title",),
    "description": ("description",),
    "label": ("label",),
    "images": ("images", "all_images"),
    "basket_id": ("basket_id", "InvoiceNo"),
    "event_timestamp": ("event_timestamp", "InvoiceDate"),
    "sold_title": ("title", "Description"),
}
ATTRIBUTE_COLUMNS: Final = ("color", "material", "pattern", "style", "main_category")


def column(table: pd.DataFrame, name: str) -> pd.Series | None:
    """The column of that name, or of the first of its aliases that is there."""
    for alias in ALIASES[name]:
        if alias in table:
            return table[alias]
    return None


def read_text_table(path: Path) -> pd.DataFrame:
    """A CSV of strings; an empty cell is an empty string.

    Raises:
        Misconfigured: not UTF-8, no header, or rows that do not fit it.
    """
    try:
        with warnings.catch_warnings():
            # Rows one cell wider than the header would otherwise lose that cell, or shift by one.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except OSError as error:
        raise Misconfigured(f"{path}: expected a file that can be read, got {error.strerror or type(error).__name__}") from error
    except pd.errors.EmptyDataError:
        raise Misconfigured(f"{path}: expected a header and rows, got an empty file") from None
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{path}: expected UTF-8, got other bytes at {error.start}; convert it, e.g. with iconv") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise Misconfigured(f"{path}: expected comma separated rows of one width; {str(error).strip()[:200]}") from error


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet file as it is.

    Raises:
        Misconfigured: damaged, or no Parquet file.
    """
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path}: expected a Parquet file; {str(error)[:200]}") from error
