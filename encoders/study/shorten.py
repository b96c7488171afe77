"""A copy of a data folder whose titles and descriptions are cut: what the length of a text is worth."""

from __future__ import annotations

import shutil
from pathlib import Path

from encoders.tables import ALIASES, read_text_table
from moontide.errors import Misconfigured

#: What `encoders.data` reads beside ``items.csv``; pictures stay where they are, so measures of pictures are not made.
KEPT = ("transactions.parquet", "dataset.json")


def shorten(data: Path, words: int, out: Path) -> None:
    """Write `out` with each title and description cut to its first `words` words.

    Raises:
        Misconfigured: no items.csv, or it has no text; `out` is there and holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Misconfigured(f"{out}: expected an empty folder or nothing, got something; choose another --out")
    path = data / "items.csv"
    if not path.is_file():
        raise Misconfigured(f"{data}: expected items.csv; see docs/reference/training-data.md")
    table = read_text_table(path)
    texts = [name for kind in ("title", "description") for name in ALIASES[kind] if name in table]
    if not texts:
        raise Misconfigured(f"{path}: expected a column title or description, got {list(table.columns)}")
    for name in texts:
        table[name] = [" ".join(text.split()[:words]) for text in table[name]]
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "items.csv", index=False)
    for name in KEPT:
        if (data / name).is_file():
            shutil.copyfile(data / name, out / name)
