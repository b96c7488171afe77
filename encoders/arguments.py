"""Types of command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from moontide import names
from moontide.errors import Misconfigured


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ValueError: no whole number.
        argparse.ArgumentTypeError: 0 or less.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def not_negative(text: str) -> int:
    """A whole number from 0 to 2^63 - 1, e.g. a seed.

    Raises:
        ValueError: no whole number.
        argparse.ArgumentTypeError: out of range.
    """
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected 0 or more, below 2^63, got {value}")
    return value


def day(text: str) -> str:
    """An ISO day.

    Raises:
        argparse.ArgumentTypeError: no day of the calendar.
    """
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a day as 2024-12-31, got {text!r}") from None


def family(text: str) -> str:
    """The family of a space.

    Raises:
        argparse.ArgumentTypeError: no name of one.
    """
    if not names.is_space_name(text):
        raise argparse.ArgumentTypeError(f"expected [a-z][a-z0-9]* of at most 24 characters, got {text!r}")
    return text


def make_place(flag: str, folder: Path) -> None:
    """Make the folder of a result, before time is spent on the result.

    Raises:
        Misconfigured: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{flag}: expected a place to write to, got {error.strerror} at {folder}; name another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Misconfigured(f"{flag}: expected a folder that can be written, got {folder}; name another")


def require_own_names(folders: Sequence[Path]) -> None:
    """Figures are kept by the name of a data folder: of two that share one, only the last would be seen.

    Raises:
        Misconfigured: two have one name.
    """
    repeated = sorted(name for name, count in Counter(folder.name for folder in folders).items() if count > 1)
    if repeated:
        raise Misconfigured(
            f"--data: expected folders of different names, got {repeated} more than once; rename one, or link to it"
        )
