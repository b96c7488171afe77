"""The consumer under test: `streaming.app.App` with stores, encoder, clock and trace that fail on demand.

Run: ``python consumer.py CONFIG.json`` with ``settings`` (fields of `Settings`), ``control`` (folder of `Control`), and ``encoder``:
``stub`` (in process), ``process`` (the stub in its child), ``faulty`` (`tests.faulty_encoder`) or ``real`` (the space's artifact).
"""

import faulthandler
import json
import resource
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from kafka.errors import KafkaError  # noqa: E402

from encoders.content import WHOLE_CONTENT  # noqa: E402
from encoders.stub import StubEncoder  # noqa: E402
from moontide.errors import MoontideError  # noqa: E402
from moontide.live import load_spaces  # noqa: E402
from moontide.logs import configure  # noqa: E402
from moontide.settings import load_settings  # noqa: E402
from moontide.stores import online_store, vector_index  # noqa: E402
from streaming import app  # noqa: E402
from streaming.encoder_process import encoder_process, stub_process  # noqa: E402
from streaming.encoding import Encoded, Refused  # noqa: E402
from streaming.parts import Parts  # noqa: E402
from tests.faults.stream.sinks import Control, Faulty, Points, SkewedClock  # noqa: E402
from tests.faulty_encoder import faulty_process  # noqa: E402

ONLINE = ("write_rows", "read_records", "read_sequences", "heads", "clear_dirty", "dirty")
INDEX = ("upsert", "delete", "flush", "tokens")
OFFLINE = ("append",)


class InProcessStub:
    """The stub as a `StreamEncoder` without a child."""

    restarts = 0
    reads = WHOLE_CONTENT

    def __init__(self, live, settings):
        self._stub = StubEncoder(live.space)
        self.space = live.space

    def encode(self, items):
        prepared = self._stub.prepare(items)
        bad = {reject.item_id: reject for reject in prepared.rejects}
        rows = tuple(row for row, item in enumerate(items) if item.item_id not in bad)
        refused = {r: Refused(bad[i.item_id].reason, bad[i.item_id].detail) for r, i in enumerate(items) if i.item_id in bad}
        return Encoded(self._stub.run(prepared), rows, refused)

    def close(self):
        """Nothing to stop."""


ENCODERS = {"stub": InProcessStub, "process": stub_process, "faulty": faulty_process, "real": encoder_process}


def main():
    faulthandler.register(signal.SIGUSR1)
    config = json.loads(Path(sys.argv[1]).read_text())
    settings = load_settings(**config["settings"])
    configure(sys.stderr, settings=settings, level="INFO")
    # A core dump of an aborted child takes longer than the test of it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = Control(Path(config["control"]))
    clock = SkewedClock(control)
    parts = Parts(
        online=lambda s: Faulty(online_store(s, clock=clock), "online", control, ONLINE),
        index=lambda s: Faulty(vector_index(s), "index", control, INDEX),
        encoder=ENCODERS[config["encoder"]],
        clock=clock,
        trace=Points(control),
    )
    tables = app.OfflineTables
    app.OfflineTables = lambda root: Faulty(tables(root), "offline", control, OFFLINE)
    try:
        return app.App(settings, load_spaces(settings.spaces_path), parts).run()
    except (MoontideError, KafkaError) as error:
        sys.stderr.write(f"streaming: {' '.join(str(error).split())}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
