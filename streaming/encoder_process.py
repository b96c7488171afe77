"""The encoder in a child process with limits of memory and time."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from encoders import Item, Reason
from encoders.content import WHOLE_CONTENT, ContentReader
from encoders.kinds import reader_of
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, Transient
from moontide.live import LiveSpace
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace, require_same_space
from streaming.encoder_link import Failed, Link
from streaming.encoder_wire import MAX_ITEMS, Answer
from streaming.encoding import Encoded, Fault, Refused, StreamEncoder
from streaming.gates import refused_vectors

#: A single item must fail so often, each time in a child that did nothing else, before it is to blame.
ATTEMPTS: Final = 2
_PROBE: Final = (Item("probe", title="moontide probe"),)
_NO_PROBE: Final = "encoder process: expected the vector of a known good item, got none"
_START_SECONDS: Final = 60.0
_SHORT_SECONDS: Final = 2.0
_MODULE: Final = (sys.executable, "-m", "streaming.encoder_child")


def encoder_process(live: LiveSpace, settings: Settings) -> StreamEncoder:
    """The `StreamEncoder` of a live space, its child started and its digest checked.

    Raises:
        Misconfigured: the space has no artifact, or not the one of its digest.
        Transient: the child does not start, or cannot encode a known good item.
    """
    if live.artifact is None:
        raise Misconfigured(
            f"space {live.space.id}: expected an artifact in spaces.toml, got none; name its folder there, or remove the space"
        )
    command = [*_MODULE, "--artifact", str(live.artifact), "--precision", settings.encoder_precision]
    return _start(live, settings, command, reader_of(live.artifact))


def stub_process(live: LiveSpace, settings: Settings) -> StreamEncoder:
    """The same with an encoder without a model, for tests and load tests of everything else."""
    return _start(live, settings, [*_MODULE, *stub_flags(live.space)])


def stub_flags(space: EmbeddingSpace) -> list[str]:
    """Flags of a child whose vectors are hashes of the content."""
    known = {"name": space.name, "version": space.version, "dim": space.dim, "encoder_digest": space.encoder_digest}
    return ["--stub", json.dumps(known)]


def _start(live: LiveSpace, settings: Settings, command: Sequence[str], reads: ContentReader = WHOLE_CONTENT) -> StreamEncoder:
    limits = ["--bytes", str(settings.stream_encode_bytes), "--threads", str(settings.stream_encode_threads)]
    return EncoderProcess(live.space, [*command, *limits], seconds=settings.stream_encode_seconds, reads=reads)


class EncoderProcess:
    """A `StreamEncoder` whose child may die: it is started again, and the item it died of is found and refused.

    Args:
        space: what the child must encode into.
        command: program and flags of `streaming.encoder_child`, or of a program like it.
        reads: what of an item the child's vectors depend on.
        seconds: time of a call; of a single item that is tried again, an eighth of it, but 2 s where the call has them.

    Raises:
        Misconfigured: the child cannot be started as it is, or encodes into another space.
        Transient: the child does not start, or cannot encode a known good item.
    """

    def __init__(
        self, space: EmbeddingSpace, command: Sequence[str], *, seconds: float, reads: ContentReader = WHOLE_CONTENT
    ) -> None:
        self._space = space
        self._command = tuple(command)
        self._seconds = seconds
        self.reads = reads
        self._closed = False
        self._starting = threading.Lock()
        self._calling = threading.Lock()
        self._probe_seconds = 0.0
        self.restarts = -1
        self.on_call: Callable[[], None] = lambda: None
        self._link = self._started()

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector."""
        return self._space

    @property
    def pid(self) -> int:
        """Process id of the child as it is now."""
        return self._link.pid

    def encode(self, items: Sequence[Item]) -> Encoded:
        """As `StreamEncoder.encode`.

        Raises:
            Transient: the child cannot be started, cannot encode a known good item, or was closed.
            Misconfigured: the child, started again, finds another artifact or none.
        """
        with self._calling:
            return self._encode(items)

    def close(self) -> None:
        """Stop the child; a call that runs in another thread ends with `Transient`."""
        with self._starting:
            self._closed = True
            self._link.interrupt()
        with self._calling:
            self._link.kill()

    def _encode(self, items: Sequence[Item]) -> Encoded:
        refused = {
            row: Refused(Reason.IMAGE_REFUSED, "expected the image's bytes, got a path; it is read before it gets here")
            for row, item in enumerate(items)
            if isinstance(item.image, str)
        }
        rows = [row for row in range(len(items)) if row not in refused]
        codes = np.zeros((len(items), self._space.dim), np.int8)
        scale = np.zeros(len(items), np.float32)
        encoded: list[int] = []
        for start in range(0, len(rows), MAX_ITEMS):
            for part, answer in self._answers(items, rows[start : start + MAX_ITEMS], refused):
                there = [part[at] for at in answer.rows]
                codes[there], scale[there] = answer.codes, answer.scale
                encoded += there
                for at, (reason, detail) in answer.rejects.items():
                    refused[part[at]] = Refused(reason, detail)
        encoded.sort()
        return self._gated(items, encoded, codes, scale, refused)

    def _gated(
        self,
        items: Sequence[Item],
        encoded: list[int],
        codes: np.ndarray[tuple[int, int], np.dtype[np.int8]],
        scale: np.ndarray[tuple[int], np.dtype[np.float32]],
        refused: dict[int, Refused],
    ) -> Encoded:
        ids = [items[row].item_id for row in encoded]
        vectors = Embeddings.from_codes(self._space, codes[encoded], scale[encoded], ids=ids)
        bad = refused_vectors([items[row] for row in encoded], vectors, self.reads)
        if bad:
            refused |= {encoded[at]: why for at, why in bad.items()}
            keep = np.array([at for at in range(len(encoded)) if at not in bad], np.int64)
            vectors, encoded = vectors.take(keep), [encoded[at] for at in keep]
        return Encoded(vectors, tuple(encoded), refused)

    def _answers(self, items: Sequence[Item], rows: list[int], refused: dict[int, Refused]) -> list[tuple[list[int], Answer]]:
        """Answers that together cover `rows`, but for those that are refused because the child dies of them."""
        attempts: Counter[int] = Counter()
        todo, answers, seconds = deque([rows]), [], self._seconds
        while todo:
            part = todo.popleft()
            self.on_call()
            link = self._ready()
            fresh = link.calls == 0
            try:
                answers.append((part, link.ask([self.reads.lean(items[row]) for row in part], seconds=seconds)))
            except Failed as failed:
                if len(part) > 1:
                    todo.extendleft(reversed(split(part, failed.suspects)))
                else:
                    if failed.fault is Fault.ENCODER_TIMED_OUT:
                        self._require_pace(seconds)
                    attempts[part[0]] += fresh
                    if attempts[part[0]] < ATTEMPTS:
                        todo.appendleft(part)
                    else:
                        refused[part[0]] = Refused(failed.fault, failed.detail, ATTEMPTS)
            if todo:
                seconds = self._limit(len(todo[0]) / len(rows), single=len(todo[0]) == 1)
        return answers

    def _limit(self, share: float, *, single: bool) -> float:
        """Time of a call with that share of the items: an item that hangs must not cost a whole call each time it is tried."""
        least = max(self._seconds / 8, min(self._seconds, _SHORT_SECONDS))
        return least if single else max(least, self._seconds * share)

    def _require_pace(self, seconds: float) -> None:
        """Nothing that took too long is to blame on a machine where the known good item did, too."""
        if self._probe_seconds > seconds / 4:
            raise Transient(
                f"encoder process: expected a known good item to take less than {seconds / 4:.1f} s, "
                f"got {self._probe_seconds:.1f} s; the machine is overloaded, or raise MOONTIDE_STREAM_ENCODE_SECONDS"
            )

    def _ready(self) -> Link:
        """The child, alive: started again where it died, also between two calls."""
        if self._closed or not self._link.alive:
            self._link.kill()
            self._link = self._started()
        return self._link

    def _started(self) -> Link:
        """A new child that is of the right space and has encoded a known good item."""
        patience = max(_START_SECONDS, self._seconds)
        with self._starting:
            if self._closed:
                raise Transient("encoder process: expected an open one, got one that was closed; make another")
            # Known from its first moment on, so that `close` can end it.
            self._link = link = Link(self._command)
        space = link.greet(seconds=patience)
        began = time.monotonic()
        try:
            require_same_space(self._space, space, where="encoder process")
            answer = link.ask(_PROBE, seconds=patience)
        except Failed as failed:
            raise Transient(f"{_NO_PROBE} ({failed.detail}); see the log") from failed
        except Misconfigured:
            link.kill()
            raise
        if answer.rows != (0,) or not answer.codes.any():
            link.kill()
            raise Transient(f"{_NO_PROBE} ({answer.rejects.get(0, ('', 'a vector of zeros'))[1]}); check the artifact")
        self._probe_seconds = time.monotonic() - began
        link.calls = 0
        self.restarts += 1
        return link


def split(rows: list[int], suspects: Sequence[int]) -> list[list[int]]:
    """What to try next of the rows of a failed call: each suspect alone, then the rest; without a suspect, two halves.

    Args:
        rows: two or more.
        suspects: places in `rows` whose decoding had begun and not ended.
    """
    places = [at for at in suspects if at < len(rows)]
    if places and len(places) < len(rows):
        return [*([rows[at]] for at in places), [row for at, row in enumerate(rows) if at not in places]]
    middle = len(rows) // 2
    return [rows[:middle], rows[middle:]]
