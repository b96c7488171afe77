"""Requests made from the server's own OpenAPI document, most of them malformed; every answer must be one the document names."""

from collections import Counter

import hypothesis
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

ARROW = "application/vnd.apache.arrow.stream"
#: Statuses of 500 and above that a server under load may give, and the document names.
LATER = {503, 504}
_CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


@schemathesis.serializer(ARROW)
def _as_it_is(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()


def fuzz(schema, examples, *, seed=0, headers=None):
    """Send at most `examples` requests to each route and mode (fitting, not fitting); statuses by how often they came.

    Raises:
        AssertionError, or a group of them: an answer that the document does not name, or a failure of the server.
    """
    checks = [CHECKS.get_one(name) for name in _CHECKS]
    seen = Counter()
    # Too many candidates, too: by default the check does not know that status.
    schema.config.checks.negative_data_rejection.expected_statuses = [
        "400",
        "401",
        "404",
        "405",
        "406",
        "409",
        "413",
        "415",
        "422",
        "5xx",
    ]
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _fuzz_one(operation, mode, examples, seed, checks, headers, seen)
    return seen


def _fuzz_one(operation, mode, examples, seed, checks, headers, seen):
    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case):
        response = case.call(headers=headers)
        seen[response.status_code] += 1
        assert response.status_code < 500 or response.status_code in LATER, response.text
        case.validate_response(response, checks=checks)

    if mode is GenerationMode.POSITIVE or operation.body:
        one()
