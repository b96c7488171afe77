"""The loop most people write first: ``python -m benchmarks.peers.hand_written CONFIG``.

kafka-python; for every message one encoder call, one Feast `push`, one Milvus upsert; the position is committed after each poll.
No fence (an old event overwrites a new one), no skipping of unchanged content, nothing isolated: a bad record ends it.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from feast import FeatureStore
from feast.data_source import PushMode
from kafka import KafkaConsumer
from pymilvus import MilvusClient

from benchmarks.peers.common import item_of, load_encoder, milvus_rows, parsed


def main(config):
    encoder = load_encoder(config["artifact"])
    store = FeatureStore(repo_path=config["feast"])
    milvus = MilvusClient(config["index"])
    consumer = KafkaConsumer(
        config["topic"],
        bootstrap_servers=config["bootstrap"],
        group_id=config["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        max_poll_records=100,
    )
    while True:
        polled = consumer.poll(timeout_ms=100)
        for record in (r for records in polled.values() for r in records):
            event = parsed(record.value)
            vectors = encoder.encode([item_of(event)]).to_float()
            row = {
                "item_id": [event["item_id"]],
                "embedding": [vectors[0]],
                "source_version": [event["source_version"]],
                "event_timestamp": [pd.Timestamp(event["event_timestamp"])],
            }
            store.push("item_push", pd.DataFrame(row), to=PushMode.ONLINE)
            milvus.upsert(config["collection"], milvus_rows([event["item_id"]], [event["source_version"]], vectors))
        if polled:
            consumer.commit()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
