"""Plain text for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_BARS = " ▁▂▃▄▅▆▇█"


def say(line: str = "") -> None:
    """One line on stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """One line on stderr, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def one_line(text: str) -> str:
    """`text` without line breaks."""
    return " ".join(text.split())


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), right: Sequence[int] = ()) -> list[str]:
    """Lines of a table with aligned columns, two spaces apart.

    Args:
        rows: cells; every row as long as the first.
        head: titles above the columns, or none.
        right: columns aligned to the right.
    """
    cells = [list(head), *map(list, rows)] if head else [list(row) for row in rows]
    if not cells:
        return []
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    return ["  ".join(_pad(text, widths[n], n in right) for n, text in enumerate(row)).rstrip() for row in cells]


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def spark_bars(counts: Sequence[int]) -> str:
    """One character per tier, its height the share of the largest count."""
    peak = max(counts, default=0)
    return "".join(_BARS[0] if not c else _BARS[max(1, round(c / peak * 8))] for c in counts)


def size(count: float) -> str:
    """Bytes for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
