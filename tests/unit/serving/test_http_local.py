"""Which names a server without tokens answers to."""

import pytest
from starlette.testclient import TestClient

from serving.http.app import Parts, Site
from serving.http.local import is_local
from tests.unit.serving.http_site import opened

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:80", "127.9.9.9", "[::1]", "[::1]:8080", "localhost:"]
)
def test_names_of_this_machine(host):
    assert is_local(host.encode())


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
        "10.0.0.1", "0.0.0.0", "[::2]", "::1", "[::1", "[::1]evil", "localhost:80:80", "localhost:x", "127.0.0.1, evil.example",
        "testserver", "\xe9",
    ],
)  # fmt: skip
def test_other_names(host):
    assert not is_local(host.encode("latin-1"))


def test_other_names_are_refused_where_only_this_machine_is_answered(tmp_path):
    client, live = opened(tmp_path)
    with client:
        http = TestClient(Site(Parts(client, live, local=True)).app)
        for path in ("/healthz", "/v1/features", "/nothing"):
            answer = http.get(path, headers={"Host": "evil.example"})
            assert answer.status_code == 421 and answer.json()["type"] == "urn:moontide:misdirected"
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert http.get("/healthz", headers={"Host": "localhost:8080"}).status_code == 200
        assert http.get("/healthz", headers=[("Host", "localhost"), ("Host", "evil.example")]).status_code == 421
        assert TestClient(Site(Parts(client, live)).app).get("/healthz").status_code == 200


def test_the_document_says_so(tmp_path):
    client, live = opened(tmp_path)
    with client:
        for local in (True, False):
            http = TestClient(Site(Parts(client, live, local=local)).app)
            paths = http.get("/openapi.json", headers={"Host": "localhost"}).json()["paths"]
            answers = [method["responses"] for page in paths.values() for method in page.values()]
            assert len(answers) >= 7 and all(("421" in each) == local for each in answers)
