"""What happened in a run: losses and recalls by step, as JSON lines that curves are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moontide.errors import Misconfigured

Record = dict[str, Any]


class History:
    """Records in the order they happened, kept in memory and, where there is a `path`, in a file of JSON lines.

    A record has ``kind``, ``stage``, ``step`` (steps done, from 0) and ``steps``; by its kind also
    ``losses`` (name to value, weighted, of that one step) with ``rate`` (share of the peak learning rates),
    ``recall`` (name to value), or ``pairs_per_s``, ``wait_share`` and ``seconds`` since the stage began or was resumed.

    Args:
        path: an older file there is replaced by the first record.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.records: list[Record] = []
        self.stopped: str | None = None
        self.skipped = 0

    def add(self, kind: str, place: Mapping[str, Any], **values: Any) -> None:
        """Append one record; `place` holds stage, step and steps."""
        record = {"kind": kind, **place, **values}
        mode = "a" if self.records else "w"
        self.records.append(record)
        self._write([record], mode)

    def restore(self, records: Sequence[Record]) -> None:
        """Become what a checkpoint remembers; later lines of the file are dropped."""
        self.records = [dict(record) for record in records]
        self._write(self.records, "w")

    def of(self, kind: str) -> Iterator[Record]:
        """Records of one kind."""
        return (record for record in self.records if record["kind"] == kind)

    def _write(self, records: Sequence[Record], mode: str) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)


def read_history(path: Path) -> list[Record]:
    """The records of a file that `History` wrote.

    Raises:
        Misconfigured: no such file, no records, or a line that is no record.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise Misconfigured(f"history {path}: expected JSON lines of a training run, got {error}") from error
    for at, record in enumerate(records):
        if not isinstance(record, dict) or not {"kind", "stage", "step", "steps"} <= record.keys():
            raise Misconfigured(f"history {path}, record {at + 1}: expected kind, stage, step and steps, got {record!r:.200}")
    if not records:
        raise Misconfigured(f"history {path}: expected at least one record, got none; train first")
    return records
