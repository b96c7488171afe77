"""The other threads of a consumer and what is shared with them."""

from __future__ import annotations

from dataclasses import dataclass

from streaming.metrics import Metrics
from streaming.progress import Progress
from streaming.settler import Settler
from streaming.state import State
from streaming.worker import Worker


@dataclass(frozen=True, slots=True)
class Crew:
    """Worker and settler, and what all threads share."""

    worker: Worker
    settler: Settler
    progress: Progress
    state: State
    metrics: Metrics
