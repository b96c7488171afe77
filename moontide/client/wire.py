"""What goes over HTTP: one question, one answer, and which error a status is. Opens no connection."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from moontide import names
from moontide.errors import Misconfigured, MoontideError, Poison, SpaceMismatch, Transient

T = TypeVar("T")

ARROW: Final = "application/vnd.apache.arrow.stream"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
FEATURES: Final = "/v1/features"
PREFETCH: Final = "/v1/prefetch"
SIMILAR: Final = "/v1/similar"
SEQUENCE: Final = "/v1/sequence"
PATHS: Final = (FEATURES, PREFETCH, SIMILAR, SEQUENCE)
#: Of a text that some proxy sent, as much as fits on a screen.
_SHOWN: Final = 300
#: Statuses below 500 that say "later".
_LATER: Final = frozenset({408, 425, 429})
#: The server has no such part: asking again changes nothing.
_NEVER: Final = 501
_POISON: Final = frozenset({400, 413, 422})

#: Candidates: a list, an Arrow or NumPy array, any iterable of str.
ItemIds: TypeAlias = Iterable[str] | pa.Array | pa.ChunkedArray


class Unavailable(Transient):
    """No server answered in time, or each said "later".

    Attributes:
        retry_after: seconds after which the server wants to be asked again; None where it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One request.

    Attributes:
        path: route, with its leading slash.
        key: who or what it is about: decides which server is asked first.
        body, content_type: what is sent.
        read: makes the result of the body of a 2xx answer.
    """

    path: str
    key: str
    body: bytes
    content_type: str
    read: Callable[[bytes], T]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers with names in small letters, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def features(user_id: str, item_ids: ItemIds, service: str, request_id: str | None) -> Question[pa.Table]:
    """``POST /v1/features``: the ids as one Arrow column, the rest as schema metadata."""
    names.require_ids([user_id], what=names.USER_ID)
    told = {"user_id": user_id, "service": service}
    if request_id is not None:
        told["request_id"] = request_id
    schema = pa.schema([pa.field(names.ITEM_ID, pa.string())], metadata=told)
    batch = pa.record_batch([id_column(item_ids)], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return Question(FEATURES, user_id, sink.getvalue().to_pybytes(), ARROW, _table)


def prefetch(user_id: str, request_id: str, service: str) -> Question[None]:
    """``POST /v1/prefetch``."""
    names.require_ids([user_id], what=names.USER_ID)
    return _asked(PREFETCH, user_id, _nothing, user_id=user_id, request_id=request_id, service=service)


def similar(item_id: str, k: int, space: str | None) -> Question[pa.Table]:
    """``POST /v1/similar``."""
    names.require_ids([item_id])
    return _asked(SIMILAR, item_id, _table, item_id=item_id, k=k, space=space)


def sequence(user_id: str, service: str, length: int | None) -> Question[pa.Table]:
    """``POST /v1/sequence``."""
    names.require_ids([user_id], what=names.USER_ID)
    return _asked(SEQUENCE, user_id, _table, user_id=user_id, service=service, length=length)


def result(question: Question[T], answer: Answer, url: str) -> T:
    """What `question` asked for.

    Raises:
        Poison: an id, a body or a number of candidates that the server refuses.
        SpaceMismatch: the server's store holds vectors of another encoder.
        Misconfigured: no such service or space, no or a wrong token, or not a moontide server.
        Unavailable: the server failed, or is busy; asking again may work.
    """
    where = f"{question.path} at {url}"
    if 200 <= answer.status < 300:
        try:
            return question.read(answer.body)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, EOFError) as error:
            kind = answer.headers.get("content-type", "no type")
            said = " ".join(str(error).split())[:_SHOWN]
            raise Misconfigured(
                f"{where}: expected an Arrow stream, got {kind} ({said}); is that a moontide server of this version?"
            ) from error
    raise refused(where, answer.status, _said(answer), _retry_after(answer))


def headers(token: str | None) -> dict[str, dict[str, str]]:
    """The headers of a request, by the content type of its body.

    Raises:
        Misconfigured: as `bearer`.
    """
    common = {"accept": f"{ARROW}, {JSON};q=0.1", "accept-encoding": "identity", "user-agent": "moontide"}
    if token is not None:
        common["authorization"] = bearer(token)
    return {kind: {**common, "content-type": kind} for kind in (ARROW, JSON)}


def bearer(token: str) -> str:
    """The ``Authorization`` header of a token.

    Raises:
        Misconfigured: one that fits in no header; it is not shown.
    """
    if not token or not token.isascii() or not token.isprintable():
        raise Misconfigured("token: expected printable ASCII, got something else; check the file it was read from")
    return f"Bearer {token}"


def id_column(item_ids: ItemIds) -> pa.Array:
    """Candidates as one Arrow array of strings.

    Raises:
        Poison: something in it that is no string.
        TypeError: one string, or nothing that can be iterated.
    """
    try:
        if isinstance(item_ids, pa.ChunkedArray):
            item_ids = item_ids.combine_chunks()
        if isinstance(item_ids, pa.Array):
            return item_ids.cast(pa.string())
        if isinstance(item_ids, np.ndarray):
            item_ids = item_ids.tolist()
        if isinstance(item_ids, str | bytes) or not isinstance(item_ids, Iterable):
            raise TypeError(f"item_ids: expected a list or array of ids, got {type(item_ids).__name__}; pass [item_id] for one")
        return pa.array(list(item_ids), pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        said = " ".join(str(error).split())[:_SHOWN]
        raise Poison(f"{names.ITEM_ID}: expected strings, got something else ({said}); map your keys to ids as text") from error


def _asked(path: str, key: str, read: Callable[[bytes], T], **values: str | int | None) -> Question[T]:
    told = {name: value for name, value in values.items() if value is not None}
    return Question(path, key, json.dumps(told).encode(), JSON, read)


def _table(body: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        return reader.read_all()


def _nothing(_: bytes) -> None:
    return None


def refused(where: str, status: int, said: str, retry_after: float | None = None) -> MoontideError:
    """The error that a status other than 2xx is; `said` are the server's words."""
    if (status >= 500 and status != _NEVER) or status in _LATER:
        return Unavailable(f"{where}: expected an answer, got {status}: {said}", retry_after=retry_after)
    if status in {401, 403}:
        return Misconfigured(f"{where}: expected a token the server knows, got {status}: {said}; pass token=...")
    if status == 409:
        return SpaceMismatch(f"{where}: {said}")
    if status in _POISON:
        return Poison(f"{where}: {said}")
    return Misconfigured(f"{where}: expected 200, got {status}: {said}")


def _said(answer: Answer) -> str:
    """The server's own words, or the start of whatever came instead."""
    if answer.headers.get("content-type", "").startswith(PROBLEM):
        try:
            problem: Any = json.loads(answer.body)
        except ValueError:
            problem = None
        if isinstance(problem, dict):
            return str(problem.get("detail") or problem.get("title") or "no detail")
    return " ".join(answer.body[:_SHOWN].decode("utf-8", "replace").split()) or "no detail"


def _retry_after(answer: Answer) -> float | None:
    """Seconds; a date, which the header also allows, is not read."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
