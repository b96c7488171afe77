"""Logs as JSON lines: one object per line, no secrets, and no flood.

Fields of a line: ``ts`` (UTC), ``level``, ``logger``, ``thread``, ``message``, then whatever the call gave as ``extra``:
``position`` (topic[partition]@offset), ``entity``, ``verdict``, ``reason``, ``seconds``, ``sink``. Of an exception, ``error`` is
its class and ``traceback`` its text. ``left_out`` says how many lines like this one were not written since the last.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TextIO
from urllib.parse import quote, unquote, urlsplit

from moontide.settings import Settings

HIDDEN: Final = "***"
#: A shorter secret would be found in every other word.
SHORTEST_SECRET: Final = 4
#: Lines of one kind (one logging call in the code) per `WINDOW` seconds; the rest is counted.
MOST_LINES: Final = 20
WINDOW: Final = 10.0
LONGEST_TEXT: Final = 2_000
LONGEST_TRACEBACK: Final = 4_096
#: Whose loggers the level is for; every other logs from WARNING on.
OURS: Final = ("streaming", "serving", "moontide", "encoders")
_MILVUS: Final = "pymilvus"
#: Loggers of Milvus' client and of milvus-lite's server in this process: what fails comes back to the caller, and is told there.
_ECHOES: Final = (_MILVUS, "grpc._server")

_PLAIN: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_OWN: Final = frozenset({"ts", "level", "logger", "thread", "message", "error", "traceback", "left_out"})
_IN_URL: Final = re.compile(r"(?<=://)[^\s/@]*:[^\s/@]*(?=@)")


def secrets_of(settings: Settings) -> list[str]:
    """Every secret in `settings`, also as it stands inside an address."""
    redis, token = settings.redis_url.get_secret_value(), settings.index_token.get_secret_value()
    found = [settings.kafka_password.get_secret_value(), token, token.partition(":")[2]]
    found += settings.serving_tokens.get_secret_value().replace(",", " ").split()
    for url in (redis, settings.index_uri, settings.offline_root):
        with contextlib.suppress(ValueError):
            found.append(urlsplit(url).password or "")
    return sorted({form for secret in found for form in (secret, unquote(secret), quote(secret, safe="")) if form})


class Redactor:
    """Hides `secrets` of at least `SHORTEST_SECRET` characters, and the user and password of any address."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        words = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, words))) if words else None

    def __call__(self, text: str) -> str:
        """`text` without them."""
        if self._secrets is not None:
            text = self._secrets.sub(HIDDEN, text)
        return _IN_URL.sub(HIDDEN, text) if "://" in text else text


class RateLimit(logging.Filter):
    """At most `MOST_LINES` of one kind per `WINDOW` seconds; the next line of that kind carries ``left_out``. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, int, int], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        now = self._monotonic()
        with self._lock:
            kind = self._kinds.setdefault((record.name, record.lineno, record.levelno), [now, 0, 0])
            if now - kind[0] >= WINDOW:
                kind[0], kind[1] = now, 0
            if kind[1] >= MOST_LINES:
                kind[2] += 1
                return False
            kind[1] += 1
            if kind[2]:
                record.left_out = int(kind[2])
                kind[2] = 0
        return True

    def left_out(self) -> int:
        """Lines not written, which no line has told yet."""
        with self._lock:
            return int(sum(kind[2] for kind in self._kinds.values()))


class JsonLines(logging.Formatter):
    """One record as one line of JSON, redacted."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": self._text(_message(record), LONGEST_TEXT),
        }
        for name, value in vars(record).items():
            if name not in _PLAIN and (name == "left_out" or name not in _OWN):
                line[name] = value if value is None or isinstance(value, int) else self._value(value)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = self._text(self.formatException(record.exc_info), LONGEST_TRACEBACK, end=True)
        return json.dumps(line)

    def _value(self, value: object) -> float | str:
        if isinstance(value, float) and abs(value) < 1e300:
            return round(value, 6)
        return self._text(str(value), LONGEST_TEXT)

    def _text(self, text: str, most: int, *, end: bool = False) -> str:
        text = self._redact(text)
        if len(text) <= most:
            return text
        return "..." + text[-most:] if end else text[:most] + "..."


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} (arguments do not fit)"


def configure(
    stream: TextIO,
    *,
    level: str = "INFO",
    settings: Settings | None = None,
    secrets: Iterable[str] = (),
    milvus: bool = True,
) -> logging.Handler:
    """Send all logs of this process to `stream` as JSON lines; neither `secrets` nor those of `settings` ever appear.

    Called again, the earlier handler is replaced. Libraries log from WARNING on. Returns the handler. `milvus`: import its
    client first, which is slow, because this process will use it.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(Redactor([*secrets, *(secrets_of(settings) if settings else ())])))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, JsonLines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    # Its own level, too: the clients raise one that is unset no further than INFO.
    logging.getLogger("kafka").setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    if milvus:
        with contextlib.suppress(ImportError):
            # It sets up its loggers when it is imported; imported later, it would undo this.
            importlib.import_module(_MILVUS)
    for name in _ECHOES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return handler
