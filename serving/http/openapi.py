"""The routes and what the document at ``/openapi.json`` says of them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from moontide.names import ID_PATTERN
from moontide.settings import Settings
from serving.http.media import ARROW, JSON
from serving.http.pages import Pages
from serving.http.problems import KINDS, MEDIA_TYPE
from serving.http.requests import DEFAULT_SERVICE, LONGEST_NAME, MOST_ROWS

VERSION: Final = "1"
TEXT: Final = "Features of ranking candidates: item embeddings, SimTier counts and item fields."
FEATURES: Final = "/v1/features"
PREFETCH: Final = "/v1/prefetch"
_SCHEME: Final = "bearer"
_ID: Final = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
_NAME: Final = {"type": "string", "maxLength": LONGEST_NAME}
_NUMBERS: Final = {"type": "array", "items": {"type": "number"}}
_FLAGS: Final = {"type": "array", "items": {"type": "boolean"}}
_IDS: Final = {"type": "array", "items": _ID}
_VECTORS: Final = {"type": "array", "items": {"anyOf": [_NUMBERS, {"type": "null"}]}}
_ANY_BODY: Final = (400, 401, 406, 408, 413, 415, 422, 500, 503)


def router(pages: Pages, limits: Settings, *, tokens: bool, local: bool) -> APIRouter:
    """All routes but the console's; `tokens`: whether a caller needs one; `local`: only this machine is answered."""
    elsewhere = (421,) if local else ()
    secured: dict[str, Any] = {"security": [{_SCHEME: []}]} if tokens else {}
    made = APIRouter()
    many = {"type": "array", "items": _ID, "maxItems": limits.serving_max_candidates}
    features = _object(
        ["user_id", "item_ids"],
        user_id=_ID,
        item_ids=many,
        service=_NAME | {"default": DEFAULT_SERVICE},
        request_id=_nullable(_ID),
    )
    prefetch = _object(["user_id", "request_id"], user_id=_ID, request_id=_ID, service=_NAME | {"default": DEFAULT_SERVICE})
    k = {"type": "integer", "minimum": 1, "maximum": MOST_ROWS, "default": 10}
    similar = _object(["item_id"], item_id=_ID, k=_nullable(k), space=_nullable(_NAME))
    length = {"type": "integer", "minimum": 1, "maximum": MOST_ROWS}
    sequence = _object(["user_id"], user_id=_ID, service=_NAME | {"default": DEFAULT_SERVICE}, length=_nullable(length))
    for path, page, body, answer, errors in (
        (FEATURES, pages.features, _body(features, arrow=True), _table(_FEATURES, _SERVED), (404, 409, 504)),
        (PREFETCH, pages.prefetch, _body(prefetch), {202: _accepted()}, (404,)),
        (
            "/v1/similar",
            pages.similar,
            _body(similar),
            _table(_SIMILAR, ("space", "encoder_digest", "source")),
            (404, 409, 504),
        ),
        ("/v1/sequence", pages.sequence, _body(sequence), _table(_SEQUENCE, _SERVED), (404, 409, 504)),
    ):
        extra = {"requestBody": body, **secured}
        responses = answer | _problems(*_ANY_BODY, *errors, *elsewhere)
        _add(made, path, page, "POST", responses, extra)
    text = {200: {"description": "ok", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    _add(made, "/healthz", pages.healthz, "GET", text | _problems(*elsewhere), {})
    _add(made, "/readyz", pages.readyz, "GET", text | _problems(503, *elsewhere), {})
    _add(made, "/metrics", pages.metrics, "GET", text | _problems(401, *elsewhere), secured)
    return made


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with what it does not know: tokens, and problems of every route."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer"}}
    components["schemas"] = {"Problem": _PROBLEM}
    return document


def _add(made: APIRouter, path: str, page: Any, method: str, responses: dict[int, Any], extra: dict[str, Any]) -> None:
    name = path.rpartition("/")[2]
    status = min(responses)
    made.add_api_route(
        path, page, methods=[method], response_class=Response, status_code=status, operation_id=name, name=name,
        responses={code: answer for code, answer in sorted(responses.items())}, openapi_extra=extra,
    )  # fmt: skip
    if method == "GET":
        made.add_api_route(path, page, methods=["HEAD"], include_in_schema=False)


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _body(schema: dict[str, Any], *, arrow: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": schema}}
    if arrow:
        said = "Arrow IPC stream of one uncompressed column item_id: string; user_id, service, request_id in its metadata"
        content[ARROW] = {"schema": {"type": "string", "format": "binary", "description": said}}
    return {"required": True, "content": content}


def _table(columns: dict[str, Any], metadata: tuple[str, ...]) -> dict[int, Any]:
    """Answer 200: one table, as columns of JSON or as an Arrow stream."""
    told = {name: {"type": "string"} for name in metadata}
    required = [name for name in columns if name not in _FIELDS]
    values = {"type": "object", "required": required, "properties": columns}
    schema = {"type": "object", "required": [*metadata, "columns"], "properties": {**told, "columns": values}}
    said = "Arrow IPC stream of the same columns; the other members are the schema's metadata"
    content = {JSON: {"schema": schema}, ARROW: {"schema": {"type": "string", "format": "binary", "description": said}}}
    return {200: {"description": "One row each, in the order asked for", "content": content}}


def _accepted() -> dict[str, Any]:
    return {"description": "It is being read", "content": {JSON: {"schema": {"type": "object", "maxProperties": 0}}}}


def _problems(*statuses: int) -> dict[int, Any]:
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    titles = {status: " or ".join(title for code, title in KINDS.values() if code == status) for status in statuses}
    made: dict[int, Any] = {status: {"description": titles[status], "content": {MEDIA_TYPE: reference}} for status in statuses}
    for status in {503} & set(made):
        made[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return made


#: Item fields: there where the service has them.
_FIELDS: Final = {
    "price": {"type": "array", "items": {"type": ["number", "null"]}},
    "category": {"type": "array", "items": {"type": ["string", "null"]}},
    "has_image": {"type": "array", "items": {"type": ["boolean", "null"]}},
    "has_text": {"type": "array", "items": {"type": ["boolean", "null"]}},
}
_FEATURES: Final = {
    "item_id": _IDS,
    "embedding": _VECTORS,
    "embedding_present": _FLAGS,
    "counts": {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
    "missing": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    **_FIELDS,
}
_SIMILAR: Final = {"item_id": _IDS, "cosine": _NUMBERS}
_SEQUENCE: Final = {
    "item_id": _IDS,
    "action": {"type": "array", "items": {"type": "string"}},
    "event_timestamp": {"type": "array", "items": {"type": "string", "format": "date-time"}},
    "embedding": _VECTORS,
    "embedding_present": _FLAGS,
}
_SERVED: Final = ("service", "space", "encoder_digest", "simtier", "sequence_version", "prefetch")
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "enum": [f"urn:moontide:{kind}" for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["check", "kind", "detail"],
                "properties": {name: {"type": "string"} for name in ("check", "kind", "detail")},
            },
        },
    },
}
