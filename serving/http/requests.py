"""What the routes take: a body in, the arguments of `RankingClient` out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from moontide import names
from serving.http.arrow_in import read_ids
from serving.http.media import ARROW
from serving.http.problems import Problem

DEFAULT_SERVICE: Final = "ctr_v1"
#: Most neighbours, and most behaviours, of one answer.
MOST_ROWS: Final = 10_000
LONGEST_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class FeaturesQuery:
    """Body of ``/v1/features``."""

    user_id: str
    item_ids: list[str]
    service: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class PrefetchQuery:
    """Body of ``/v1/prefetch``."""

    user_id: str
    request_id: str
    service: str


@dataclass(frozen=True, slots=True)
class SimilarQuery:
    """Body of ``/v1/similar``."""

    item_id: str
    k: int
    space: str | None


@dataclass(frozen=True, slots=True)
class SequenceQuery:
    """Body of ``/v1/sequence``."""

    user_id: str
    service: str
    length: int | None


def features_query(body: bytes, media: str, *, most: int) -> FeaturesQuery:
    """The arguments of `RankingClient.features`; ids are checked there.

    Args:
        body: JSON, or an Arrow stream of one column ``item_id`` with the rest in the schema's metadata.
        media: which of them.
        most: candidates.

    Raises:
        Problem: it is not that.
    """
    if media == ARROW:
        ids, said = read_ids(body, most=most)
        found: dict[str, Any] = {name: said[name] for name in ("user_id", "service", "request_id") if name in said}
    else:
        found = _object(body, ("user_id", "item_ids", "service", "request_id"))
        ids = _ids(found.get("item_ids"), most)
    return FeaturesQuery(_text(found, "user_id"), ids, _text(found, "service", DEFAULT_SERVICE), _request_id(found))


def prefetch_query(body: bytes) -> PrefetchQuery:
    """The arguments of `RankingClient.prefetch`, checked.

    Raises:
        Problem: it is not that.
        Poison: an id that cannot be one.
    """
    found = _object(body, ("user_id", "request_id", "service"))
    user_id, request_id = _text(found, "user_id"), _request_id(found)
    if request_id is None:
        raise Problem("poison", "request_id: expected the one that the features will be asked for with, got none")
    names.require_ids([user_id], what=names.USER_ID)
    return PrefetchQuery(user_id, request_id, _text(found, "service", DEFAULT_SERVICE))


def similar_query(body: bytes) -> SimilarQuery:
    """The item asked about and how many are wanted.

    Raises:
        Problem: it is not that.
    """
    found = _object(body, ("item_id", "k", "space"))
    k = _whole(found, "k", 10)
    space = None if found.get("space") is None else _text(found, "space")
    return SimilarQuery(_text(found, "item_id"), 10 if k is None else k, space)


def sequence_query(body: bytes) -> SequenceQuery:
    """The arguments of `RankingClient.sequence`; the user id is checked there.

    Raises:
        Problem: it is not that.
    """
    found = _object(body, ("user_id", "service", "length"))
    return SequenceQuery(_text(found, "user_id"), _text(found, "service", DEFAULT_SERVICE), _whole(found, "length", None))


def _object(body: bytes, allowed: tuple[str, ...]) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Problem("malformed", "body: expected JSON in UTF-8, got something else") from None
    if not isinstance(found, dict):
        raise Problem("poison", f"body: expected a JSON object, got {type(found).__name__}")
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise Problem("poison", f"body: expected members among {', '.join(allowed)}, got also {unknown[0][:80]!r}")
    return found


def _ids(value: object, most: int) -> list[str]:
    if not isinstance(value, list):
        raise Problem("poison", f"item_ids: expected a list of ids, got {_kind(value)}")
    if len(value) > most:
        raise Problem("too-many-candidates", f"item_ids: expected at most {most}, got {len(value)}; split the request")
    return value


def _text(found: dict[str, Any], name: str, default: str | None = None) -> str:
    value = found.get(name, default)
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise Problem("poison", f"{name}: expected a string of at most {LONGEST_NAME} characters, got {_kind(value)}")
    return value


def _request_id(found: dict[str, Any]) -> str | None:
    if found.get("request_id") is None:
        return None
    value = _text(found, "request_id")
    if not names.is_id(value):
        raise Problem("poison", "request_id: expected 1 to 64 characters of [A-Za-z0-9._:-], got others")
    return value


def _whole(found: dict[str, Any], name: str, default: int | None) -> int | None:
    value = found.get(name, default)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ROWS:
        raise Problem("poison", f"{name}: expected a whole number from 1 to {MOST_ROWS}, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else repr(value)[:40] if isinstance(value, int | float) else type(value).__name__
