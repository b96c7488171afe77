"""Sends records, noting each in the ledger before it goes and when it is acknowledged."""

from __future__ import annotations

import threading
import time

from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.faults.stream.ledger import HEADER, Ledger

MESSAGE_BYTES = 9 << 20
_CHUNK = 250


class Sender:
    """A producer of its own for one run; after a failed send it makes a new one.

    Args:
        bootstrap: the broker.
        ledger: what was sent.
    """

    def __init__(self, bootstrap: str, ledger: Ledger):
        self._bootstrap, self._ledger, self._producer = bootstrap, ledger, None
        self.count = 0

    def close(self, timeout=1):
        """End the producer; the next send makes another, which knows new partitions."""
        if self._producer is not None:
            self._producer.close(timeout=timeout)
            self._producer = None

    def produce(self, records, *, rate=None):
        """Send, noting the intent before and the acknowledgement after; returns how many were acknowledged.

        Args:
            records: what to send, in order.
            rate: records a second; default: as fast as it goes.
        """
        acked = 0
        for start in range(0, len(records), _CHUNK if rate is None else max(1, rate // 10)):
            some = records[start : start + (_CHUNK if rate is None else max(1, rate // 10))]
            began = time.monotonic()
            self._ledger.intend([record.row for record in some])
            acked += self._send(some)
            if rate is not None:
                time.sleep(max(0.0, len(some) / rate - (time.monotonic() - began)))
        self.count += len(records)
        return acked

    def producing(self, records, *, rate):
        """`produce` in a thread; join it."""
        thread = threading.Thread(target=self.produce, args=(records,), kwargs={"rate": rate}, daemon=True)
        thread.start()
        return thread

    def _send(self, records):
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                enable_idempotence=True,
                max_request_size=MESSAGE_BYTES,
                delivery_timeout_ms=60_000,
                request_timeout_ms=5_000,
                max_block_ms=60_000,
                linger_ms=2,
            )
        pending = []
        for r in records:
            headers = [*r.headers, (HEADER, r.row.send.encode())]
            pending.append(
                (
                    r.row.send,
                    self._producer.send(r.row.topic, r.value, r.key, headers, partition=r.partition, timestamp_ms=r.timestamp_ms),
                )
            )
        places, failed = [], 0
        for send, future in pending:
            try:
                at = future.get(timeout=90)
                places.append((send, at.partition, at.offset))
            except KafkaError:
                failed += 1
        self._ledger.acked(places)
        if failed:
            # After a failed send the order of an idempotent producer is no longer known.
            self.close()
        return len(places)
