"""What a consumer is made of; a test may put something else in the place of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moontide.live import LiveSpace
from moontide.settings import Settings
from moontide.stores import online_store, vector_index
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.kv import Clock, wall_clock
from streaming.encoder_process import encoder_process
from streaming.encoding import StreamEncoder
from streaming.message import Trace, no_trace


@dataclass(frozen=True, slots=True)
class Parts:
    """Factories of the stores and encoders, the clock (microseconds UTC), and the trace of named points."""

    online: Callable[[Settings], OnlineStore] = online_store
    index: Callable[[Settings], VectorIndex] = vector_index
    encoder: Callable[[LiveSpace, Settings], StreamEncoder] = encoder_process
    clock: Clock = wall_clock
    trace: Trace = no_trace
