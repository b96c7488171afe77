"""The Flight server as ``python -m serving --flight-port`` starts it, over LMDB; and what stops it from starting."""

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moontide import Misconfigured
from moontide.cli.demo import environment
from moontide.cli.process import Program, free_port
from moontide.client import Client, Unavailable
from moontide.client.flight import FlightReader
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.flight import Sources
from serving.flight_worker import open_server
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
