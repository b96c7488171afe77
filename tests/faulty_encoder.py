"""An encoder child that fails as its items say, for tests: the stub, and titles that begin with ``fault:``.

``faulty_process(live, settings)`` stands in for `streaming.encoder_process.encoder_process`. Titles, to which anything may be
appended after a blank so that contents differ:

=================  ==========================================================================
fault:abort        the process aborts while the item is decoded
fault:hang         decoding never ends
fault:oom          decoding wants more memory than there is
fault:run-abort    the process aborts in the model: nothing says at which item
fault:run-hang     the model never ends
fault:nan          the model gives NaN
fault:zero         the model gives a vector of zeros
fault:same         every item of this title has one vector
fault:garbage      the process writes something else than an answer
fault:kill-once P  it is killed from outside, unless the file P exists; it makes that file
=================  ==========================================================================
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from encoders.stub import StubEncoder, StubPrepared
from moontide.embeddings import Embeddings
from moontide.errors import Poison
from moontide.spaces import EmbeddingSpace
from streaming.encoder_child import Flags, load, main
from streaming.encoder_process import EncoderProcess, stub_flags


def faulty_process(live, settings):
    """A `StreamEncoder` of a live space whose child is this file."""
    command = [sys.executable, __file__, *stub_flags(live.space), "--bytes", str(settings.stream_encode_bytes)]
    return EncoderProcess(live.space, command, seconds=settings.stream_encode_seconds)


@dataclass(frozen=True)
class FaultyPrepared:
    stubbed: StubPrepared
    faults: list[str]

    @property
    def ids(self):
        return self.stubbed.ids

    @property
    def rejects(self):
        return self.stubbed.rejects


@dataclass(frozen=True)
class FaultyEncoder:
    """`StubEncoder` with the faults above; `answers` is the descriptor that its process writes to."""

    stub: StubEncoder
    answers: int

    @property
    def space(self) -> EmbeddingSpace:
        return self.stub.space

    def prepare(self, items, *, progress):
        def decode(row, done):
            progress(row, done)
            if not done:
                _decode(items[row].title or "")

        stubbed = self.stub.prepare(items, progress=decode)
        faults = {item.item_id: (item.title or "").partition(" ")[0] for item in items}
        return FaultyPrepared(stubbed, [faults[i] for i in stubbed.ids])

    def run(self, prepared):
        faults = prepared.faults
        if "fault:run-abort" in faults:
            os.abort()
        if "fault:run-hang" in faults:
            time.sleep(3600)
        if "fault:garbage" in faults:
            os.write(self.answers, b"\x00garbage" * 64)
        vectors = self.stub.run(prepared.stubbed)
        codes, scale = vectors.codes.copy(), vectors.scale
        for row, fault in enumerate(faults):
            if fault == "fault:nan":
                raise Poison(f"NaN in row {row}")
            if fault in ("fault:zero", "fault:same"):
                codes[row] = fault == "fault:same"
        return Embeddings.from_codes(self.space, codes, scale, ids=vectors.ids)


def _decode(title):
    match title.partition(" ")[0]:
        case "fault:abort":
            os.abort()
        case "fault:hang":
            time.sleep(3600)
        case "fault:oom":
            bytearray(1 << 40)
        case "fault:kill-once":
            once = Path(title.partition(" ")[2])
            if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def faulty(flags: Flags):
    return FaultyEncoder(load(flags), flags.answers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], faulty))
