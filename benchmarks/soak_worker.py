"""The processes of `benchmarks.soak`: writers, readers, and one that drains the dirty marks."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Transient
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import OnlineStore, Status
from moontide.views import ViewSpec, embedding_view

DIM, BATCH, READ = 64, 1_000, 500
SPACES = (EmbeddingSpace("soak", 1, DIM), EmbeddingSpace("soak", 2, DIM))
START = 1_700_000_000_000_000
Ints = NDArray[np.int64]


def view(space: EmbeddingSpace) -> ViewSpec:
    """The view of a space."""
    return embedding_view(space)


def item_ids(numbers: Ints) -> list[str]:
    """Ids of item numbers."""
    return [f"i{n}" for n in numbers.tolist()]


def is_delete(versions: Ints) -> NDArray[np.bool_]:
    """Which versions are tombstones: one in 61, never the preloaded version 1."""
    return (versions > 1) & (versions % 61 == 0)


def codes(space: EmbeddingSpace, numbers: Ints, versions: Ints) -> NDArray[np.int8]:
    """(B, D) int8: the only right content of (space, item, version); any mixture of two is no third one's."""
    steps = np.arange(DIM, dtype=np.int64)
    seed = (numbers * 1_000_003 + versions * 7_919 + space.version * 104_729)[:, None]
    values = (seed * (2 * steps + 1) + steps * steps * 31 + (seed >> 8) * (steps % 7)) % 255 - 127
    values[:, 0] = 127
    return values.astype(np.int8)


def batch_of(writer: int, number: int, items: int) -> tuple[Ints, Ints]:
    """Items and versions of a writer's batch: versions rise over both writers' batches; every fifth batch repeats an old one."""
    if number % 5 == 4 and number > 10:
        number -= 10
    rng = np.random.default_rng([writer, number])
    numbers = np.unique(rng.integers(0, items, BATCH))
    return numbers, np.full(len(numbers), 2 + 2 * number + writer, np.int64)


@dataclass(frozen=True)
class Run:
    """One soak: its folder, store and size."""

    folder: Path
    online: str
    url: str
    items: int

    @classmethod
    def load(cls, path: Path) -> Run:
        """From the file the parent wrote."""
        raw = json.loads(path.read_text())
        return cls(Path(raw["folder"]), raw["online"], raw["url"], raw["items"])

    def settings(self) -> Settings:
        """Settings of the store under test."""
        url = self.url or "redis://127.0.0.1:6379/0"
        return Settings(home=self.folder / "home", online=self.online, redis_url=url, lmdb_map_size=8 << 30)

    def open(self) -> OnlineStore:
        """The store under test."""
        return online_store(self.settings())

    def size(self) -> int:
        """Bytes the store takes: blocks of the LMDB file, or Redis's used_memory."""
        if self.online == "redis":
            return int(redis.Redis.from_url(self.url).info("memory")["used_memory"])
        return sum(p.stat().st_blocks * 512 for p in (self.folder / "home" / "online").rglob("*") if p.is_file())

    def note(self, name: str, line: str) -> None:
        """Append one line in one write, so that a kill cannot cut it."""
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def notes(self, name: str) -> list[str]:
        """Lines noted so far."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def write(self, store: OnlineStore, numbers: Ints, versions: Ints) -> None:
        """One batch into both spaces."""
        gone = is_delete(versions)
        for space in SPACES:
            values = codes(space, numbers, versions)
            scale = np.full(len(numbers), 0.01, np.float32)
            values[gone], scale[gone] = 0, 0
            vectors = Embeddings.from_codes(space, values, scale, ids=item_ids(numbers))
            stamps = START + versions
            rows = embedding_rows(
                vectors,
                source_version=versions,
                event_timestamp=stamps,
                encoded_at=stamps,
                content_known_at=stamps,
                deleted=gone,
            )
            store.write_rows(view(space), rows)

    def preload(self) -> None:
        """Version 1 of every item in both spaces."""
        store = self.open()
        for begin in range(0, self.items, 20_000):
            numbers = np.arange(begin, min(begin + 20_000, self.items), dtype=np.int64)
            self.write(store, numbers, np.ones(len(numbers), np.int64))
        store.close()

    def oracle(self) -> Ints:
        """(items,) the version each item must end at: the highest of the preload and every batch begun."""
        final = np.ones(self.items, np.int64)
        for writer in (0, 1):
            for line in self.notes(f"begun-{writer}"):
                numbers, versions = batch_of(writer, int(line), self.items)
                np.maximum.at(final, numbers, versions)
        return final

    def totals(self) -> dict[str, int]:
        """Batches written, reads checked and violations over all processes and restarts."""
        reads = [line.split() for n in range(4) for line in self.notes(f"reads-{n}")]
        return {
            "batches": sum(len(self.notes(f"done-{w}")) for w in (0, 1)),
            "reads": sum(int(r[0]) for r in reads),
            "violations": sum(int(r[1]) for r in reads),
        }

    def stopped(self) -> bool:
        """Whether the parent asked for the end."""
        return (self.folder / "stop").exists()


def write_forever(run: Run, number: int) -> None:
    """Batches in order; what was begun and not answered before a kill is written again first."""
    store = run.open()
    done = len(run.notes(f"done-{number}"))
    unfinished = len(run.notes(f"begun-{number}")) > done
    while unfinished or not run.stopped():
        if not unfinished:
            run.note(f"begun-{number}", str(done))
        unfinished = False
        run.write(store, *batch_of(number, done, run.items))
        run.note(f"done-{number}", str(done))
        done += 1
    store.close()


def read_forever(run: Run, number: int) -> None:
    """Random reads; each must be exactly one version's content, never older than this reader saw before."""
    store = run.open()
    rng = np.random.default_rng()
    seen = {space.id: np.ones(run.items, np.int64) for space in SPACES}
    while not run.stopped():
        checked = bad = 0
        for _ in range(20):
            space = SPACES[int(rng.integers(2))]
            numbers = np.unique(rng.integers(0, run.items, READ))
            ids = item_ids(numbers)
            before = store.heads(view(space), ids)
            got = store.read_embeddings(space, ids)
            after = store.heads(view(space), ids)
            stable = before.source_version == after.source_version
            wrong = before.source_version < seen[space.id][numbers]
            wrong |= after.source_version < before.source_version
            wrong |= stable & ~right(space, numbers, before.source_version, got)
            wrong |= (before.status == Status.DELETED) != is_delete(before.source_version)
            seen[space.id][numbers] = after.source_version
            checked, bad = checked + len(numbers), bad + int(wrong.sum())
        run.note(f"reads-{number}", f"{checked} {bad}")
    store.close()


def right(space: EmbeddingSpace, numbers: Ints, versions: Ints, got: Embeddings) -> NDArray[np.bool_]:
    """Which rows are exactly the content of their version (a tombstone: not present)."""
    gone = is_delete(versions)
    same = (got.codes == codes(space, numbers, versions)).all(axis=1)
    result: NDArray[np.bool_] = np.where(gone, ~got.present, got.present & same)
    return result


def drain_forever(run: Run, number: int) -> None:
    """Take dirty marks as an indexer does, so that they do not pile up."""
    store = run.open()
    while not run.stopped():
        took = 0
        for space in SPACES:
            marks = store.dirty(space, 5_000)
            took += store.clear_dirty(space, marks) if marks else 0
        if not took:
            time.sleep(0.05)
    store.close()


def main() -> int:
    """``soak_worker ROLE NUMBER CONFIG``."""
    role, number, config = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    act = {"write": write_forever, "read": read_forever, "drain": drain_forever}[role]
    try:
        act(Run.load(config), number)
    except Transient as error:
        print(f"{role} {number}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
