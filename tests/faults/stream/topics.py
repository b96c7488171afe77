"""The topics of a run: made, changed, deleted, asked for their offsets."""

from __future__ import annotations

import time

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from moontide import names
from tests.faults.stream.sending import MESSAGE_BYTES
from tests.faults.stream.workload import BEHAVIOURS, ITEMS
from tests.kafka_broker import KafkaBroker

PARTITIONS = {ITEMS: 4, BEHAVIOURS: 2, names.TOPIC_ITEM_EMBEDDINGS: 2, names.TOPIC_DEAD_LETTERS: 1}
_SECONDS = 30


class Topics:
    """Topics of one broker."""

    def __init__(self, broker: KafkaBroker):
        self.broker = broker

    def delete(self, topics):
        """Delete those of the topics that exist, and wait until they are gone."""
        admin = self.broker.admin()
        try:
            there = set(admin.list_topics()) & set(topics)
            if there:
                admin.delete_topics(sorted(there))
            _until(lambda: not set(admin.list_topics()) & there)
        finally:
            admin.close()

    def make(self, topic, config=None):
        """Make a topic, or change the settings of one that is there."""
        config = {"max.message.bytes": str(MESSAGE_BYTES), **(config or {})}
        if topic == names.TOPIC_ITEM_EMBEDDINGS:
            config["cleanup.policy"] = "compact"
        self.broker.create_topic(topic, partitions=PARTITIONS[topic], config=config)
        admin = self.broker.admin()
        try:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
        finally:
            admin.close()

    def remake(self):
        """Empty topics, whatever a run before left."""
        self.delete(PARTITIONS)
        for topic in PARTITIONS:
            self.make(topic)

    def ends(self):
        """(topic, partition) -> end offset of the event topics."""
        return {(t, p): o for t in (ITEMS, BEHAVIOURS) for p, o in self.broker.end_offsets(t).items()}

    def committed(self, group):
        """(topic, partition) -> committed offset."""
        admin = self.broker.admin()
        try:
            found = admin.list_group_offsets(group)[group]
            return {(tp.topic, tp.partition): at.offset for tp, at in found.items()}
        except KafkaError:
            return {}
        finally:
            admin.close()

    def add_partitions(self, topic, count):
        """More partitions: keys move."""
        admin = self.broker.admin()
        try:
            admin.create_partitions({topic: count})
        finally:
            admin.close()
        _until(lambda: len(self.broker.end_offsets(topic)) == count)


def _until(condition):
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the broker did not do what it was asked within {_SECONDS} s")
        time.sleep(0.05)
