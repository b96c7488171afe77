"""The process that sends: ``python -m benchmarks._freshness_send BOOTSTRAP SENDS START OUT``.

Open loop: each record is sent when it is due, whether or not anything kept up, and carries that moment as its Kafka timestamp, so
that a late sender or a slow consumer is in the figures and not hidden by them. START is Unix time; 0 sends all at once.
"""

import json
import sys
import time
from pathlib import Path

from kafka import KafkaProducer


def main(bootstrap, path, start, out):
    sends = [json.loads(line) for line in Path(path).open()]
    rows = [(due, topic, key.encode(), value.encode()) for due, topic, key, value in sends]
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    for topic in {row[1] for row in rows}:
        producer.partitions_for(topic)
    late, futures = [], []
    for due, topic, key, value in rows:
        at = start + due if start else time.time()
        wait = at - time.time()
        if wait > 0:
            time.sleep(wait)
        futures.append(producer.send(topic, value, key=key, timestamp_ms=int(at * 1_000)))
        late.append(-wait)
    producer.flush(timeout=60)
    failed = sum(future.failed() for future in futures)
    late.sort()
    done = {"sent": len(rows) - failed, "failed": failed, "late_p99_ms": late[int(len(late) * 0.99)] * 1e3 if late else 0.0}
    Path(out).write_text(json.dumps(done))
    producer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
