"""Faults of content and encoder: bombs, crashes, bad vectors, addresses that must not be opened."""

from __future__ import annotations

import http.server
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from encoders import Encoder, Item
from moontide.event_write import rfc3339
from moontide.events import Content
from tests.faults.stream.figures import Broken
from tests.faults.stream.findings import Finding
from tests.faults.stream.gathering import conclude, gather
from tests.faults.stream.scenarios import scenario
from tests.faults.stream.workload import content_hash

ROOT = Path(__file__).parents[3]


@scenario("12", short=0.25)
def encoder_dies(rig):
    """Items that abort, hang or exhaust the encoder, or make it write garbage: found, refused, and applied after a fix."""
    rig.base |= {"stream_encode_seconds": 4.0, "stream_encode_bytes": 2 << 30}
    kinds = ["abort", "run-abort", "garbage", "oom", "hang"] if rig.size >= 1 else ["abort", "run-abort", "oom"]
    bad = [rig.maker.poisoned(f"bad{n}", Content(f"fault:{kind} {n}")) for n, kind in enumerate(kinds)]
    records = rig.maker.creates() + rig.maker.mixed(rig.count(1_200))
    for record in bad:
        records.insert(rig.maker.rng.randrange(len(records)), record)
    once = Content(f"fault:kill-once {rig.folder / 'killed-once'}")
    records.insert(50, rig.maker.update("good-but-unlucky", content=once))
    consumer = rig.start(encoder="faulty")
    rig.produce(records)
    rig.quiesce(timeout=180)
    consumer.terminate()
    replay_dead_letters(rig)
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish(most_duplicates=0)


@scenario("21")
def bad_vectors(rig):
    """Vectors that are zero or not finite, and one vector for many items: refused, the index is left as it was."""
    rig.base |= {"stream_encode_batch": 256, "stream_poll_records": 1_000}
    faults = [f"fault:zero {n}" for n in range(6)] + [f"fault:same {n}" for n in range(20)] + ["fault:nan x"]
    bad = [rig.maker.poisoned(f"bad{n}", Content(title), partition=0) for n, title in enumerate(faults)]
    rig.produce(bad)
    consumer = rig.start(encoder="faulty")
    rig.quiesce()
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(1_200)))
    rig.quiesce()
    if not consumer.running:
        raise Broken("the consumer ended")
    return rig.finish(most_duplicates=0)


@scenario("24", short=0.3)
def addresses_that_must_not_be_opened(rig):
    """Images and contents named by URLs, metadata addresses and local paths: refused before anything is connected to."""
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def verify_request(self, request, client_address):
            hits.append(client_address)
            return True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rig.stops.append(server.shutdown)
    port = server.server_address[1]
    addresses = [
        *(
            f"{scheme}://{host}:{port}/a.png"
            for scheme in ("http", "https", "ftp", "hdfs", "webdav")
            for host in ("127.0.0.1", "localhost")
        ),
        f"http://127.1:{port}/",
        f"http://0x7f000001:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"simplecache::http://127.0.0.1:{port}/x",
        f"zip://x::http://127.0.0.1:{port}/x.zip",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../../../etc/passwd",
        "s3://bucket/key",
        "gs://bucket/key",
        "memory://x",
        "local:///etc/passwd",
        "\\\\127.0.0.1\\share",
        "data:image/png;base64,AAAA",
    ]
    bad = [rig.maker.poisoned(f"bad{n}", Content("t", image=a)) for n, a in enumerate(addresses)]
    bad += [by_reference(rig.maker, f"ref{n}", a) for n, a in enumerate(addresses)]
    rig.start()
    records = rig.maker.creates() + rig.maker.mixed(rig.count(1_000))
    for record in bad:
        records.insert(rig.maker.rng.randrange(len(records)), record)
    rig.produce(records)
    rig.quiesce()
    if hits:
        raise Broken(f"expected no connection, got {len(hits)}: {hits[:3]}")
    return rig.finish(most_duplicates=0)


def by_reference(maker, item, address):
    """Poison: content that lies at an address."""
    event = {"schema_version": 1, "event_id": f"e-{item}", "op": "update", "item_id": item, "source_version": 1}
    event |= {"event_timestamp": rfc3339(maker.base_us), "content_ref": address}
    return maker.raw(json.dumps(event).encode(), key=item.encode(), event_id=event["event_id"])


@scenario("11")
def image_bombs(rig):
    """Decompression bombs, animations, cut and foreign files, through the real encoder: refused before they are decoded."""
    live = ROOT / "feature_repo" / "spaces.toml"
    text = live.read_text().replace("../artifacts", str(ROOT / "artifacts"))
    (rig.home / "spaces.toml").write_text(text)
    rig.base["stream_encode_seconds"] = 20.0
    contents = {}
    records = [real_item(rig.maker, n, contents) for n in range(rig.count(220))]
    for n, image in enumerate(bombs()):
        bad = rig.maker.poisoned(f"bomb{n}", Content("bomb", image=image))
        records.insert(rig.maker.rng.randrange(len(records)), bad)
    consumer = rig.start(encoder="real")
    rig.produce(records)
    rig.quiesce(timeout=180)
    rig.figures.notes.append(f"resident memory of the consumer at the end {consumer.rss() >> 20} MB")
    evidence = gather(rig)
    encoder = Encoder.load(ROOT / "artifacts" / "moon_v2")
    found = rig.findings(evidence, vectors=lambda rows: near(encoder, contents, rows))
    return conclude(rig, evidence, found)


def real_item(maker, n, contents):
    """A good event with a text, and for some a small picture."""
    image = None
    if n % 4 == 0:
        picture = np.random.default_rng(n).integers(0, 255, (40, 30, 3), np.uint8)
        image = encoded(Image.fromarray(picture), "PNG" if n % 8 else "JPEG")
    content = Content(f"coat number {n}", attributes="colour red", image=image)
    contents[content_hash(content)] = content
    return maker.update(f"real{n % 150}", content=content)


def near(encoder, contents, rows):
    """Items whose stored vector is not that of their content: cosine below 1 - 1e-4 (a batch may change single codes)."""
    items = [
        Item(item, c.title, c.description, c.attributes, c.image)
        for item, row in rows.items()
        for c in [contents[row.content_hash]]
    ]
    vectors = encoder.encode(items)
    for at, (item, row) in enumerate(rows.items()):
        got, want = np.frombuffer(row.codes, np.int8).astype(float), vectors.codes[at].astype(float)
        cosine = got @ want / np.sqrt((got @ got) * (want @ want))
        if cosine < 1 - 1e-4:
            yield Finding("mixed", f"the vector is not the one of its content: cosine {cosine:.5f}", item)


def bombs():
    """Files that must not be decoded, or cannot be."""
    flat = encoded(Image.new("L", (9_000, 9_000)), "PNG")
    yield flat
    yield encoded(Image.new("1", (13_000, 13_000)), "PNG")
    yield encoded(Image.new("RGB", (64, 64)), "BMP")
    frames = [Image.new("P", (64, 64), n % 250) for n in range(300)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    yield out.getvalue()
    yield encoded(Image.new("RGB", (500, 500), "red"), "JPEG")[:400]
    yield b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n{}loop"
    yield b"not an image"


def encoded(image, kind):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def replay_dead_letters(rig):
    """``moontide replay-dlq``: every dead letter back to its topic; what comes back counts as good."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MOONTIDE_")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "MOONTIDE_HOME": str(rig.home),
        "MOONTIDE_KAFKA_SERVERS": rig.broker.bootstrap,
        "MOONTIDE_STREAM_SESSION_MS": "6000",
    }
    command = [sys.executable, "-m", "moontide", "replay-dlq"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Broken(f"replay-dlq ended with {done.returncode}: {done.stdout}{done.stderr}")
