"""Failures as a Flight caller sees them: the text of the problem, its kind, never a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pyarrow import flight

from moontide.errors import MoontideError
from serving.http.problems import Problem, problem_of

_BY_STATUS: Final = {
    401: flight.FlightUnauthenticatedError,
    500: flight.FlightInternalError,
    503: flight.FlightUnavailableError,
    504: flight.FlightTimedOutError,
}
_log = logging.getLogger(__name__)


@contextmanager
def answering() -> Iterator[None]:
    """What is raised inside leaves as a `FlightError`: pyarrow sends any other error to the caller with its traceback."""
    try:
        yield
    except flight.FlightError:
        raise
    except Problem as problem:
        raise flight_error(problem) from None
    except MoontideError as error:
        _log.warning("a Flight call failed: %s", error)
        raise flight_error(problem_of(error) or _internal()) from None
    except MemoryError:
        _log.warning("a Flight call failed: no memory is left for it")
        raise flight_error(Problem("too-large", "batch: expected one that fits in memory, got more; send smaller ones")) from None
    except Exception:  # noqa: BLE001
        _log.exception("a Flight call failed")
        raise flight_error(_internal()) from None


def flight_error(problem: Problem) -> Any:
    """The `FlightError` of a problem; its `extra_info` is the JSON that the HTTP server sends."""
    made = _BY_STATUS.get(problem.status, flight.FlightServerError)
    told = {"type": "urn:moontide:" + problem.kind, "title": problem.title, "status": problem.status, "detail": problem.detail}
    return made(problem.detail, json.dumps(told).encode())


def _internal() -> Problem:
    return Problem("internal", "the server failed; its log says why")
