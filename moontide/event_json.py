"""Strict JSON and single fields of events: a refusal names the field, what was expected and what was got, never the payload."""

from __future__ import annotations

import binascii
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from moontide.event_types import BadEvent, Content, EventReason
from moontide.names import is_id
from moontide.order import MAX_AHEAD_US

MAX_EVENT_BYTES: Final = 8 << 20
MAX_DEPTH: Final = 32
MAX_TEXT_CHARS: Final = 1_000_000
MAX_CATEGORY_CHARS: Final = 1_000
MAX_PATH_CHARS: Final = 4_096
#: Prices are kept as float32.
MAX_PRICE: Final = 3.4028234663852886e38

Fields = dict[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE_US: Final = 60_000_000
_TEXTS: Final = ("title", "description", "attributes")
_EVENT_ID = re.compile(r"[ -~]{1,128}")
_ACTION = re.compile(r"[a-z0-9_.\-]{1,32}")
_TIME = re.compile(
    r"(?:19[7-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_object(value: bytes | None, max_bytes: int) -> Fields:
    """The one JSON object that `value` is.

    Raises:
        BadEvent: not strict JSON in UTF-8 (no NaN, no number beyond float64, no lone surrogate, no key twice in an object),
            larger than `max_bytes`, deeper than 32, or no object.
    """
    if value is None:
        raise BadEvent(EventReason.WRONG_TYPE, "value: expected a JSON object, got null")
    if len(value) > max_bytes:
        raise BadEvent(EventReason.TOO_LARGE, f"value: expected at most {max_bytes:,} bytes, got {len(value):,}")
    document = _decoded(value)
    if value.count(b"{") + value.count(b"[") > MAX_DEPTH:
        _check_depth(document)
    if _SURROGATE.search(value):
        _check_surrogates(document)
    if type(document) is not dict:
        raise BadEvent(EventReason.WRONG_TYPE, f"value: expected a JSON object, got {shown(document)}")
    return document


def shown(value: object) -> str:
    """The kind of a value that may hold anything, in a few words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"a string of {len(value):,} characters"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number with a fraction or exponent"
    return "an array" if isinstance(value, list) else "an object"


def required(fields: Fields, name: str) -> Any:
    """The value of a field; null is missing."""
    value = fields.get(name)
    if value is None:
        got = "null" if name in fields else "no field"
        raise BadEvent(EventReason.MISSING_FIELD, f"{name}: expected a value, got {got}")
    return value


def event_id(value: object) -> str:
    """1 to 128 printable ASCII characters."""
    if not isinstance(value, str) or _EVENT_ID.fullmatch(value) is None:
        raise BadEvent(EventReason.INVALID_ID, f"event_id: expected 1 to 128 printable ASCII characters, got {shown(value)}")
    return value


def entity_id(value: object, name: str) -> str:
    """An item or user id."""
    if not is_id(value):
        raise BadEvent(EventReason.INVALID_ID, f"{name}: expected 1 to 64 characters of [A-Za-z0-9._:-], got {shown(value)}")
    return value  # type: ignore[return-value]


def int64(value: object, name: str) -> int:
    """An integer of 64 bits; true and 1.0 are none."""
    if type(value) is not int:
        raise BadEvent(EventReason.WRONG_TYPE, f"{name}: expected an integer, got {shown(value)}")
    if not -(1 << 63) <= value < 1 << 63:
        raise BadEvent(EventReason.WRONG_TYPE, f"{name}: expected an integer of 64 bits, got a larger one")
    return value


def action(value: object) -> str:
    """What a user did."""
    if not isinstance(value, str) or _ACTION.fullmatch(value) is None:
        raise BadEvent(EventReason.WRONG_TYPE, f"action: expected 1 to 32 characters of [a-z0-9_.-], got {shown(value)}")
    return value


def micros(value: object, name: str) -> int:
    """Microseconds UTC of an RFC 3339 time with a zone, from 1970 on; digits beyond microseconds are cut off."""
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        got = shown(value)
        raise BadEvent(EventReason.WRONG_TYPE, f"{name}: expected a time from 1970 on, like 2026-01-31T12:00:00.5Z, got {got}")
    try:
        us = (datetime.fromisoformat(value) - _EPOCH) // _MICROSECOND
    except ValueError:
        raise BadEvent(EventReason.WRONG_TYPE, f"{name}: expected a time that exists, got no such day or hour") from None
    if us < 0:
        raise BadEvent(EventReason.WRONG_TYPE, f"{name}: expected a time from 1970 on, got an earlier one")
    return us


def check_not_ahead(event_us: int, now_us: int, name: str) -> None:
    """Refuse a time beyond the clock and its tolerance."""
    if event_us > now_us + MAX_AHEAD_US:
        minutes, ahead = MAX_AHEAD_US // _MINUTE_US, (event_us - now_us) / _MINUTE_US
        detail = f"{name}: expected at most now + {minutes} min, got now + {ahead:,.0f} min; check the producer's clock"
        raise BadEvent(EventReason.TIME_AHEAD, detail)


def text(fields: Fields, name: str, most: int, where: str, least: int = 0) -> str | None:
    """A string of `least` to `most` characters; None where it is missing or null."""
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) < least:
        expected = "a string" if not least else f"a string of {least} or more characters"
        raise BadEvent(EventReason.WRONG_TYPE, f"{where}{name}: expected {expected}, got {shown(value)}")
    if len(value) > most:
        raise BadEvent(EventReason.TOO_LARGE, f"{where}{name}: expected at most {most:,} characters, got {len(value):,}")
    return value


def content(value: object, where: str = "content.") -> Content:
    """An item's content: at least one text that is more than white space, or an image."""
    if type(value) is not dict:
        raise BadEvent(EventReason.WRONG_TYPE, f"{where.rstrip('.') or 'value'}: expected an object, got {shown(value)}")
    fields: Fields = value
    title, description, attributes = (
        text(fields, name, MAX_TEXT_CHARS, where) for name in ("title", "description", "attributes")
    )
    image = _image(fields, where)
    category = text(fields, "category", MAX_CATEGORY_CHARS, where)
    made = Content(title, description, attributes, image, category, _price(fields.get("price"), where))
    if image is None and not any(part and not part.isspace() for part in (title, description, attributes)):
        expected = f"a text in {where}title, description or attributes, or {where}image or image_base64"
        raise BadEvent(EventReason.NO_CONTENT, f"expected {expected}, got none")
    return made


def _image(fields: Fields, where: str) -> bytes | str | None:
    path = text(fields, "image", MAX_PATH_CHARS, where, least=1)
    encoded = fields.get("image_base64")
    if encoded is None:
        return path
    if path is not None:
        raise BadEvent(EventReason.WRONG_TYPE, f"{where}image_base64: expected image or image_base64, got both")
    if type(encoded) is not str or not encoded:
        raise BadEvent(EventReason.WRONG_TYPE, f"{where}image_base64: expected base64, got {shown(encoded)}")
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        detail = f"{where}image_base64: expected base64 with padding and no line breaks, got {shown(encoded)} that is not"
        raise BadEvent(EventReason.WRONG_TYPE, detail) from None


def _price(value: object, where: str) -> float | None:
    if value is None:
        return None
    if type(value) is not int and type(value) is not float:
        raise BadEvent(EventReason.WRONG_TYPE, f"{where}price: expected a number, got {shown(value)}")
    if not -MAX_PRICE <= value <= MAX_PRICE:
        raise BadEvent(EventReason.WRONG_TYPE, f"{where}price: expected at most {MAX_PRICE:.1e} either way, got a larger number")
    return float(value)


class _RepeatedKeyError(ValueError):
    pass


class _NumberError(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> Fields:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _RepeatedKeyError
    return made


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NumberError
    return value


def _constant(name: str) -> Any:
    raise _NumberError


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_float, parse_constant=_constant)


def _decoded(value: bytes) -> Any:
    try:
        return _DECODER.decode(value.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadEvent(EventReason.NOT_JSON, f"value: expected UTF-8, got another byte at {error.start:,}") from None
    except _RepeatedKeyError:
        raise BadEvent(EventReason.DUPLICATE_KEY, "value: expected each key once in an object, got one twice") from None
    except _NumberError:
        raise BadEvent(EventReason.NOT_JSON, "value: expected finite numbers, got NaN, Infinity or one beyond float64") from None
    except json.JSONDecodeError as error:
        raise BadEvent(EventReason.NOT_JSON, f"value: expected JSON, got something else at character {error.pos:,}") from None
    except RecursionError:
        raise BadEvent(EventReason.TOO_DEEP, f"value: expected at most {MAX_DEPTH} levels, got far more") from None
    except ValueError:
        raise BadEvent(EventReason.NOT_JSON, "value: expected numbers of at most 4,300 digits, got a longer one") from None


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [part for part in level if isinstance(part, (dict, list))]
        if not level:
            return
        level = [part for node in level for part in (node.values() if isinstance(node, dict) else node)]
    raise BadEvent(EventReason.TOO_DEEP, f"value: expected at most {MAX_DEPTH} levels, got more")


def _check_surrogates(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadEvent(EventReason.NOT_JSON, "value: expected whole Unicode characters, got half of a surrogate pair") from None
