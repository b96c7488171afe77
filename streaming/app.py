"""One consumer, put together from its parts, and taken apart in the order that loses nothing."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Final, Protocol, TypeVar

from kafka import KafkaProducer
from kafka.errors import KafkaError

from encoders import ImageLoader
from moontide import names
from moontide.errors import Misconfigured
from moontide.live import LiveSpace, LiveSpaces
from moontide.settings import Settings
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.offline import OfflineTables
from streaming import clients, worker
from streaming.audit import Audit
from streaming.behaviours import BehaviourHandler
from streaming.changes import ChangeStream
from streaming.checkpoint import Checkpoint
from streaming.crew import Crew
from streaming.dead_letters import DeadLetters
from streaming.encoding import StreamEncoder
from streaming.followers import Follower
from streaming.health import HealthServer
from streaming.items import ItemHandler
from streaming.loop import Loop
from streaming.metrics import Metrics
from streaming.outbox import Producer
from streaming.parts import Parts
from streaming.patience import Patience
from streaming.progress import Progress
from streaming.settler import Settler, Settling
from streaming.state import State
from streaming.tiers import CandidateTiers
from streaming.watchdog import Watchdog, restart_process
from streaming.worker import Handling, Worker

TOPICS: Final = (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS)
_JOIN_SECONDS: Final = 2.0
#: Longer than brokers are down. A record that is given up is not known to have failed, and might arrive behind a newer one of its
#: key, which compaction would then remove.
_DELIVERY_MS: Final = 86_400_000
Closed = TypeVar("Closed", bound="SupportsClose")
_log = logging.getLogger(__name__)


class SupportsClose(Protocol):
    """What is closed at the end."""

    def close(self) -> None:
        """Give it back."""


class App:
    """A consumer process.

    Args:
        settings: the site's settings.
        live: the live spaces; every one with an artifact is written.
        parts: factories of what it is made of.
        topics: what to consume.
    """

    def __init__(self, settings: Settings, live: LiveSpaces, parts: Parts | None = None, topics: Sequence[str] = TOPICS) -> None:
        live.require_length(settings.sequence_length)
        self.settings = settings
        self.state = State()
        self.metrics = Metrics()
        self._live = live
        self._parts = parts or Parts()
        self._topics = topics

    def run(self) -> int:
        """Consume until SIGTERM, SIGINT or `stop`; returns 0.

        Raises:
            Misconfigured: the set-up is wrong; nothing was committed.
            MoontideError: a part failed for good.
        """
        self._listen_to_signals()
        clients.require_safe(self.settings)
        self.metrics.restarted(self.settings.stream_restarts)
        with ExitStack() as stack:
            self._serve_health(stack)
            loop = self._build(stack)
            if loop is not None:
                # What lives for the whole run need not be looked through again with every collection.
                gc.collect()
                gc.freeze()
                loop.run()
        return 0

    def stop(self) -> None:
        """Finish what was begun and end; safe from any thread and from signal handlers."""
        self.state.stopping.set()

    def _build(self, stack: ExitStack) -> Loop | None:
        """All parts, started; None where it was told to stop before."""
        settings, parts, state, metrics = self.settings, self._parts, self.state, self.metrics
        online = self._opened("online", stack, partial(parts.online, settings))
        index = self._opened("index", stack, partial(parts.index, settings))
        encoders = [self._encoder(stack, space) for space in self._spaces()]
        producer = self._opened(
            "kafka", stack, partial(clients.producer, settings, delivery_timeout_ms=_DELIVERY_MS), _close_producer
        )
        if state.stopping.is_set():
            return None
        settler = Settler(self._settling(stack, online, index, producer, encoders), state, metrics)
        progress = Progress()
        worker = Worker(self._handling(online, index, encoders), settler, progress, state, metrics)
        consumer = self._opened("kafka", stack, partial(clients.consumer, settings, topics=()))
        crew = Crew(worker, settler, progress, state, metrics)
        watchdog = Watchdog(state, settings.stream_stall_seconds, partial(restart_process, settings.stream_restarts + 1))
        settler.start()
        worker.start()
        watchdog.start()
        stack.callback(settler.close, _JOIN_SECONDS)
        stack.callback(worker.close, _JOIN_SECONDS)
        stack.callback(watchdog.close)
        return Loop(consumer, self._topics, crew, settings, (parts.clock, parts.trace))

    def _settling(
        self, stack: ExitStack, online: OnlineStore, index: VectorIndex, producer: Producer, encoders: Sequence[StreamEncoder]
    ) -> Settling:
        parts = self._parts
        changes = ChangeStream(producer, parts.trace)
        followers = {e.space.id: Follower(online, index, changes, e.space, parts.trace) for e in encoders}
        audit = stack.enter_context(closing(Audit(self.settings.stream_audit_file, parts.clock)))
        # One that is too large for the topic is fatal to an idempotent producer, and to all else that it is sending.
        own = self._opened("kafka", stack, partial(clients.producer, self.settings, enable_idempotence=False), _close_producer)
        letters = DeadLetters(own, clock=parts.clock, trace=parts.trace)
        offline = OfflineTables(self.settings.offline_root)
        writer = f"stream-{uuid.uuid4().hex[:12]}"
        return Settling(followers, Checkpoint(online, offline, letters, audit, writer), parts.clock, parts.trace)

    def _handling(self, online: OnlineStore, index: VectorIndex, encoders: Sequence[StreamEncoder]) -> Handling:
        settings, parts = self.settings, self._parts
        loader = ImageLoader(settings.image_root, settings.image_schemes)
        items = ItemHandler(online, encoders, loader, settings, parts.clock)
        items.on_encoded = partial(self._encoded, encoders)
        behaviours = BehaviourHandler(online, settings, parts.clock)
        wanted = settings.stream_candidates > 0 and bool(self._live.simtiers)
        tiers = CandidateTiers(online, index, self._live, settings, parts.clock) if wanted else None
        return Handling(online, items, behaviours, tiers, parts.clock, parts.trace)

    def _encoded(self, encoders: Sequence[StreamEncoder], items: int, seconds: float) -> None:
        self.metrics.encoded(items, seconds)
        for encoder in encoders:
            self.metrics.encoder_restarts(encoder.space.id, encoder.restarts)

    def _spaces(self) -> list[LiveSpace]:
        if not self._live.spaces:
            raise Misconfigured(
                f"{self._live.path}: expected at least one [[space]], got none; the consumer has nothing to write"
            )
        return list(self._live.spaces)

    def _encoder(self, stack: ExitStack, space: LiveSpace) -> StreamEncoder:
        encoder = self._opened("encoder", stack, partial(self._parts.encoder, space, self.settings))
        # A batch of hostile items may take many calls, each bounded: the watchdog hears of every one.
        encoder.on_call = partial(self.state.beat, worker.THREAD)
        self.metrics.space_info(encoder.space.id, encoder.space.encoder_digest)
        return encoder

    def _opened(
        self,
        what: str,
        stack: ExitStack,
        make: Callable[[], Closed],
        close: Callable[[Closed], None] = lambda made: made.close(),
    ) -> Closed:
        """A service, once it answers; closed at the end."""
        made = Patience(self.state, self.metrics, "start").run(what, make, given_up=self.state.stopping.is_set)
        self.state.rest("start")
        stack.callback(close, made)
        return made

    def _serve_health(self, stack: ExitStack) -> None:
        settings, state = self.settings, self.state
        server = HealthServer(
            settings.stream_host,
            settings.stream_port,
            live=lambda: state.stalled(settings.stream_stall_seconds),
            ready=state.unready,
            metrics=self.metrics,
        )
        server.start()
        stack.callback(server.close)
        _log.info("health and metrics on port %d", server.port)

    def _listen_to_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())


def _close_producer(producer: KafkaProducer) -> None:
    """What is not acknowledged by now is not committed either; without a limit it would wait for a broker that is down."""
    with suppress(KafkaError):
        producer.close(_JOIN_SECONDS)
