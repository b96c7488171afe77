"""Who may ask: bearer tokens, compared in a time that tells nothing about them."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from moontide.errors import Misconfigured

#: Seconds between two looks at the file.
_LOOK_SECONDS: Final = 1.0
#: A shorter one could be guessed.
SHORTEST: Final = 16
_log = logging.getLogger(__name__)


class Tokens:
    """The tokens of a server, from its settings and from a file that is read again when it changes. Thread-safe.

    Args:
        words: tokens separated by commas or white space.
        file: more of them, one a line; empty lines and lines that begin with ``#`` do not count.
        monotonic: seconds; the file is looked at once a second at most.

    Raises:
        Misconfigured: the file cannot be read or holds none, or a token is shorter than 16 characters or not printable ASCII.
    """

    def __init__(self, words: str = "", file: Path | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fixed = _checked(words.replace(",", " ").split(), "MOONTIDE_SERVING_TOKENS")
        self._file, self._monotonic = file, monotonic
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._looked = monotonic()
        self._read: tuple[bytes, ...] = ()
        if file is not None:
            self._read_file(file)

    def needed(self) -> bool:
        """Whether a caller needs one."""
        return bool(self._fixed) or self._file is not None

    def __call__(self, authorization: bytes | None) -> bool:
        """Whether the value of an ``Authorization`` header holds one of them."""
        scheme, _, said = (authorization or b"").partition(b" ")
        self._look()
        found = False
        for token in (*self._fixed, *self._read):
            found |= hmac.compare_digest(token, said.strip())
        return found and scheme.lower() == b"bearer"

    def _look(self) -> None:
        if self._file is None or self._monotonic() - self._looked < _LOOK_SECONDS:
            return
        with self._lock:
            self._looked = self._monotonic()
            try:
                self._read_file(self._file)
            except Misconfigured as error:
                _log.error("the tokens read before stay in force: %s", error)

    def _read_file(self, file: Path) -> None:
        try:
            stat = file.stat()
            now = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if now == self._seen:
                return
            lines = file.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"MOONTIDE_SERVING_TOKEN_FILE: expected a readable file, got {type(error).__name__}") from None
        words = [line.strip() for line in lines]
        read = _checked([word for word in words if word and not word.startswith("#")], "MOONTIDE_SERVING_TOKEN_FILE")
        if not read:
            raise Misconfigured("MOONTIDE_SERVING_TOKEN_FILE: expected a token a line, got none")
        self._read, self._seen = read, now


def _checked(words: list[str], what: str) -> tuple[bytes, ...]:
    for word in words:
        if len(word) < SHORTEST or not word.isascii() or not word.isprintable() or " " in word:
            raise Misconfigured(
                f"{what}: expected tokens of {SHORTEST} or more printable ASCII characters, got another; "
                """python -c "import secrets; print(secrets.token_urlsafe(32))" makes one"""
            )
    return tuple(word.encode() for word in words)
