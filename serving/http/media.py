"""Which media type a body is of, and which one a caller would like best (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from serving.http.problems import Problem

JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
#: What most requests say; a header beyond it is cut into no more than so many ranges.
_MOST_RANGES: Final = 32


def of_body(content_type: str | None, taken: Sequence[str] = (JSON, ARROW)) -> str:
    """The media type of a body; none said is the first that is taken.

    Raises:
        Problem: it is none of `taken`.
    """
    if not content_type:
        return taken[0]
    name, _, parameters = content_type.partition(";")
    name = name.strip().lower()
    charset = _parameters(parameters).get("charset", "utf-8").lower()
    if name not in taken or (name == JSON and charset not in ("utf-8", "utf8")):
        raise Problem(
            "media-type", f"Content-Type: expected one of {', '.join(taken)} (JSON in UTF-8), got {content_type[:80]!r}"
        )
    return name


@lru_cache(maxsize=256)
def wanted(accept: str | None, given: Sequence[str] = (JSON, ARROW)) -> str:
    """The media type among `given` that `accept` likes best; of equals the first one. No header accepts everything.

    Raises:
        Problem: it accepts none of them.
    """
    if not accept or not accept.strip():
        return given[0]
    ranges = [_range(part) for part in accept.split(",")[:_MOST_RANGES]]
    best, most = "", 0.0
    for name in given:
        quality = _quality(name, ranges)
        if quality > most:
            best, most = name, quality
    if not best:
        raise Problem("not-acceptable", f"Accept: expected one of {', '.join(given)}, got {accept[:80]!r}")
    return best


def _quality(name: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Of the most specific range that names `name`."""
    for pattern in (name, name.partition("/")[0] + "/*", "*/*"):
        found = [quality for media, quality in ranges if media == pattern]
        if found:
            return max(found)
    return 0.0


def _range(text: str) -> tuple[str, float]:
    name, _, parameters = text.partition(";")
    try:
        quality = float(_parameters(parameters).get("q", "1"))
    except ValueError:
        quality = 0.0
    return name.strip().lower(), quality if 0 <= quality <= 1 else 0.0


def _parameters(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs if name.strip()}
