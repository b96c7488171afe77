"""Every status of the server, by what causes it; each is a typed problem and tells nothing of the inside."""

import threading
import time
from random import Random

import numpy as np
import orjson
import pyarrow as pa
import pytest

from moontide import Misconfigured, Poison, SpaceMismatch, Transient
from serving import RankingClient
from serving.http.problems import KINDS
from serving.http.tokens import Tokens
from serving.request_log import RequestLog
from tests.unit.serving.http_site import opened, web
from tests.unit.serving.test_http_features import ARROW, arrow_body

pytestmark = pytest.mark.unit
BODY = {"user_id": "u", "item_ids": ["a"]}
TOKEN = "t" * 16


@pytest.fixture
def site(tmp_path):
    client, live = opened(tmp_path)
    with client:
        yield client, live


def problem(answer, status, kind):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["type"] == f"urn:moontide:{kind}" and said["status"] == status == KINDS[kind][0] and said["title"]
    assert "Traceback" not in answer.text
    return said["detail"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "malformed"),
        (b"{", 400, "malformed"),
        (b'{"user_id": "\xff"}', 400, "malformed"),
        (b'{"user_id": "\\ud800"}', 400, "malformed"),
        (b"[" * 100_000, 400, "malformed"),
        (b"[]", 422, "poison"),
        (b"{}", 422, "poison"),
        (b'{"user_id": 1, "item_ids": []}', 422, "poison"),
        (b'{"user_id": "u"}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": "a"}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": [1]}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": [null]}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": ["a b"]}', 422, "poison"),
        (b'{"user_id": "", "item_ids": []}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": [], "items": []}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": [], "service": 3}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": [], "request_id": "a b"}', 422, "poison"),
        (b'{"user_id": "u", "item_ids": [], "service": "ctr_v9"}', 404, "unknown-service"),
    ],
)
def test_bodies_that_do_not_fit(site, body, status, kind):
    http = web(*site)
    problem(http.post("/v1/features", content=body, headers={"Content-Type": "application/json"}), status, kind)


def test_arrow_bodies_that_do_not_fit(site):
    http = web(*site, max_candidates=3)

    def ask(content):
        return http.post("/v1/features", content=content, headers={"Content-Type": ARROW})

    good = arrow_body(["a", "b"], user_id="u")
    assert ask(good).status_code == 200
    problem(ask(b""), 400, "malformed")
    problem(ask(good[:40]), 400, "malformed")
    problem(ask(arrow_body(["a"])), 422, "poison")
    problem(ask(arrow_body(["a", None], user_id="u")), 422, "poison")
    problem(ask(arrow_body(["a"] * 4, user_id="u")), 413, "too-many-candidates")
    for table in (pa.table({"item": ["a"]}), pa.table({"item_id": [1]}), pa.table({"item_id": ["a"], "b": ["c"]}), pa.table({})):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        problem(ask(sink.getvalue().to_pybytes()), 422, "poison")


def test_a_compressed_arrow_body_is_refused_before_it_is_unpacked(site):
    table = pa.table({"item_id": ["a" * 60] * 5_000}).replace_schema_metadata({"user_id": "u"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    answer = web(*site).post("/v1/features", content=sink.getvalue().to_pybytes(), headers={"Content-Type": ARROW})
    assert "compress" in problem(answer, 422, "poison")


def test_damaged_arrow_bodies_never_fail_the_server(site):
    http, rng, good = web(*site), np.random.default_rng(3), arrow_body(["a", "b", "a", "d"], user_id="u")
    for _ in range(100):
        damaged = np.frombuffer(good, np.uint8).copy()
        at = rng.integers(0, len(damaged), rng.integers(1, 5))
        damaged[at] = rng.integers(0, 256, len(at))
        answer = http.post("/v1/features", content=damaged.tobytes(), headers={"Content-Type": ARROW})
        assert answer.status_code in {200, 400, 404, 413, 422}, answer.text


@pytest.mark.parametrize(("count", "status"), [(3, 200), (4, 413)])
def test_candidates_are_bounded(site, count, status):
    answer = web(*site, max_candidates=3).post("/v1/features", json={"user_id": "u", "item_ids": ["a"] * count})
    if status == 413:
        problem(answer, 413, "too-many-candidates")
    else:
        assert answer.status_code == status


@pytest.mark.parametrize("chunks", [1, 7])
def test_bodies_are_bounded_with_and_without_a_length(site, chunks):
    http = web(*site, max_body_bytes=1024)
    body = b" " * 1025

    def parts():
        for start in range(0, len(body), len(body) // chunks):
            yield body[start : start + len(body) // chunks]

    for content in (body, parts()):
        answer = http.post("/v1/features", content=content, headers={"Content-Type": "application/json"})
        problem(answer, 413, "too-large")
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (ARROW, ARROW),
        (f"application/json;q=0.5, {ARROW}", ARROW),
        (f"{ARROW};q=0.1, */*;q=0.2", "application/json"),
        (f"application/json;q=0, {ARROW};q=0.01", ARROW),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("application/json;q=nonsense", 406),
    ],
)
def test_the_media_type_that_is_liked_best(site, accept, given):
    http = web(*site)
    http.headers.pop("accept")
    answer = http.post("/v1/features", json=BODY, headers={} if accept is None else {"Accept": accept})
    if given == 406:
        problem(answer, 406, "not-acceptable")
    else:
        assert answer.status_code == 200 and answer.headers["content-type"] == given


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=latin-1", "application/x-www-form-urlencoded", ";"])
def test_a_body_of_another_type(site, kind):
    problem(web(*site).post("/v1/features", content=b"{}", headers={"Content-Type": kind}), 415, "media-type")


def test_pages_and_methods_there_are_not(site):
    http = web(*site)
    problem(http.get("/v1/nothing"), 404, "not-found")
    problem(http.get("/"), 404, "not-found")
    answer = http.get("/v1/features")
    problem(answer, 405, "method")
    assert answer.headers["allow"] == "POST"


class Failing:
    """The client of `site`, whose reads end in `error`."""

    def __init__(self, client, error):
        self._client, self._error = client, error

    def __getattr__(self, name):
        return getattr(self._client, name)

    def read(self, *_args, **_kwargs):
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Poison("item_id: no"), 422, "poison"),
        (SpaceMismatch("moon_v1: another"), 409, "space-mismatch"),
        (Transient("redis://me:secret@host: no answer"), 503, "transient"),
        (Misconfigured("/home/site/secret"), 500, "internal"),
        (RuntimeError("secret"), 500, "internal"),
    ],
)
def test_errors_of_the_stores(site, caplog, error, status, kind):
    client, live = site
    answer = web(Failing(client, error), live).post("/v1/features", json=BODY, headers={"X-Request-ID": "r-1"})
    problem(answer, status, kind)
    assert "secret" not in answer.text
    assert (answer.headers.get("retry-after") == "1") == (status == 503)
    if status == 500:
        assert answer.json()["request_id"] == "r-1" and "r-1" in caplog.text


class Slow:
    """The client of `site`, whose reads wait for `go`."""

    def __init__(self, client):
        self._client, self.go, self.inside = client, threading.Event(), threading.Semaphore(0)

    def __getattr__(self, name):
        return getattr(self._client, name)

    def read(self, *args, **kwargs):
        self.inside.release()
        assert self.go.wait(20)
        return self._client.read(*args, **kwargs)


def test_an_answer_that_takes_too_long(site):
    client, live = site
    slow = Slow(client)
    with web(slow, live, seconds=0.05) as http:
        problem(http.post("/v1/features", json=BODY), 504, "timeout")
        assert http.get("/healthz").status_code == 200
        slow.go.set()
        assert http.post("/v1/features", json=BODY).status_code in {200, 504}


def test_an_answer_that_came_too_late_is_not_logged(site, tmp_path):
    client, live = site
    log = RequestLog(tmp_path / "log", rate=1.0, random=Random(1), clock=lambda: 1)
    slow = Slow(RankingClient(client.online, live, log=log))
    with web(slow, live, seconds=0.05) as http:
        problem(http.post("/v1/features", json=BODY), 504, "timeout")
        slow.go.set()
    log.flush()
    assert (log.written, log.lost) == (0, 0)
    with web(slow, live, seconds=20) as http:
        assert http.post("/v1/features", json=BODY).status_code == 200
    log.close()
    assert (log.written, log.lost) == (1, 0)


def test_too_many_wait(site):
    client, live = site
    slow = Slow(client)
    with web(slow, live, threads=1, queue=0, seconds=20) as http:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(http.post("/v1/features", json=BODY)))
        asking.start()
        assert slow.inside.acquire(timeout=20)
        answer = http.post("/v1/features", json=BODY)
        problem(answer, 503, "busy")
        assert answer.headers["retry-after"] == "1"
        slow.go.set()
        asking.join()
        assert answers[0].status_code == 200
        assert http.post("/v1/features", json=BODY).status_code == 200


def test_tokens(site):
    http = web(*site, tokens=Tokens(f"{'o' * 20}, {TOKEN}"))
    for said in (None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer "):
        answer = http.post("/v1/features", json=BODY, headers={} if said is None else {"Authorization": said})
        problem(answer, 401, "no-token")
        assert answer.headers["www-authenticate"] == "Bearer"
    for said in (f"Bearer {TOKEN}", f"bearer {'o' * 20}"):
        assert http.post("/v1/features", json=BODY, headers={"Authorization": said}).status_code == 200
    problem(http.get("/metrics"), 401, "no-token")
    problem(http.get("/nothing"), 401, "no-token")
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert http.get(path).status_code == 200


def test_a_token_file_that_changes(site, tmp_path):
    clock = [0.0]
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{TOKEN}\n\n")
    tokens = Tokens(file=file, monotonic=lambda: clock[0])
    assert tokens(f"Bearer {TOKEN}".encode()) and tokens.needed()
    file.write_text("n" * 16 + "\n")
    assert not tokens(b"Bearer " + b"n" * 16)
    clock[0] = 1.1
    assert tokens(b"Bearer " + b"n" * 16) and not tokens(f"Bearer {TOKEN}".encode())
    for broken in ("", "short", "with space in it all\n", "é" * 20):
        clock[0] += 1.1
        file.write_text(broken)
        assert tokens(b"Bearer " + b"n" * 16), "a broken file leaves the old tokens in force"
        with pytest.raises(Misconfigured) as stop:
            Tokens(file=file)
        assert not broken or broken.strip() not in str(stop.value)
    with pytest.raises(Misconfigured, match="TOKEN_FILE"):
        Tokens(file=tmp_path / "none")
    with pytest.raises(Misconfigured, match="SERVING_TOKENS"):
        Tokens("short")


def test_every_answer_has_an_id_and_the_headers_of_a_careful_server(site):
    http = web(*site)
    for path in ("/healthz", "/nothing", "/metrics"):
        answer = http.get(path, headers={"X-Request-ID": "r-17"})
        assert answer.headers["x-request-id"] == "r-17"
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
    drawn = {http.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 65)}
    assert len(drawn) == 3 and all(len(value) == 32 for value in drawn)


def test_prefetch_then_features_and_what_does_not_fit(site):
    client, live = site
    http = web(client, live)
    answer = http.post("/v1/prefetch", json={"user_id": "u", "request_id": "r-1"})
    assert answer.status_code == 202 and answer.json() == {}
    problem(http.post("/v1/prefetch", json={"user_id": "u"}), 422, "poison")
    problem(http.post("/v1/prefetch", json={"user_id": "a b", "request_id": "r"}), 422, "poison")
    problem(http.post("/v1/prefetch", json={"user_id": "u", "request_id": "r", "service": "no"}), 404, "unknown-service")
    problem(http.post("/v1/prefetch", content=b"", headers={"Content-Type": ARROW}), 415, "media-type")


@pytest.mark.parametrize("accept", ["application/json", ARROW])
def test_sequence_and_similar_are_those_of_the_client(site, accept):
    client, live = site
    http = web(client, live)

    def table(answer):
        assert answer.status_code == 200, answer.text
        if accept == ARROW:
            return pa.ipc.open_stream(answer.content).read_all().to_pydict()
        return orjson.loads(answer.content)["columns"]

    for body in ({"user_id": "u"}, {"user_id": "u", "length": 1}, {"user_id": "stranger", "length": None}):
        expected = client.sequence(body["user_id"], length=body.get("length"))
        found = table(http.post("/v1/sequence", json=body, headers={"Accept": accept}))
        assert found["item_id"] == expected.column("item_id").to_pylist()
        assert found["action"] == expected.column("action").to_pylist()
        assert found["embedding_present"] == expected.column("embedding_present").to_pylist()
    for k in (1, 3):
        expected = client.similar("a", k=k)
        found = table(http.post("/v1/similar", json={"item_id": "a", "k": k}, headers={"Accept": accept}))
        assert found["item_id"] == expected.column("item_id").to_pylist() and len(found["item_id"]) == k
        assert np.array_equal(np.float32(found["cosine"]), expected.column("cosine").to_numpy())


def test_sequence_and_similar_that_do_not_fit(site):
    http = web(*site)
    for length in (0, -1, 1.5, True, "1", 10_001):
        problem(http.post("/v1/sequence", json={"user_id": "u", "length": length}), 422, "poison")
    for k in (0, 10_001, "3"):
        problem(http.post("/v1/similar", json={"item_id": "a", "k": k}), 422, "poison")
    problem(http.post("/v1/similar", json={"item_id": "nobody"}), 422, "poison")
    problem(http.post("/v1/similar", json={"item_id": "a", "space": "moon_v9"}), 404, "unknown-space")
    problem(http.post("/v1/sequence", json={"user_id": "u", "service": "no"}), 404, "unknown-service")


def test_ready_says_what_is_wrong_in_words_without_secrets(site):
    client, live = site

    class Down:
        def __getattr__(self, name):
            return getattr(client, name)

        def sequence(self, *_args, **_kwargs):
            raise Transient("redis://me:secret@host: no answer")

    assert web(client, live).get("/readyz").text == "ok\n"
    answer = web(Down(), live).get("/readyz")
    problem(answer, 503, "not-ready")
    assert {found["kind"] for found in answer.json()["problems"]} == {"transient"} and "secret" not in answer.text
    assert web(Down(), live).get("/healthz").status_code == 200


def test_metrics_count_what_was_served(site):
    http = web(*site)
    http.post("/v1/features", json={"user_id": "u", "item_ids": ["a", "nobody", "b"]})
    http.post("/v1/features", json={})
    http.get("/strange")
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
    labels = '{service="ctr_v1",space="moon_v1"}'
    assert lines["moontide_serving_candidates_total" + labels] == "3.0"
    assert lines["moontide_serving_candidates_absent_total" + labels] == "1.0"
    # of three behaviours one has no vector; nobody has none at all; own ones are dropped
    assert lines["moontide_serving_behaviours_missing_total" + labels] == "5.0"
    assert lines["moontide_serving_behaviours_total" + labels] == "7.0"
    assert lines['moontide_serving_requests_total{route="/v1/features",status="200"}'] == "1.0"
    assert lines['moontide_serving_requests_total{route="/v1/features",status="422"}'] == "1.0"
    assert lines['moontide_serving_requests_total{route="other",status="404"}'] == "1.0"
    assert lines['moontide_serving_request_seconds_count{route="/v1/features"}'] == "2.0"
    assert lines['moontide_serving_prefetch_total{outcome="off"}'] == "1.0"


def test_a_body_that_does_not_come(site):
    """The test client sends whole bodies, so the app is asked as a server would ask it."""
    import asyncio

    app, sent = web(*site, body_seconds=0.05).app, []

    async def receive():
        await asyncio.sleep(10)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/features", "raw_path": b"/v1/features", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
        "client": None, "server": ("x", 80), "state": {},
    }  # fmt: skip
    began = time.monotonic()
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 5))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
    assert time.monotonic() - began < 3
