"""The process that watches, as any reader would: ``python -m benchmarks._freshness_probe CONFIG``.

CONFIG (JSON): probes, start (Unix time), out, until, and where to look: spaces, space, home, index, and for a peer `feast` or
`lmdb`. Rows (JSON lines) are ``[kind, entity, due, seconds]``, seconds from the moment the event was due, null where it was never
seen. Readable is looked for every 5 ms, search every 50 ms, tiers every 10 ms; that much may be added to each figure.
"""

import json
import sys
import threading
import time
from pathlib import Path

from benchmarks._freshness_readers import open_reader

EVERY = {"readable": 0.005, "search": 0.05, "tier": 0.01}


def watch(kind, probes, look, config, rows):
    """Until every probe was seen, or `config["until"]`."""
    start, waiting = config["start"], sorted(probes, key=lambda p: p["due"])
    active = []
    while (waiting or active) and time.time() < config["until"]:
        now = time.time()
        while waiting and start + waiting[0]["due"] <= now:
            active.append(waiting.pop(0))
        if active:
            some = active[:2_000]
            there = look(some)
            seen = time.time()
            rows += [(kind, p["entity"], p["due"], seen - start - p["due"]) for p, ok in zip(some, there, strict=True) if ok]
            active = [p for p, ok in zip(some, there, strict=True) if not ok] + active[2_000:]
        time.sleep(EVERY[kind])
    # What was superseded or never came is in the figures as not seen.
    rows += [(kind, p["entity"], p["due"], None) for p in active + waiting]


def main(path):
    config = json.loads(Path(path).read_text())
    probes = [json.loads(line) for line in Path(config["probes"]).open()]
    reader = open_reader(config)
    reader.warm(probes)
    print("ready", flush=True)
    config |= json.loads(sys.stdin.readline())
    rows = []
    threads = [
        threading.Thread(target=watch, args=(kind, mine, getattr(reader, kind), config, rows))
        for kind in EVERY
        if (mine := [p for p in probes if p["kind"] == kind])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(config["out"]).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(sys.argv[1])
