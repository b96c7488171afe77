"""The server against its own OpenAPI document: no failure, no status and no body that the document does not name."""

import pytest
import schemathesis
from fastapi.openapi.models import OpenAPI

from serving.http.tokens import Tokens
from tests.http_fuzz import fuzz
from tests.unit.serving.http_site import opened, web

pytestmark = pytest.mark.contract


@pytest.fixture
def http(tmp_path):
    client, live = opened(tmp_path)
    with client:
        yield web(client, live)


def test_the_document_is_openapi_and_names_every_route(http):
    document = http.get("/openapi.json").json()
    OpenAPI.model_validate(document)
    routes = {"/v1/features", "/v1/prefetch", "/v1/similar", "/v1/sequence", "/healthz", "/readyz", "/metrics"}
    assert set(document["paths"]) == routes
    for path in routes:
        for operation in document["paths"][path].values():
            assert all("content" in answer for answer in operation["responses"].values())
            assert "security" not in operation


def test_a_server_with_tokens_says_so(tmp_path):
    client, live = opened(tmp_path)
    with client:
        paths = web(client, live, tokens=Tokens("t" * 16)).get("/openapi.json").json()["paths"]
    secured = {path for path, operations in paths.items() for operation in operations.values() if "security" in operation}
    assert secured == set(paths) - {"/healthz", "/readyz"}


def test_hundreds_of_requests_made_from_the_document(http):
    seen = fuzz(schemathesis.openapi.from_asgi("/openapi.json", http.app), 40)
    assert sum(seen.values()) >= 200 and {200, 202, 400, 422} <= set(seen), seen
