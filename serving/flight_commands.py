"""Tickets and descriptors of the Flight server: small JSON objects that nobody vouches for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from moontide import names
from serving.http.problems import Problem

T = TypeVar("T")

_LONGEST_COMMAND: Final = 16 << 20


def named(known: Mapping[str, T], name: object, what: str, kind: str) -> T:
    """What `known` has under a name that a caller gave.

    Raises:
        Problem: of `kind`, where there is none.
    """
    if not isinstance(name, str) or name not in known:
        raise Problem(kind, f"{what}: expected one of {sorted(known)}, got {str(name)[:80]!r}")
    return known[name]


def command(raw: bytes, *allowed: str) -> dict[str, Any]:
    """The JSON object of a ticket or descriptor.

    Raises:
        Problem: it is none, or has members other than `allowed`.
    """
    try:
        asked = json.loads(raw) if raw is not None and len(raw) <= _LONGEST_COMMAND else None
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or not set(asked) <= set(allowed):
        raise Problem("poison", f"command: expected a JSON object with {', '.join(allowed)}, got something else")
    return asked


def item_ids(value: object, most: int) -> list[str] | None:
    """The ids of a ticket; None: all there are.

    Raises:
        Problem: no list, or longer than `most`.
        Poison: an id that cannot be one.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise Problem("poison", f"ids: expected a list of item ids, got {type(value).__name__}")
    if len(value) > most:
        raise Problem("too-many-candidates", f"ids: expected at most {most} of one ticket, got {len(value)}; send several")
    return names.require_ids(value)


def as_codes(asked: Mapping[str, Any]) -> bool:
    """Whether codes are wanted instead of floats.

    Raises:
        Problem: something else is.
    """
    form = asked.get("as", "float")
    if form not in ("float", "codes"):
        raise Problem("poison", "as: expected float or codes, got something else")
    return bool(form == "codes")
