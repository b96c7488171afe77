"""The producer under everything the consumer sends."""

from __future__ import annotations

from typing import Any

from kafka import KafkaProducer
from kafka.producer.transaction_manager import TransactionState


class RecoveringProducer(KafkaProducer):
    """An idempotent producer that goes on after a record has failed that was sent.

    kafka-python 3.0.12 forgets its producer id then and never gets another, because it asks for one only in the state it starts
    in: nothing is sent any more, also when the brokers are back.
    """

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        manager = self._transaction_manager
        if manager is None:
            return
        reset = manager.reset_producer_id

        def resetting() -> None:
            with manager._lock:
                reset()
                if manager._current_state is TransactionState.READY:
                    manager._current_state = TransactionState.UNINITIALIZED

        manager.reset_producer_id = resetting
