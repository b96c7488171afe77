"""The encoder in a child process with limits of memory and time."""

from __future__ import annotations

from moontide.live import LiveSpace
from moontide.settings import Settings
from streaming.encoding import StreamEncoder


def encoder_process(live: LiveSpace, settings: Settings) -> StreamEncoder:
    """The `StreamEncoder` of a live space, its child started and its digest checked."""
    raise NotImplementedError
