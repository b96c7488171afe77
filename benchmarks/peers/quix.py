"""Quix Streams with a batching sink: ``python -m benchmarks.peers.quix CONFIG``, in a virtual environment of its own.

At each of Quix' checkpoints: encoder in the consumer's batch size, one LMDB transaction, one Milvus upsert. Quix commits
after the sink, so that nothing is lost. What it does not give: no fence, so that a replay or a slow old process overwrites
newer rows; no skipping of unchanged content; a record that fails or kills the encoder ends the process, again at each start;
stores may differ after a crash between two writes.
"""

import json
import sys
from pathlib import Path

from pymilvus import MilvusClient
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.peers.common import item_of, load_encoder, milvus_rows
from benchmarks.peers.plain_lmdb import PlainLmdb

CHECKPOINT_SECONDS = 0.2
ENCODE_BATCH = 32


class Sink(BatchingSink):
    def __init__(self, config):
        super().__init__()
        self.encoder = load_encoder(config["artifact"])
        self.store = PlainLmdb(config["lmdb"])
        self.milvus = MilvusClient(config["index"])
        self.collection = config["collection"]

    def write(self, batch: SinkBatch):
        for items in batch.iter_chunks(ENCODE_BATCH):
            # Of two events of one item in a chunk the later one counts.
            events = list({item.value["item_id"]: item.value for item in items}.values())
            ids, versions = [e["item_id"] for e in events], [e["source_version"] for e in events]
            vectors = self.encoder.encode([item_of(e) for e in events]).to_float()
            self.store.write(ids, versions, vectors)
            self.milvus.upsert(self.collection, milvus_rows(ids, versions, vectors))


def main(config):
    app = Application(
        broker_address=config["bootstrap"],
        consumer_group=config["group"],
        auto_offset_reset="earliest",
        commit_interval=CHECKPOINT_SECONDS,
        auto_create_topics=False,
        consumer_extra_config={"fetch.wait.max.ms": 50},
        loglevel="WARNING",
    )
    events = app.dataframe(app.topic(config["topic"], value_deserializer="json", key_deserializer="bytes"))
    events.sink(Sink(config))
    app.run()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
