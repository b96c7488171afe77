"""What every program has in common: flags, exit codes, and errors as one line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Final

import pyarrow as pa

from moontide.errors import MoontideError
from moontide.live import LiveSpaces, load_spaces
from moontide.settings import Settings, load_settings

_EPILOG: Final = (
    "exit codes: 0 done; 1 failed, one line on stderr says why; 2 wrong use; 3 done, some rows rejected. "
    "Stores and folders come from the environment (MOONTIDE_HOME, MOONTIDE_ONLINE, ...; see docs/reference/jobs.md)."
)
#: Most of a count: what Spark's integers hold.
_MOST: Final = 2**31 - 1
#: A hundred years: longer spans leave the range of times.
MOST_DAYS: Final = 36_500


class Exit(IntEnum):
    """How a program ended."""

    DONE = 0
    FAILED = 1
    MISUSED = 2
    REJECTED = 3


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags every program has: ``--home`` and ``--dry-run``."""
    made = argparse.ArgumentParser(prog=f"python -m jobs.{program}", description=description, epilog=_EPILOG)
    made.add_argument("--home", type=Path, metavar="DIR", help="folder of everything local [env: MOONTIDE_HOME]")
    made.add_argument("--dry-run", action="store_true", help="check, and say what would be done; write nothing")
    return made


def add_spark_flags(made: argparse.ArgumentParser) -> None:
    """``--master`` and ``--partitions``, for programs that run on Spark."""
    made.add_argument(
        "--master", metavar="URL", help="Spark master; default: spark-submit's, else local[*]; embedded stores need local[...]"
    )
    made.add_argument("--partitions", type=positive, metavar="N", help="Spark partitions; default: from the number of rows")


def add_rejects_flag(made: argparse.ArgumentParser) -> None:
    """``--rejects``, for programs that turn rows away."""
    made.add_argument(
        "--rejects", type=file_to_write, metavar="FILE", help="Parquet of rejected rows (default <home>/rejects/...)"
    )


def file_to_write(text: str) -> Path:
    """An argparse type: a path where no folder is."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file to write, got a folder: {text}; name a file in it")
    return path


def between(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: an integer from `low` to `high`."""

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low} to {high}, got {value}")
        return value

    return integer


def positive(text: str) -> int:
    """An argparse type: an integer from 1 to 2^31 - 1."""
    value = int(text)
    if not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"expected 1 or more, at most {_MOST}, got {value}")
    return value


def moment(text: str) -> int:
    try:
        named = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ISO 8601, e.g. 2026-01-31T00:00:00Z, got {text!r}") from None
    if named.tzinfo is None:
        raise argparse.ArgumentTypeError(f"expected a time zone, e.g. {text}Z, got none")
    try:
        since = named.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError:
        since = timedelta(-1)
    if since < timedelta(0):
        raise argparse.ArgumentTypeError(f"expected a time from 1970 on, got {text!r}")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def site(home: Path | None) -> tuple[Settings, LiveSpaces]:
    """Settings of this process, `home` before the environment, and the live spaces.

    Raises:
        Misconfigured: a setting or ``spaces.toml`` is wrong.
    """
    settings = settings_of(home)
    return settings, load_spaces(settings.spaces_path)


def settings_of(home: Path | None) -> Settings:
    """Settings of this process, `home` before the environment; for programs that read no space."""
    return load_settings() if home is None else load_settings(home=home.absolute())


def run(body: Callable[[], Exit]) -> int:
    """`body`'s exit code; an expected failure becomes one line on stderr and 1."""
    try:
        return int(body())
    except (MoontideError, OSError, pa.ArrowException) as error:
        complain(f"error: {one_line(str(error))}")
    except KeyboardInterrupt:
        complain("error: interrupted; run again to go on where it stopped")
    return int(Exit.FAILED)


def one_line(text: str) -> str:
    """`text` without line breaks."""
    return " ".join(text.split())


def say(line: str) -> None:
    """Print a result."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a note or error on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def now_us() -> int:
    """The wall clock, microseconds since the epoch."""
    return time.time_ns() // 1_000
