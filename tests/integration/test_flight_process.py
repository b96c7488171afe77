"""The Flight server as ``python -m serving --flight-port`` starts it, over LMDB; and what stops it from starting."""

import json
import multiprocessing
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from moontide import Misconfigured
from moontide.cli.demo import environment
from moontide.cli.process import Program, free_port
from moontide.client import Client, Unavailable
from moontide.client.flight import FlightReader
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient, flight_worker
from serving.flight import Sources
from serving.flight_worker import open_server
from serving.site_files import SiteFiles
from tests.unit.serving.http_site import TOML, fill, opened

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-some-length"


@pytest.fixture
def settings():
    return Settings(serving_flight_port=0)


def test_both_servers_of_one_command_give_the_values_of_the_client_in_process(tmp_path):
    (tmp_path / "spaces.toml").write_text(TOML)
    live = load_spaces(tmp_path / "spaces.toml")
    port, flight_port = free_port(), free_port()
    with RankingClient(online_store(Settings(home=tmp_path)), live) as inside:
        fill(inside.online, live)
        command = [*environment(tmp_path), f"MOONTIDE_SERVING_TOKENS={TOKEN}", sys.executable, "-m", "serving"]
        command += ["--port", str(port), "--flight-port", str(flight_port)]
        url = f"http://127.0.0.1:{port}"
        with Program("server", command, ROOT, tmp_path / "log", f"{url}/readyz").running():
            with Client(url, token=TOKEN, timeout=30) as client:
                assert client.features("u", ["a", "nobody"]).equals(inside.features("u", ["a", "nobody"]))
            with FlightReader(f"grpc://127.0.0.1:{flight_port}", token=TOKEN) as reader:
                spaces = listed(reader)
                (batch,) = reader.features([("u", ["a", "nobody"])])
                vectors = pa.Table.from_batches(reader.vectors("moon_v1"))
        table = pa.Table.from_batches([batch]).drop_columns(["user_id"]).replace_schema_metadata(None)
        assert table.equals(inside.features("u", ["a", "nobody"]).replace_schema_metadata(None))
        truth = inside.online.read_embeddings(live.space("moon_v1"), vectors["item_id"].to_pylist())
    assert sorted(vectors["item_id"].to_pylist()) == list("abcd")
    assert np.array_equal(np.stack(vectors["embedding"].to_numpy()), truth.to_float())
    assert len(spaces) == 3
    assert "Traceback" not in (tmp_path / "log").read_text() and TOKEN not in (tmp_path / "log").read_text()


def listed(reader):
    """It may come up a little after the HTTP server."""
    ends = time.monotonic() + 120
    while True:
        try:
            return reader.list()
        except Unavailable:
            assert time.monotonic() < ends
            time.sleep(0.2)


def test_it_listens_where_the_settings_say_and_closes(tmp_path, settings):
    client, live = opened(tmp_path)
    with client:
        server = open_server(settings, Sources(client, client.online, live))
        taken = settings.model_copy(update={"serving_flight_port": server.port})
        with FlightReader(f"grpc://127.0.0.1:{server.port}", timeout=10) as reader:
            assert len(reader.list()) == 3
            with pytest.raises(Misconfigured, match=f"expected a free port, got 127.0.0.1:{server.port}"):
                open_server(taken, Sources(client, client.online, live))
            server.close()
            with pytest.raises(Unavailable):
                reader.list()


def test_without_a_port_it_says_which_setting_is_missing(tmp_path):
    client, live = opened(tmp_path)
    with client, pytest.raises(Misconfigured, match="MOONTIDE_SERVING_FLIGHT_PORT"):
        open_server(Settings(), Sources(client, client.online, live))


def test_a_stream_that_runs_when_the_server_stops_ends_with_a_reason(tmp_path, settings):
    client, live = opened(tmp_path)
    with client:
        server = open_server(settings, Sources(client, client.online, live))
        with FlightReader(f"grpc://127.0.0.1:{server.port}", timeout=10) as reader:
            stream = reader.features(("u", ["a"]) for _ in range(200))
            next(stream)
            server._stopping = True
            with pytest.raises(Unavailable, match="one that stops"):
                list(stream)
        server.shutdown()


@contextmanager
def process(folder, **values):
    (folder / "spaces.toml").write_text(TOML)
    live = load_spaces(folder / "spaces.toml")
    with RankingClient(online_store(Settings(home=folder)), live) as inside:
        fill(inside.online, live)
    site = Settings(home=folder, serving_flight_port=free_port(), serving_drain_seconds=0.5)
    started = multiprocessing.get_context("spawn").Process(
        target=flight_worker.serve_flight, args=(SiteFiles(site, folder / "spaces.toml"),), kwargs=values
    )
    started.start()
    try:
        with FlightReader(location := f"grpc://127.0.0.1:{site.serving_flight_port}") as reader:
            listed(reader)
        yield started, location
    finally:
        started.kill()
        started.join()


def exchange(location, batch, compression=None):
    options = flight.FlightCallOptions(write_options=pa.ipc.IpcWriteOptions(compression=compression))
    command = flight.FlightDescriptor.for_command(b'{"service": "ctr_v1"}')
    writer, answers = flight.connect(location).do_exchange(command, options)
    writer.begin(batch.schema)
    writer.write_batch(batch)
    return writer, answers


def test_an_idle_exchange_does_not_hold_up_the_stop(tmp_path):
    with process(tmp_path) as (server, location):
        _writer, answers = exchange(location, pa.record_batch({"user_id": ["u"], "item_ids": [["a"]]}))
        assert answers.read_chunk().data.num_rows == 1
        server.terminate()
        server.join(10)
        assert server.exitcode == 0


BOMB = pa.record_batch({"user_id": ["u"], "item_ids": [["a" * (100 << 20)]]})
ASKED = [("u", ["a", "b", "c", "d", "x"] * 100)] * 64


def test_a_compressed_batch_is_refused_by_what_it_becomes_and_others_are_answered(tmp_path):
    with process(tmp_path) as (_, location), FlightReader(location, timeout=60) as reader:
        _writer, answers = exchange(location, BOMB, "zstd")
        with pytest.raises(flight.FlightServerError, match="67108864 bytes, decompressed, got 1 rows, 1048") as caught:
            answers.read_chunk()
        assert json.loads(caught.value.extra_info)["status"] == 413
        assert sum(batch.num_rows for batch in reader.features(ASKED)) == 64 * 500


def test_a_batch_beyond_the_cap_is_never_whole_in_memory(tmp_path, monkeypatch):
    # Arrow's own allocator has 1 GiB in reserve, which the cap takes as had.
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    with process(tmp_path, room=64 << 20) as (_, location), FlightReader(location, timeout=60) as reader:
        assert sum(batch.num_rows for batch in reader.features(ASKED)) == 64 * 500
        # Arrow survives no failed allocation while it reads: the process ends, and its supervisor starts it again.
        with pytest.raises(flight.FlightError) as caught:
            exchange(location, BOMB, "zstd")[1].read_chunk()
        assert "decompressed, got" not in str(caught.value)
