"""The Flight server and its reader, over a real connection and the in-memory store; `RankingClient` is the oracle."""

import json
import subprocess
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from moontide import Embeddings, Misconfigured, Poison, SpaceMismatch, Transient, views
from moontide.client import Unavailable
from moontide.client.flight import FlightReader
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.flight import FlightServer, Limits, Sources
from serving.http.tokens import Tokens

pytestmark = pytest.mark.integration
NOW = 1_700_000_000_000_000
TOKEN = "a-token-of-some-length"
ITEMS = [f"i{n:03}" for n in range(300)]
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
[[simtier]]
space = "moon_v1"
tiers = 10
length = 5
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l5_drop"
item_fields = ["price", "category"]
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flight")
    (folder / "spaces.toml").write_text(TOML)
    live = load_spaces(folder / "spaces.toml")
    store = online_store(Settings(home=folder, online="memory", project="flight"))
    space = live.space("moon_v1")
    vectors = Embeddings.from_float(space, np.random.default_rng(3).normal(size=(len(ITEMS), 8)).astype(np.float32), ids=ITEMS)
    rows = embedding_rows(vectors, source_version=1, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW)
    store.write_rows(views.embedding_view(space), rows)
    for n in range(20):
        table = pa.table(
            {"user_id": [f"u{n}"], "item_ids": [ITEMS[n : n + 7]], "actions": [["buy"] * 7], "times": [list(range(NOW, NOW + 7))]}
        )
        store.write_rows(views.user_sequence(), table)
    with RankingClient(store, live) as client:
        yield Sources(client, store, live)


@pytest.fixture
def serve(sources):
    made = []

    def start(**values):
        made.append(FlightServer("grpc://127.0.0.1:0", values.pop("sources", sources), **values))
        return f"grpc://127.0.0.1:{made[-1].port}"

    yield start
    for server in made:
        server.shutdown()


@pytest.fixture
def reader(serve):
    with FlightReader(serve()) as made:
        yield made


def body(table):
    """A batch of the stream as the table that `RankingClient` gives."""
    return pa.Table.from_batches([table]).drop_columns(["user_id"]).replace_schema_metadata(None)


@pytest.mark.parametrize("count", [0, 1, 3, 64, 65, 200])
def test_each_request_is_answered_in_order_bit_for_bit(reader, sources, count):
    asked = [(f"u{n % 30}", ITEMS[n % 7 : n % 7 + n % 5] + ["unknown"] * (n % 2)) for n in range(count)]
    got = list(reader.features(iter(asked)))
    assert len(got) == count
    for (user, items), batch in zip(asked, got, strict=True):
        oracle = sources.client.features(user, items)
        assert body(batch).equals(oracle.replace_schema_metadata(None))
        assert batch["user_id"].to_pylist() == [user] * len(items)
        told = {k.decode(): v.decode() for k, v in batch.schema.metadata.items()}
        expected = {k.decode(): v.decode() for k, v in oracle.schema.metadata.items()}
        assert told == {**expected, "user_id": user}


def test_a_caller_who_does_not_read_holds_the_server_back(serve, sources):
    served = []

    class Noted:
        def features(self, user_id, item_ids, **values):
            served.append(user_id)
            return sources.client.features(user_id, item_ids, **values)

    writer, answers = flight.connect(serve(sources=Sources(Noted(), sources.store, sources.live))).do_exchange(
        flight.FlightDescriptor.for_command(b'{"service": "ctr_v1"}')
    )
    batch = pa.record_batch({"user_id": ["u1"] * 1_000, "item_ids": [ITEMS] * 1_000})
    writer.begin(batch.schema)
    writer.write_batch(batch)
    before = -1
    while len(served) != before:
        before = len(served)
        time.sleep(0.2)
    assert 0 < len(served) < 900
    writer.done_writing()
    assert answers.read_all().num_rows == 1_000 * len(ITEMS)


def test_what_the_callers_requests_raise_comes_out_as_it_is(reader):
    def requests():
        for _ in range(70):
            yield "u1", ["i001"]
        raise ZeroDivisionError

    stream = reader.features(requests())
    assert [next(stream).num_rows for _ in range(64)] == [1] * 64
    with pytest.raises(ZeroDivisionError):
        next(stream)


@pytest.mark.parametrize(
    ("request_", "service", "kind", "text"),
    [
        (("u1", ["a b"]), "ctr_v1", Poison, "item_id: expected 1 to 64"),
        (("u 1", ["a"]), "ctr_v1", Poison, "user_id: expected 1 to 64"),
        ((None, ["a"]), "ctr_v1", Poison, "expected values, got null"),
        (("u1", pa.array(["a", None])), "ctr_v1", Poison, "item_id"),
        (("u1", ITEMS), "ctr_v1", Poison, "at most 250 a row, got 300"),
        (("u1", ["a"]), "ctr_v9", Misconfigured, "service: expected one of .'ctr_v1'., got 'ctr_v9'"),
    ],
)  # fmt: skip
def test_a_refused_request_ends_the_stream_with_its_reason_and_no_traceback(serve, request_, service, kind, text):
    location = serve(limits=Limits(candidates=250))
    with FlightReader(location) as reader:
        got = []
        with pytest.raises(kind, match=text) as caught:
            got.extend(reader.features([("u1", ["i001"]), request_], service=service))
        assert "Traceback" not in str(caught.value) and ".py" not in str(caught.value)
        assert len(got) == (0 if service == "ctr_v9" else 1)
        assert len(list(reader.features([("u1", ["i001"])]))) == 1


def raw(location, command=b'{"service": "ctr_v1"}', batch=None):
    client = flight.connect(location)
    writer, answers = client.do_exchange(flight.FlightDescriptor.for_command(command))
    writer.begin(batch.schema)
    writer.write_batch(batch)
    writer.done_writing()
    return answers.read_all()


@pytest.mark.parametrize(
    "batch",
    [
        pa.record_batch({"user_id": ["u1"]}),
        pa.record_batch({"user_id": ["u1"], "item_ids": ["a"]}),
        pa.record_batch({"user_id": [1], "item_ids": [["a"]]}),
        pa.record_batch({"user_id": ["u1"], "item_ids": [["a"]], "more": [1]}),
        pa.record_batch({"user_id": ["u1"], "item_ids": pa.array([None], pa.list_(pa.string()))}),
    ],
)  # fmt: skip
def test_other_columns_are_refused(serve, batch):
    with pytest.raises(flight.FlightServerError, match="expected") as caught:
        raw(serve(), batch=batch)
    assert json.loads(caught.value.extra_info)["status"] == 422
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("command", [b"", b"[]", b"\xff", b'{"service": 3}', b'{"service": "ctr_v1", "x": 1}', b"[" * 100_000])
def test_a_command_that_is_none_is_refused(serve, command):
    with pytest.raises(flight.FlightServerError, match="expected") as caught:
        raw(serve(), command, pa.record_batch({"user_id": ["u1"], "item_ids": [["a"]]}))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("rows", [1, 7, 4_096])
def test_a_whole_space_is_streamed_in_bounded_batches(serve, sources, rows):
    with FlightReader(serve(limits=Limits(rows=rows))) as reader:
        batches = list(reader.vectors("moon_v1"))
        codes = pa.Table.from_batches(reader.vectors("moon_v1", codes=True))
    assert max(b.num_rows for b in batches) <= rows
    got = pa.Table.from_batches(batches)
    truth = sources.store.read_embeddings(sources.live.space("moon_v1"), got["item_id"].to_pylist())
    assert sorted(got["item_id"].to_pylist()) == ITEMS
    assert np.array_equal(np.array(got["embedding"].to_pylist(), np.float32), truth.to_float())
    assert got["embedding_present"].to_pylist() == [True] * len(ITEMS)
    assert codes["item_id"].to_pylist() == got["item_id"].to_pylist()
    assert np.array_equal(np.array(codes["codes"].to_pylist(), np.int8), truth.codes)
    assert codes["scale"].to_numpy().tobytes() == truth.scale.tobytes()
    assert codes["inv_norm"].to_numpy().tobytes() == truth.inv_norm.tobytes()
    assert got.schema.metadata[b"space"] == b"moon_v1"


@pytest.mark.parametrize("ids", [[], ["i005"], ["i005", "unknown", "i001", "i005"], ITEMS])
@pytest.mark.parametrize("codes", [False, True])
def test_named_vectors_come_in_the_order_asked_for(serve, sources, ids, codes):
    with FlightReader(serve(limits=Limits(rows=100))) as reader:
        rows = [row for batch in reader.vectors("moon_v1", ids, codes=codes) for row in batch.to_pylist()]
    truth = sources.store.read_embeddings(sources.live.space("moon_v1"), ids)
    assert [row["item_id"] for row in rows] == ids
    assert [row["embedding_present"] for row in rows] == truth.present.tolist()
    values = truth.codes if codes else truth.to_float()
    expected = [v.tolist() if there else None for v, there in zip(values, truth.present, strict=True)]
    assert [row["codes" if codes else "embedding"] for row in rows] == expected


@pytest.mark.parametrize(
    ("space", "ids", "kind", "text"),
    [("moon_v9", None, Misconfigured, "space: expected one of"), ("moon_v1", ["a b"], Poison, "item_id: expected 1 to 64"),
     ("moon_v1", ITEMS, Poison, "at most 200 of one ticket")],
)  # fmt: skip
def test_tickets_that_cannot_be_served(serve, space, ids, kind, text):
    with FlightReader(serve(limits=Limits(ids=200))) as reader, pytest.raises(kind, match=text):
        list(reader.vectors(space, ids))


def test_it_lists_what_there_is(reader, sources):
    found = reader.list()
    assert [json.loads(command) for command in found] == [{"space": "moon_v1"}, {"service": "ctr_v1"}]
    space, service = found.values()
    assert space.equals(next(reader.vectors("moon_v1")).schema)
    assert service.remove_metadata().equals(next(reader.features([("u1", ["a"])])).schema.remove_metadata())


def test_stock_flight_clients_read_a_space_by_its_info(serve):
    client = flight.connect(serve())
    descriptor = flight.FlightDescriptor.for_command(b'{"space": "moon_v1"}')
    info = client.get_flight_info(descriptor)
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == len(ITEMS)
    assert client.get_schema(descriptor).schema == info.schema
    with pytest.raises(flight.FlightServerError, match="service: expected one of"):
        client.get_flight_info(flight.FlightDescriptor.for_command(b'{"service": "x"}'))


def test_the_calls_it_does_not_have_are_refused_without_a_traceback(serve):
    client = flight.connect(serve())
    with pytest.raises(flight.FlightServerError, match="do_put: expected") as caught:
        writer, _ = client.do_put(flight.FlightDescriptor.for_command(b"x"), pa.schema([("x", pa.int64())]))
        writer.close()
    assert "Traceback" not in str(caught.value)
    with pytest.raises(flight.FlightServerError, match="do_action: expected"):
        list(client.do_action(b"x"))
    assert list(client.list_actions()) == []


@pytest.mark.parametrize("token", [None, "another-token-of-some-length"])
def test_without_a_valid_token_nothing_is_answered(serve, token):
    location = serve(tokens=Tokens(TOKEN))
    with FlightReader(location, token=TOKEN) as reader:
        assert len(reader.list()) == 2 and len(list(reader.features([("u1", [])]))) == 1
    with FlightReader(location, token=token) as reader:
        for call in (reader.list, lambda: list(reader.vectors("moon_v1")), lambda: list(reader.features([("u1", ["a"])]))):
            with pytest.raises(Misconfigured, match="expected a token") as caught:
                call()
            assert TOKEN not in str(caught.value) and "Traceback" not in str(caught.value)
    with pytest.raises(flight.FlightUnauthenticatedError):
        list(flight.connect(location).list_flights())


class Failing:
    """A store and client of which every read raises."""

    def __init__(self, error, sources):
        self._error, self._sources = error, sources

    def features(self, user_id, item_ids, **values):
        if len(item_ids):
            raise self._error
        return self._sources.client.features(user_id, item_ids, **values)

    def read_embeddings(self, space, ids):
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [(Transient("redis at 10.0.0.1"), Unavailable, "does not answer now"), (SpaceMismatch("expected x"), SpaceMismatch, "expected x"),
     (ValueError("secret"), Unavailable, "its log says why"), (Misconfigured("path /secret"), Unavailable, "its log says why")],
)  # fmt: skip
def test_failures_of_the_store_are_typed_and_tell_nothing_of_the_inside(serve, sources, error, kind, text):
    failing = Failing(error, sources)
    with FlightReader(serve(sources=Sources(failing, failing, sources.live))) as reader:
        for call in (lambda: reader.features([("u1", ["i001"])]), lambda: reader.vectors("moon_v1", ["i001"])):
            with pytest.raises(kind, match=text) as caught:
                list(call())
            assert not any(word in str(caught.value) for word in ("secret", "10.0.0.1", "Traceback"))


def test_too_many_streams_are_turned_away_and_an_ended_one_makes_room(serve):
    with FlightReader(serve(limits=Limits(streams=1))) as reader:
        held = reader.features([("u1", ["i001"])])
        next(held)
        with pytest.raises(Unavailable, match="at most 1 at once"):
            list(reader.vectors("moon_v1"))
        assert list(held) == []
        assert len(list(reader.vectors("moon_v1", ["i001"]))) == 1


@pytest.mark.parametrize(("limits", "got"), [({"batch_rows": 2}, "3 rows"), ({"batch_bytes": 1 << 20}, "3 rows, 2")])
def test_a_batch_of_too_many_rows_or_bytes_is_refused(serve, limits, got):
    batch = pa.record_batch({"user_id": ["u"] * 3, "item_ids": [["a" * (1 << 20)], ["a" * (1 << 20)], []]})
    with pytest.raises(flight.FlightServerError, match=f"decompressed, got {got}") as caught:
        raw(serve(limits=Limits(**limits)), batch=batch)
    assert json.loads(caught.value.extra_info)["status"] == 413


def test_an_idle_exchange_gives_way_and_is_told_when_it_goes_on(serve):
    location = serve(limits=Limits(streams=1, idle_seconds=0.2))
    batch = pa.record_batch({"user_id": ["u1"], "item_ids": [["i001"]]})
    writer, answers = flight.connect(location).do_exchange(flight.FlightDescriptor.for_command(b'{"service": "ctr_v1"}'))
    writer.begin(batch.schema)
    writer.write_batch(batch)
    assert answers.read_chunk().data.num_rows == 1
    time.sleep(0.3)
    with FlightReader(location) as reader:
        assert len(list(reader.features([("u1", ["i001"])] * 3))) == 3
    writer.write_batch(batch)
    with pytest.raises(flight.FlightTimedOutError, match="expected progress within 0.2 s"):
        answers.read_chunk()


def test_a_stream_that_its_caller_drops_makes_room(serve):
    with FlightReader(serve(limits=Limits(streams=1, rows=1))) as reader:
        stream = reader.vectors("moon_v1")
        next(stream)
        stream.close()
        deadline = time.monotonic() + 5
        while True:
            try:
                assert len(list(reader.vectors("moon_v1", ["i001"]))) == 1
                return
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_nobody_listens():
    with FlightReader("grpc://127.0.0.1:1", timeout=5) as reader, pytest.raises(Unavailable, match="flight vectors at grpc"):
        list(reader.vectors("moon_v1"))


@pytest.mark.parametrize("location", ["", "127.0.0.1:1", "http://127.0.0.1:1"])
def test_what_is_no_location_is_refused(location):
    with pytest.raises(Misconfigured, match="expected grpc"):
        FlightReader(location)


def test_tls(sources, tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout",
         "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    pair = (tmp_path / "cert.pem").read_bytes(), (tmp_path / "key.pem").read_bytes()
    server = FlightServer("grpc+tls://127.0.0.1:0", sources, tls=pair, tokens=Tokens(TOKEN))
    location = f"grpc+tls://localhost:{server.port}"
    try:
        with FlightReader(location, token=TOKEN, tls_roots=pair[0]) as reader:
            assert len(reader.list()) == 2
        with FlightReader(location, token=TOKEN, timeout=3) as reader, pytest.raises(Unavailable):
            reader.list()
    finally:
        server.shutdown()
