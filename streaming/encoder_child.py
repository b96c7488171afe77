"""The encoder process: reads items from stdin, writes vectors to a pipe, and holds nothing that is worth stealing.

``python -m streaming.encoder_child --artifact DIR --answers FD --marks FD --parent PID --bytes N``, started by
`streaming.encoder_process`. It decodes bytes that anybody may have made, so it is expected to die: of its memory limit, of a
signal of its parent, or of a decoder's fault. It ends with its parent, and at the end of its stdin.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol, get_args

import numpy as np

from encoders import Encoder, Item, Reject
from encoders.runtime import Progress, no_progress
from encoders.stub import StubEncoder
from encoders.variants import Wanted
from moontide.embeddings import Embeddings, concat
from moontide.errors import Misconfigured, Poison
from moontide.spaces import EmbeddingSpace
from streaming.encoder_wire import (
    DONE,
    HEADER,
    MAX_NOTE,
    STARTED,
    Answer,
    Kind,
    frame,
    pack_answer,
    pack_space,
    read_header,
    unpack_items,
)
from streaming.encoding import Fault

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_NO_LIMIT: Final = 1 << 62
#: How `encoders.images` ends its word on an image that there was no memory for.
_STARVED: Final = "(MemoryError)"


class Prepared(Protocol):
    """Items that only need the model."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the items that can be encoded."""

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """The others."""


class ChildEncoder(Protocol):
    """What the child needs of an encoder: `encoders.Encoder`, the stub, or a faulty one of the tests."""

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector."""

    def prepare(self, items: Sequence[Item], *, progress: Progress) -> Any:
        """As `encoders.Encoder.prepare`; the result is a `Prepared`."""

    def run(self, prepared: Any) -> Embeddings:
        """As `encoders.Encoder.run`."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The command line."""

    artifact: str | None
    stub: str | None
    threads: int | None
    precision: Wanted
    answers: int
    marks: int
    parent: int
    bytes: int


def parse(argv: Sequence[str]) -> Flags:
    """Flags of the child's command line."""
    parser = argparse.ArgumentParser(prog="streaming.encoder_child", allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--artifact", help="folder of the encoder")
    source.add_argument("--stub", help="space, as JSON, of an encoder without a model")
    parser.add_argument("--threads", type=int, help="threads of the model and of decoding")
    parser.add_argument("--precision", default="fp32", choices=get_args(Wanted), help="what the model computes in")
    parser.add_argument("--answers", type=int, required=True, help="file descriptor that answers are written to")
    parser.add_argument("--marks", type=int, required=True, help="file descriptor of the shared marks of items")
    parser.add_argument("--parent", type=int, required=True, help="process to end with")
    parser.add_argument("--bytes", type=int, required=True, help="limit of the address space")
    return Flags(**vars(parser.parse_args(argv)))


def load(flags: Flags) -> ChildEncoder:
    """The encoder that the flags name, or `Misconfigured`."""
    if flags.artifact is not None:
        return Encoder.load(flags.artifact, threads=flags.threads, images=None, precision=flags.precision)
    return StubEncoder(EmbeddingSpace(**json.loads(flags.stub or "{}")))


def main(argv: Sequence[str], load: Callable[[Flags], ChildEncoder] = load) -> int:
    """Serve until stdin ends."""
    flags = parse(argv)
    restrict(flags)
    # Errors may quote what was decoded; the parent gets their class, and nobody the rest.
    sys.excepthook = lambda kind, _error, _trace: print(f"encoder: {kind.__name__}", file=sys.stderr)  # noqa: T201
    with open(flags.answers, "wb", buffering=0) as answers, mmap.mmap(flags.marks, 0) as marks:  # noqa: PTH123
        try:
            encoder = load(flags)
        except Misconfigured as error:
            _send(answers, frame(Kind.MISCONFIGURED, 0, str(error).encode()[:MAX_NOTE]))
            return 1
        except MemoryError:
            _send(answers, frame(Kind.OUT_OF_MEMORY, 0, b"while loading"))
            return 1
        _send(answers, frame(Kind.HELLO, 0, pack_space(encoder.space)))
        serve(encoder, sys.stdin.buffer, answers, marks)
    return 0


def restrict(flags: Flags) -> None:
    """Limits of this process, which nothing it runs can lift again."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != flags.parent:
        # It died before the line above could hold.
        sys.exit(1)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (flags.bytes, flags.bytes))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def serve(encoder: ChildEncoder, requests: BinaryIO, answers: BinaryIO, marks: mmap.mmap) -> None:
    """Answer each frame of items; a failure ends it, because nothing is known about the state of the process then."""

    def progress(row: int, done: bool) -> None:
        marks[row] = DONE if done else STARTED

    kind = Kind.VECTORS
    while kind is Kind.VECTORS and len(head := requests.read(HEADER.size)) == HEADER.size:
        _, sequence, length = read_header(head, limit=_NO_LIMIT)
        try:
            body = pack_answer(encode(encoder, unpack_items(requests.read(length)), progress))
        except MemoryError:
            kind, body = Kind.OUT_OF_MEMORY, b""
        except Exception as error:  # noqa: BLE001 - the edge of the process: the parent finds the item it was
            # onnxruntime raises errors of its own where an allocation fails.
            kind = Kind.OUT_OF_MEMORY if "alloc" in str(error) else Kind.FAILED
            body = type(error).__name__.encode()
        _send(answers, frame(kind, sequence, body))


def encode(encoder: ChildEncoder, items: Sequence[Item], progress: Progress) -> Answer:
    """Vectors of items whose ids are their rows; those whose vector is not finite are found and left out."""
    prepared: Prepared = encoder.prepare(items, progress=progress)
    starved = [int(r.item_id) for r in prepared.rejects if r.detail.endswith(_STARVED)]
    rejects = {int(r.item_id): (r.reason.value, r.detail) for r in prepared.rejects}
    parts = [_finite(encoder, items, prepared)]
    for row in starved:
        # Its neighbours may have had the memory: nothing is decoded beside it now.
        alone: Prepared = encoder.prepare([items[row]], progress=no_progress)
        if not alone.rejects:
            del rejects[row]
            parts.append(_finite(encoder, items, alone))
        elif alone.rejects[0].detail.endswith(_STARVED):
            rejects[row] = (Fault.ENCODER_OUT_OF_MEMORY.value, "expected an image that decodes within the limit, got MemoryError")
    vectors = concat([found for found, _ in parts])
    for row in (row for _, bad in parts for row in bad):
        rejects[row] = (Fault.VECTOR_NOT_FINITE.value, "expected finite values, the model gave NaN or infinity")
    rows = np.array([int(i) for i in vectors.ids or ()], np.int64)
    order = np.argsort(rows)
    return Answer(tuple(rows[order].tolist()), vectors.codes[order], vectors.scale[order], rejects)


def _finite(encoder: ChildEncoder, items: Sequence[Item], prepared: Prepared) -> tuple[Embeddings, list[int]]:
    """Vectors of what was prepared from the `items` of a call, and the rows that give none, found by halving."""
    try:
        return encoder.run(prepared), []
    except Poison:
        rows = [int(i) for i in prepared.ids]
        if len(rows) == 1:
            return Embeddings.absent(encoder.space, 0, ids=()), rows
    middle = len(rows) // 2
    parts = [
        _finite(encoder, items, encoder.prepare([items[row] for row in half], progress=no_progress))
        for half in (rows[:middle], rows[middle:])
    ]
    return concat([vectors for vectors, _ in parts]), [row for _, bad in parts for row in bad]


def _send(answers: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[answers.write(view) :]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
