"""Title pairs: a file of which title means the same as which other one, of one source or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from encoders.data import split_of
from encoders.evaluation.tasks import Task, squash
from encoders.evaluation.tasks_text import matching_titles
from encoders.tables import read_table, read_text_table
from moontide.errors import Misconfigured

FILES: Final = ("pairs.csv", "pairs.parquet")
COLUMNS: Final = ("title_left", "title_right", "label")
_WORDS: Final = {"true": 1, "yes": 1, "false": 0, "no": 0}


@dataclass(frozen=True, slots=True)
class TitlePairs:
    """Pairs of titles. `table` has title_left, title_right, label (bool) and source; `skipped` counts rows left out."""

    folder: Path
    name: str
    table: pd.DataFrame
    skipped: Mapping[str, int]


def pairs_file(path: Path) -> Path | None:
    """The pairs file that `path` is or holds, or None."""
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)


def read_pairs(path: Path) -> TitlePairs:
    """Read a pairs file; other columns than those of the documented layout are ignored.

    Raises:
        Misconfigured: the file cannot be read, or a column is missing.
    """
    path = path.absolute()
    table = read_text_table(path) if path.suffix == ".csv" else read_table(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise Misconfigured(f"{path}: expected columns {list(COLUMNS)} divided by commas, got {list(table.columns)[:20]}")
    left, right = (table[name].fillna("").astype(str).str.split().str.join(" ") for name in COLUMNS[:2])
    words = table["label"].astype(str).str.strip().str.lower()
    label = pd.to_numeric(words.map(_WORDS).fillna(words), errors="coerce")
    source = table["source"].fillna("").astype(str) if "source" in table else pd.Series("", index=table.index)
    known = pd.DataFrame({"title_left": left, "title_right": right, "label": label == 1, "source": source})
    faults = {"no_title": (left == "") | (right == ""), "label_not_0_or_1": ~label.isin((0, 1))}
    sound = ~(faults["no_title"] | faults["label_not_0_or_1"])
    name = path.parent.name if path.name in FILES else path.stem
    return TitlePairs(path.parent, name, known[sound], {k: int(v.sum()) for k, v in faults.items() if v.any()})


def pair_tasks(pairs: TitlePairs, split: str) -> tuple[list[Task], Counter[str]]:
    """One task per source, and counts of what asks nothing: pairs of one string with itself.

    All distinct titles of the source are its corpus. A split is a share of the sets of titles that matches connect.
    """
    found: list[Task] = []
    skipped: Counter[str] = Counter(pairs.skipped)
    for source, part in pairs.table.groupby("source", sort=True):
        name = "/".join(word for word in (pairs.name, str(source), "title_to_title") if word)
        found.append(_task(name, pairs, part, split, skipped))
    return [task for task in found if task.queries], skipped


def _task(name: str, pairs: TitlePairs, part: pd.DataFrame, split: str, skipped: Counter[str]) -> Task:
    spelt: dict[str, str] = {}
    matches: dict[str, set[str]] = {}
    for left, right, same in part[["title_left", "title_right", "label"]].itertuples(index=False):
        first, second = (spelt.setdefault(squash(title), title) for title in (left, right))
        mine, other = matches.setdefault(first, set()), matches.setdefault(second, set())
        if same and first == second:
            skipped["match_of_one_string"] += 1
        elif same:
            mine.add(second)
            other.add(first)
    groups = _connected(matches)
    if split != "all":
        # A title of another split stays in the corpus and asks nothing.
        matches = {
            title: found if split_of(f"{pairs.name}/{groups[title]}") == split else set() for title, found in matches.items()
        }
    return matching_titles(name, pairs.folder, matches, groups)


def _connected(matches: Mapping[str, set[str]]) -> dict[str, str]:
    """The least title of each set that matches connect, by title."""
    groups: dict[str, str] = {}
    for start in sorted(matches):
        waiting = [] if start in groups else [start]
        while waiting:
            title = waiting.pop()
            if title not in groups:
                groups[title] = start
                waiting.extend(matches[title])
    return groups
