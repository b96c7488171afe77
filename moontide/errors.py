"""The errors of moontide: one root, three kinds, each of which decides what the caller does.

A message says what was expected, what was got, and what to do about it.
"""

from __future__ import annotations


class MoontideError(Exception):
    """Root of every error this project raises on purpose."""


class Transient(MoontideError):
    """Something outside failed and may work again: retry with back-off, commit nothing meanwhile."""


class Poison(MoontideError):
    """This record can never be processed: reject or dead-letter it and go on with the others."""


class Misconfigured(MoontideError):
    """The set-up is wrong: stop. Nothing was written, except where a store is full: then part of the rows may be."""


class SpaceMismatch(Misconfigured):
    """Vectors of two embedding spaces met. Cosines across spaces mean nothing, so nothing was computed."""
