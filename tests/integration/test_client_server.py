"""The HTTP client against the real server app over a real connection; `RankingClient` is the oracle."""

import asyncio
import contextlib
import ssl
import subprocess
import time

import pyarrow as pa
import pytest

from moontide import Misconfigured, Poison, SpaceMismatch, Transient
from moontide.client import AsyncClient, Client, Unavailable
from serving import RankingClient
from serving.http.tokens import Tokens
from serving.prefetch import PrefetchCache
from tests.http_server import running
from tests.unit.serving.http_site import opened

pytestmark = pytest.mark.integration
TOKEN = "a-token-of-some-length"


@pytest.fixture
def site(tmp_path):
    client, live = opened(tmp_path)
    with client:
        yield client, live


@pytest.mark.parametrize("ids", [[], ["a"], ["b", "nobody", "a", "b", "d"], [f"i{n}" for n in range(3_000)]])
@pytest.mark.parametrize("service", ["ctr_v1", "bare"])
def test_the_values_are_those_of_the_ranking_client_bit_for_bit(site, ids, service):
    with running(*site) as url, Client(url, timeout=10) as client:
        got = client.features("u", ids, service=service)
        assert got.equals(site[0].features("u", ids, service=service), check_metadata=True)

    async def ask():
        async with AsyncClient(url, timeout=10) as client:
            return await asyncio.gather(*(client.features("u", ids, service=service) for _ in range(5)))

    with running(*site) as url:
        assert all(table.equals(got, check_metadata=True) for table in asyncio.run(ask()))


def test_the_other_routes(site, tmp_path):
    inside, live = site
    ahead = RankingClient(inside.online, live, prefetched=PrefetchCache(time.monotonic))
    with running(ahead, live) as url, Client(url, timeout=10) as client:
        for length in (None, 1, 2):
            got = client.sequence("u", length=length)
            assert got.equals(inside.sequence("u", length=length), check_metadata=True)
        assert client.sequence("nobody").num_rows == 0
        assert client.similar("a", k=2).equals(inside.similar("a", k=2))
        assert client.similar("a", k=2, space="moon_v1").num_rows == 2
        with pytest.raises(Misconfigured, match="space: expected one of"):
            client.similar("a", space="moon_v9")
        client.prefetch("u", request_id="r1")
        for request_id, came in (("r1", (b"hit", b"late")), ("r2", (b"miss",)), (None, (b"miss", b"off"))):
            got = client.features("u", ["a", "b"], request_id=request_id)
            assert got.schema.metadata[b"prefetch"] in came
            assert got.equals(inside.features("u", ["a", "b"]))


def test_refusals_are_errors_of_ours(site):
    with running(*site, tokens=Tokens(TOKEN), max_candidates=3) as url:
        with Client(url, token=TOKEN, timeout=10) as client:
            for user, ids, service, kind, text in (
                ("u", ["a"], "ctr_v9", Misconfigured, "service: expected one of"),
                ("u", ["a b"], "ctr_v1", Poison, "item_id: expected 1 to 64"),
                ("u", list("abcd"), "ctr_v1", Poison, "at most 3"),
            ):
                with pytest.raises(kind, match=text):
                    client.features(user, ids, service=service)
        with Client(url, token="another-token-of-some-length", timeout=10) as client, pytest.raises(Misconfigured, match="token"):
            client.features("u", ["a"])


class Failing:
    """A `RankingClient` whose calls raise as often as `errors` lasts."""

    def __init__(self, client, *errors):
        self._client, self._errors = client, list(errors)

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **values):
            if self._errors:
                raise self._errors.pop(0)
            return method(*args, **values)

        return call


def test_a_store_that_comes_back_within_the_deadline_is_not_noticed(site):
    failing = Failing(site[0], Transient("redis"), Transient("redis"))
    with running(failing, site[1]) as url, Client(url, timeout=10) as client:
        assert client.features("u", ["a"]).equals(site[0].features("u", ["a"]))


def test_a_store_that_does_not_says_when_to_come_back(site):
    failing = Failing(site[0], *[Transient("redis")] * 9)
    with running(failing, site[1]) as url, Client(url, timeout=0.5) as client, pytest.raises(Unavailable) as caught:
        client.features("u", ["a"])
    assert caught.value.retry_after >= 1


def test_another_encoders_vectors_are_a_mismatch(site):
    with running(Failing(site[0], SpaceMismatch("x: expected space a, got b")), site[1]) as url, Client(url) as client:
        with pytest.raises(SpaceMismatch, match="expected space a, got b"):
            client.features("u", ["a"])


def test_a_server_that_ends_is_replaced_by_the_other_without_a_failed_call(site):
    users = [f"u{n}" for n in range(20)]
    with running(*site) as stays, contextlib.ExitStack() as stack:
        goes = stack.enter_context(running(*site))
        with Client([stays, goes], timeout=10) as client:
            for user in users:
                client.features(user, ["a"])
            stack.close()
            assert all(client.features(user, ["a"]).num_rows == 1 for user in users)


def test_tls(site, tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout",
         "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with running(*site, tls=tmp_path) as url:
        with Client(url, timeout=10, tls=ssl.create_default_context(cafile=tmp_path / "cert.pem")) as client:
            assert client.features("u", ["a"]).num_rows == 1
        with Client(url, timeout=2) as client, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            client.features("u", ["a"])


def test_a_table_of_the_client_may_be_kept_after_it_is_closed(site):
    with running(*site) as url:
        with Client(url, timeout=10) as client:
            table = client.features("u", ["a", "b"])
    assert isinstance(table, pa.Table) and table.equals(site[0].features("u", ["a", "b"]))
    table.validate(full=True)
