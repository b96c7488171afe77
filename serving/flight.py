"""Bulk reads over Arrow Flight: features of many requests, and the vectors of a whole space."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import pyarrow as pa
from pyarrow import flight

from moontide.embeddings import Embeddings
from moontide.live import LiveSpaces, Service
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore
from moontide.views import embedding_view
from serving.client import RankingClient
from serving.flight_commands import as_codes, command, item_ids, named
from serving.flight_errors import answering, flight_error
from serving.flight_places import Places
from serving.flight_rows import features_batch, features_schema, requests, require_size, vectors_batch, vectors_schema
from serving.http.problems import Problem
from serving.http.tokens import Tokens

#: No history is kept under it, and nothing is asked about it: what `features` of no items looks like.
_NOBODY: Final = "moontide:nobody"
#: Of one request alone: goes with its batch, not with the stream.
_PER_REQUEST: Final = ("sequence_version", "prefetch")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read: the client, and the store and spaces it was made from; the caller closes them."""

    client: RankingClient
    store: OnlineStore
    live: LiveSpaces


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one server.

    Attributes:
        candidates: of one request.
        ids: of one ticket.
        rows: of one batch that is sent.
        streams: at once; more are turned away.
        idle_seconds: without progress, after which the place of a stream may go to another (`serving.flight_places`).
        batch_rows, batch_bytes: of one batch that comes in, once it is decompressed.
    """

    candidates: int = 5_000
    ids: int = 100_000
    rows: int = 4_096
    streams: int = 16
    idle_seconds: float = 60.0
    batch_rows: int = 4_096
    batch_bytes: int = 64 << 20


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """Answers until `shutdown`. Every call needs a token where `tokens` holds any.

    - ``do_exchange``, descriptor command ``{"service": "ctr_v1"}``: batches of ``user_id`` string and ``item_ids`` list<string>
      go in, for each row one batch comes out as soon as it is made: ``user_id`` and the columns of `RankingClient.features`. Its
      application metadata is ``{"user_id", "sequence_version", "prefetch"}`` as JSON. A row that is refused ends the stream, as
      does a batch of too many rows or bytes.
    - ``do_get``, ticket ``{"space": "moon_v2"}``: every current vector of the space, in no order; an item may come twice while
      others write. With ``"ids": [...]`` those, in that order. Columns ``item_id``, ``embedding_present`` and ``embedding``, or
      with ``"as": "codes"`` ``codes``, ``scale`` and ``inv_norm``; null where not present.
    - ``list_flights``, ``get_flight_info``, ``get_schema``: spaces and services, by those commands.

    gRPC's flow control holds back a stream whose caller does not read. A failure is a `FlightError` whose `extra_info` is the
    problem that the HTTP server would send.

    Args:
        location: ``grpc://host:port``, ``grpc+tls://`` with `tls`; port 0 takes a free one.
        tls: PEM of the certificate chain, and of its key.
    """

    def __init__(
        self,
        location: str,
        sources: Sources,
        *,
        limits: Limits | None = None,
        tokens: Tokens | None = None,
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        super().__init__(location, tls_certificates=[tls] if tls else None, middleware={"token": _Door(tokens or Tokens())})
        self._sources = sources
        self._limits = limits or Limits()
        self._places = Places(self._limits.streams, self._limits.idle_seconds)
        self._stopping = False

    @property
    def worn_out(self) -> bool:
        """Idle streams hold so many threads that only a new process helps, as `Places`."""
        return self._places.worn_out

    def close(self) -> None:
        """End the streams that run, then stop; waits for callers that read."""
        self._stopping = True
        self.shutdown()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Features of each request that is uploaded."""
        with answering(), self._places.one() as place:
            service = self._service(command(descriptor.command, "service"))
            schema = self._features_schema(service)
            writer.begin(schema)
            for chunk in reader:
                place.goes_on()
                if chunk.data is None:
                    continue
                require_size(chunk.data, self._limits.batch_rows, self._limits.batch_bytes)
                for user_id, candidates in requests(chunk.data, self._limits.candidates):
                    self._require_open()
                    table = self._sources.client.features(user_id, candidates, service=service.name)
                    said = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
                    told = {"user_id": user_id, **{name: said[name] for name in _PER_REQUEST if name in said}}
                    writer.write_with_metadata(features_batch(schema, user_id, table), json.dumps(told).encode())
                    place.goes_on()

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Vectors of a space."""
        with answering():
            asked = command(ticket.ticket, "space", "ids", "as")
            space, codes = self._space(asked), as_codes(asked)
            ids = item_ids(asked.get("ids"), self._limits.ids)
            schema = vectors_schema(space, codes=codes)
            return flight.GeneratorStream(schema, self._guarded(self._vectors(space, ids), schema))

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """Every space and service."""
        with answering():
            for live in self._sources.live.spaces:
                yield self._space_info(live.space)
            for service in self._sources.live.services:
                yield self._service_info(service)

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """One of them."""
        with answering():
            asked = command(descriptor.command, "space", "service", "as")
            return self._service_info(self._service(asked)) if "service" in asked else self._space_info(self._space(asked))

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """What it streams."""
        return flight.SchemaResult(self.get_flight_info(context, descriptor).schema)

    # The base class answers these with a traceback.
    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> NoReturn:
        """Refused."""
        raise _no_such_call("do_put")

    def do_action(self, context: Any, action: Any) -> NoReturn:
        """Refused."""
        raise _no_such_call("do_action")

    def list_actions(self, context: Any) -> list[Any]:
        """None."""
        return []

    def _vectors(self, space: EmbeddingSpace, ids: list[str] | None) -> Iterator[Embeddings]:
        store, rows = self._sources.store, self._limits.rows
        if ids is not None:
            for start in range(0, len(ids), rows):
                yield store.read_embeddings(space, ids[start : start + rows])
            return
        for page in store.scan(embedding_view(space)):
            found = [str(entity) for entity in page]
            for start in range(0, len(found), rows):
                read = store.read_embeddings(space, found[start : start + rows])
                yield read.take(read.present)

    def _guarded(self, vectors: Iterator[Embeddings], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with answering(), self._places.one() as place:
            for found in vectors:
                self._require_open()
                yield vectors_batch(schema, found)
                place.goes_on()

    def _require_open(self) -> None:
        if self._stopping:
            raise Problem("not-ready", "stream: expected a server that goes on, got one that stops; ask another, or later")

    def _service(self, asked: Mapping[str, Any]) -> Service:
        services = {s.name: s for s in self._sources.live.services}
        return named(services, asked.get("service"), "service", "unknown-service")

    def _space(self, asked: Mapping[str, Any]) -> EmbeddingSpace:
        return named({s.space.id: s.space for s in self._sources.live.spaces}, asked.get("space"), "space", "unknown-space")

    def _features_schema(self, service: Service) -> pa.Schema:
        return features_schema(self._sources.client.features(_NOBODY, [], service=service.name).schema, _PER_REQUEST)

    def _service_info(self, service: Service) -> Any:
        asked = json.dumps({"service": service.name}).encode()
        return self._info(self._features_schema(service), asked, endpoints=[])

    def _space_info(self, space: EmbeddingSpace) -> Any:
        asked = json.dumps({"space": space.id}).encode()
        # No address in it: the server that was asked, by whatever name it was reached.
        return self._info(vectors_schema(space, codes=False), asked, endpoints=[flight.FlightEndpoint(asked, [])])

    def _info(self, schema: pa.Schema, asked: bytes, endpoints: list[Any]) -> Any:
        # How many there are is not known without walking all of them.
        return flight.FlightInfo(schema, flight.FlightDescriptor.for_command(asked), endpoints, -1, -1)


class _Door(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Asks for a token before anything else is done."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def start_call(self, info: Any, headers: Mapping[str, list[str]]) -> None:
        """Raises `FlightUnauthenticatedError` where a token is needed and none is valid."""
        if not self._tokens.needed():
            return
        said = headers.get("authorization") or [""]
        if not self._tokens(said[0].encode("utf-8", "replace")):
            raise flight_error(Problem("no-token", "authorization: expected Bearer and a token of this server, got none"))


def _no_such_call(name: str) -> Any:
    return flight_error(Problem("not-available", f"{name}: expected do_get, do_exchange, or a list of what there is"))
