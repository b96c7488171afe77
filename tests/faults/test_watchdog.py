"""A consumer that hangs restarts itself, and the record it hung on is applied."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer

from moontide import names

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0" * 64
SPACES = f'[[space]]\nname = "moon"\nversion = 1\ndim = 16\nencoder_digest = "{DIGEST}"\n'
#: Hangs in its first write, unless it has been restarted.
PROGRAM = """
import sys, time
from moontide.live import load_spaces
from moontide.settings import load_settings
from moontide.stores import online_store
from streaming.app import App
from streaming.encoder_process import stub_process
from streaming.parts import Parts

settings = load_settings()

def hanging(settings):
    store = online_store(settings)
    if settings.stream_restarts == 0:
        store.write_rows = lambda view, rows: time.sleep(3600)
    return store

sys.exit(App(settings, load_spaces(settings.spaces_path), Parts(online=hanging, encoder=stub_process)).run())
"""


def test_a_consumer_that_hangs_restarts_itself(tmp_path, own_kafka_broker):
    for topic in (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS, names.TOPIC_ITEM_EMBEDDINGS, names.TOPIC_DEAD_LETTERS):
        own_kafka_broker.create_topic(topic)
    (tmp_path / "spaces.toml").write_text(SPACES)
    (tmp_path / "program.py").write_text(PROGRAM)
    event = {
        "schema_version": 1, "event_id": "e1", "op": "create", "item_id": "a", "source_version": 1,
        "event_timestamp": "2026-01-01T00:00:00Z", "content": {"title": "a title"},
    }  # fmt: skip
    producer = KafkaProducer(bootstrap_servers=own_kafka_broker.bootstrap)
    producer.send(names.TOPIC_ITEM_EVENTS, json.dumps(event).encode()).get(timeout=10)
    producer.close()
    audit = tmp_path / "audit"
    env = {
        "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "MOONTIDE_HOME": str(tmp_path), "MOONTIDE_STREAM_PORT": "0",
        "MOONTIDE_KAFKA_SERVERS": own_kafka_broker.bootstrap, "MOONTIDE_STREAM_STALL_SECONDS": "6",
        "MOONTIDE_STREAM_SESSION_MS": "6000", "MOONTIDE_STREAM_CHECKPOINT_SECONDS": "0.5", "MOONTIDE_STREAM_AUDIT_FILE": str(audit),
    }  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], env=env, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 90
            while not (audit.exists() and audit.read_text().strip()) and time.monotonic() < deadline:
                assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "log").read_text()
    assert [json.loads(line)["verdict"] for line in audit.read_text().splitlines() if line] == ["applied"], said[-2000:]
    assert "Thread 0x" in said, "the stacks of the hanging process are for the person who looks into it"
