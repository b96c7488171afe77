"""Records that can never be applied: kinds of poison for every workload, and hostile values for a scenario of their own."""

from __future__ import annotations

import base64
import json
import math

from moontide.events import HEADER_SOURCE_VERSION


def without(name):
    """Poison: a field is missing."""

    def made(event, rng):
        del event[name]
        return dumped(event)

    return made


def changed(**fields):
    """Poison: fields have other values."""

    def made(event, rng):
        return dumped({**event, **fields})

    return made


def dumped(event):
    return json.dumps(event).encode()


def cut(event, rng):
    """Poison: the record ends early."""
    value = dumped(event)
    return value[: rng.randrange(1, len(value))]


def noise(event, rng):
    """Poison: no text at all."""
    return b"\xff" + rng.randbytes(rng.randrange(1, 200))


POISONS = [
    cut,
    noise,
    without("event_id"),
    without("schema_version"),
    without("event_timestamp"),
    changed(schema_version=99),
    changed(schema_version="1"),
    changed(item_id="no such/id"),
    changed(event_timestamp="2100-01-01T00:00:00Z"),
    changed(event_timestamp="yesterday"),
    lambda event, rng: dumped(event)[:-1] + b', "price": NaN}',
]


def fuzz(rng, item):
    """Hostile item values, (key, value, headers) each; every one is poison."""
    good = {
        "schema_version": 1,
        "event_id": "fuzz",
        "op": "update",
        "item_id": item,
        "source_version": 1,
        "event_timestamp": "2026-01-01T00:00:00Z",
        "content": {"title": "t"},
    }
    text = dumped(good)
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield from ((None, rng.randbytes(n), ()) for n in (1, 7, 64, 4_096))
    yield from ((None, text[:n], ()) for n in range(1, len(text), 17))
    yield from (
        (None, value, ())
        for value in (b"", b"null", b"[]", b'"x"', b"1e999", b"NaN", b"{}", deep, b"\x00\x00\x00\x00\x01" + text)
    )
    yield from (
        (None, text.replace(b'"t"', b), ()) for b in (b"NaN", b"-Infinity", b"1e400", b'"\\ud800"', b"[]", b"{}", b'"\\u0000')
    )
    yield (None, text.replace(b'"title": "t"', b'"title": "t", "price": 1e308'), ())
    yield (None, text[:-1] + b', "op": "delete"}', ())
    yield (None, text.replace(b"2026-01-01", b"2026-02-31"), ())
    yield (None, text.replace(b'"source_version": 1', b'"source_version": 99999999999999999999'), ())
    yield (None, text.replace(b'"source_version": 1', b'"source_version": 1.0'), ())
    yield (None, text.replace(b'"source_version": 1', b'"source_version": true'), ())
    yield (b"another", text, ())
    yield (b"\xff\xfe", None, ())
    yield (None, None, ())
    yield (item.encode(), None, ((HEADER_SOURCE_VERSION, b"1"), (HEADER_SOURCE_VERSION, b"2")))
    yield (item.encode(), None, ((HEADER_SOURCE_VERSION, b"\xff"),))
    yield (item.encode(), None, ((HEADER_SOURCE_VERSION, None),))
    for hostile in ("../../etc/passwd", "a' or 1=1 --", 'a"]', "a" * 65, "", "ä", "a\\b"):
        yield (None, dumped({**good, "item_id": hostile}), ())
    yield (None, dumped({**good, "content": {"title": "t", "image_base64": "@@@"}}), ())
    yield (None, dumped({**good, "content": {"image_base64": base64.b64encode(b"x").decode(), "image": "p"}}), ())
    yield (None, dumped({**good, "content": {"title": " \t"}}), ())
    yield (None, dumped({**good, "event_timestamp": math.pi}), ())
