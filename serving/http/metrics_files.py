"""The files in which the workers of one server count: one a process and kind of metric, one a kind for all that are gone."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

#: What goes on counting when a process is gone; gauges are of the living.
_KINDS: Final = ("counter", "histogram")
#: In the place of a process id.
_GONE: Final = "gone"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """While the files of `folder` are read: none of them is folded into another."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


def forget(folder: Path, pid: int) -> None:
    """Remove what a process that ended said of itself, and fold what it counted into one file with all that ended before it.

    So the sums stay, and so does the number of files. Where they are being read, or cannot be, or there is no room, what it
    counted stays where it is: the sums are the same, and whoever reads does not keep its parent waiting.

    Args:
        folder: see `serving.http.metrics.Metrics`.
        pid: of the process.
    """
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for kind in _KINDS:
                _fold(folder / f"{kind}_{pid}.db", folder / f"{kind}_{_GONE}.db")
    except (OSError, RuntimeError, ValueError, struct.error) as error:
        _log.info("what process %s counted stays in files of its own: %s", pid, error)


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, how)
        yield
    finally:
        os.close(held)


def _fold(one: Path, into: Path) -> None:
    if not one.exists():
        return
    # Where nobody ends early, the parent needs none of it.
    from prometheus_client.mmap_dict import MmapedDict

    sums: defaultdict[str, float] = defaultdict(float)
    for file in (into, one):
        # A process that was killed at its first count leaves an empty file.
        if file.exists() and file.stat().st_size:
            for key, value, *_ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
                sums[key] += value
    fresh = into.with_suffix(".new")
    fresh.write_bytes(_packed(sums))
    fresh.replace(into)
    one.unlink()


def _packed(sums: Mapping[str, float]) -> bytes:
    """As prometheus_client's `MmapedDict` lays them out. Writing through its maps, a process ends where there is no room."""
    parts = []
    for key, value in sums.items():
        said = key.encode()
        room = len(said) + 8 - (len(said) + 4) % 8
        parts.append(struct.pack(f"i{room}sdd", len(said), said.ljust(room), value, 0.0))
    body = b"".join(parts)
    return struct.pack("ii", 8 + len(body), 0) + body
