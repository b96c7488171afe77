"""`FlightReader`: bulk reads from a moontide server over Arrow Flight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from moontide import names
from moontide.client.wire import ItemIds, Unavailable, bearer, id_column, refused
from moontide.errors import Misconfigured

#: Requests of one batch that is sent: enough that the way there and back does not count.
_REQUESTS: Final = 64
_UPLOAD: Final = pa.schema([(names.USER_ID, pa.string()), ("item_ids", pa.list_(pa.string()))])


class FlightReader:
    """Features of many requests, and vectors of a whole space, in streams. Thread-safe.

    Both directions are held back by gRPC's flow control: memory does not grow with the length of a stream.

    Args:
        location: ``grpc://host:port`` or ``grpc+tls://host:port``.
        token: sent as ``Authorization: Bearer``; None where the server asks for none.
        timeout: seconds of one whole stream; None: as long as it takes.
        tls_roots: PEM of the authorities to trust; None: gRPC's own.

    Raises:
        Misconfigured: not such a location, or a token that fits in no header.
    """

    def __init__(
        self, location: str, *, token: str | None = None, timeout: float | None = None, tls_roots: bytes | None = None
    ) -> None:
        self._location = location
        try:
            self._client = flight.FlightClient(location, tls_root_certs=tls_roots)
        except (pa.ArrowException, OSError) as error:
            raise Misconfigured(f"flight: expected grpc://host:port or grpc+tls://host:port, got {location!r}") from error
        headers = [] if token is None else [(b"authorization", bearer(token).encode())]
        self._options = flight.FlightCallOptions(timeout=timeout, headers=headers)

    def features(self, requests: Iterable[tuple[str, ItemIds]], *, service: str = "ctr_v1") -> Iterator[pa.RecordBatch]:
        """Features of each request, in order, as soon as they are made.

        Args:
            requests: (user id, candidates); up to 64 of them are taken before their answers are given.
            service: what to read.

        Yields:
            One batch a request: ``user_id`` and the columns of `serving.RankingClient.features`; schema metadata as there, and
            ``user_id`` (a request of no candidates has no row that says it).

        Raises:
            Misconfigured, Poison, SpaceMismatch, Unavailable: as `moontide.client.Client.features`; the stream ends there.
            whatever `requests` raises.
        """
        descriptor = flight.FlightDescriptor.for_command(json.dumps({"service": service}).encode())
        with self._told("features"):
            writer, reader = self._client.do_exchange(descriptor, self._options)
            exchange, left = _Exchange(writer, reader), iter(requests)
            try:
                exchange.begin()
                while some := list(islice(left, _REQUESTS)):
                    exchange.send(some)
                    for _ in some:
                        yield exchange.answer()
                exchange.end()
            finally:
                reader.cancel()

    def vectors(self, space: str, ids: Sequence[str] | None = None, *, codes: bool = False) -> Iterator[pa.RecordBatch]:
        """Vectors of a space in batches of a few thousand.

        Args:
            space: id of an embedding space, ``moon_v2``.
            ids: items wanted, in that order; None: every item that has a vector, in no order, and one may come twice while others
                write.
            codes: the int8 codes with their scale and norm instead of floats: a quarter of the bytes.

        Yields:
            ``item_id``, ``embedding_present`` bool, and ``embedding`` fixed_size_list<float32>[D], or ``codes``
            fixed_size_list<int8>[D], ``scale`` float32 and ``inv_norm`` float32; null where the item has no vector.

        Raises:
            as `features`.
        """
        asked: dict[str, Any] = {"space": space, "as": "codes" if codes else "float"}
        if ids is not None:
            asked["ids"] = id_column(ids).to_pylist()
        with self._told("vectors"):
            reader = self._client.do_get(flight.Ticket(json.dumps(asked).encode()), self._options)
            try:
                for chunk in reader:
                    yield chunk.data
            finally:
                reader.cancel()

    def list(self) -> dict[str, pa.Schema]:
        """What there is to read: the command of each service and space (``{"space": "moon_v2"}``) and what it streams."""
        with self._told("list"):
            return {info.descriptor.command.decode(): info.schema for info in self._client.list_flights(b"", self._options)}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> FlightReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Failures of Flight as errors of ours."""
        where = f"flight {what} at {self._location}"
        try:
            yield
        except flight.FlightError as error:
            raise _told(where, error) from error
        except pa.ArrowException as error:
            # How pyarrow tells of a cancelled call, and of what a server without these calls sends.
            raise Misconfigured(f"{where}: expected a moontide server, got: {_short(error)}") from error


class _Exchange:
    """One ``do_exchange``, in turns: some requests are sent, all their answers are read, and so on.

    Sending and reading at once would want two threads, which gRPC's client does not survive where one side ends early; and who
    sends everything first waits for ever, because the server stops reading while its answers are not taken.
    """

    def __init__(self, writer: Any, reader: Any) -> None:
        self._writer = writer
        self._reader = reader

    def begin(self) -> None:
        """Say what is sent."""
        self._writing(lambda: self._writer.begin(_UPLOAD))

    def send(self, some: Sequence[tuple[str, ItemIds]]) -> None:
        """Send requests; as many answers are to be read before the next ones."""
        users = pa.array([user for user, _ in some], pa.string())
        items = [id_column(ids) for _, ids in some]
        offsets = pa.array([0, *accumulate(map(len, items))], pa.int32())
        batch = pa.record_batch([users, pa.ListArray.from_arrays(offsets, pa.concat_arrays(items))], schema=_UPLOAD)
        self._writing(lambda: self._writer.write_batch(batch))

    def answer(self) -> pa.RecordBatch:
        """The next one."""
        try:
            chunk = self._reader.read_chunk()
        except StopIteration:
            raise flight.FlightInternalError("the stream ended before its last answer") from None
        said = json.loads(chunk.app_metadata.to_pybytes())
        return chunk.data.replace_schema_metadata({**(chunk.data.schema.metadata or {}), **said})

    def end(self) -> None:
        """Nothing more is asked; raises what the server says at last."""
        self._writing(self._writer.done_writing)
        for _ in self._reader:
            raise flight.FlightInternalError("the stream went on after its last answer")

    def _writing(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (flight.FlightError, pa.ArrowException, OSError):
            # The server has ended the stream; only reading tells why.
            self._reader.read_chunk()
            raise


def _told(where: str, error: Any) -> Exception:
    """The kind of a `FlightError`: by the problem that came with it, else by its class."""
    try:
        problem = json.loads(error.extra_info)
        return refused(where, int(problem["status"]), str(problem["detail"]))
    except (ValueError, TypeError, KeyError):
        said = _short(error)
    if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
        return refused(where, 401, said)
    if isinstance(error, flight.FlightUnavailableError | flight.FlightTimedOutError | flight.FlightCancelledError):
        return Unavailable(f"{where}: expected an answer, got: {said}")
    return Misconfigured(f"{where}: expected a moontide server, got: {said}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
