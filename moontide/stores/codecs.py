"""The codecs of the views in use, and the schemas their records were written with."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from moontide import views
from moontide.errors import Misconfigured, SpaceMismatch
from moontide.order import KEY_BYTES
from moontide.spaces import EmbeddingSpace
from moontide.stores.kv import KeyValue
from moontide.stores.record_embedding import EmbeddingCodec, space_identity
from moontide.stores.record_sequence import SequenceCodec
from moontide.stores.record_views import ColumnsCodec
from moontide.views import ViewKind, ViewSpec

AnyCodec = EmbeddingCodec | ColumnsCodec | SequenceCodec

_SCHEMAS: Final = "\x01schemas"
_CLAIMS: Final = "\x01claims"


class Codecs:
    """One codec per view, and what the engine keeps beside the records.

    A schema is registered before its first record, so that records outlive a change of it. The first writer of an embedding or
    sequence table claims it for its space or its length; `drop_view` ends the claim.

    Args:
        kv: the engine.
        project: first part of every key.
        sequence_length: behaviours kept per user (L).

    Raises:
        Misconfigured: a project name that cannot start a key.
    """

    def __init__(self, kv: KeyValue, project: str, sequence_length: int) -> None:
        if not project or "\0" in project:
            raise Misconfigured(f"project: expected a name without NUL, got {project!r}")
        self._kv = kv
        self._project = project
        self._length = sequence_length
        self._codecs: dict[ViewSpec, AnyCodec] = {}
        self._spaces: dict[EmbeddingSpace, tuple[ViewSpec, EmbeddingCodec]] = {}
        self._registered: set[int] = set()
        self._claimed: dict[str, bytes] = {}
        self._schemas, self._claims = self._key(_SCHEMAS), self._key(_CLAIMS)

    def table(self, view: ViewSpec) -> bytes:
        """The engine's table of a view."""
        return self._key(view.name)

    def of(self, view: ViewSpec) -> AnyCodec:
        """The codec of a view.

        Raises:
            Misconfigured: a view that cannot be stored: its name, types, or an embedding view without its space.
        """
        codec = self._codecs.get(view)
        if codec is None:
            codec = self._codecs[view] = self._make(view)
        return codec

    def of_space(self, space: EmbeddingSpace) -> tuple[ViewSpec, EmbeddingCodec]:
        """The view and codec that hold a space; a prefix is held by its parent's."""
        found = self._spaces.get(space)
        if found is None:
            view = views.embedding_view(space)
            found = self._spaces[space] = (view, EmbeddingCodec(view))
        return found

    def of_sequence(self, view: ViewSpec) -> SequenceCodec:
        """The codec of a sequence view; `Misconfigured` for a view of another kind."""
        codec = self.of(view)
        if not isinstance(codec, SequenceCodec):
            raise Misconfigured(f"view {view.name}: expected a sequence view, got one of kind {view.kind}")
        return codec

    def admit(self, view: ViewSpec, codec: AnyCodec, rows: int) -> None:
        """Before a write: register the schema, or claim the table; once per process. A write of no rows checks the claim alone.

        Raises:
            SpaceMismatch: the table was claimed for vectors of another encoder or dim.
            Misconfigured: the table was claimed for sequences of another length.
        """
        if isinstance(codec, ColumnsCodec):
            if rows:
                self._register(codec)
        elif isinstance(codec, EmbeddingCodec):
            claimed = self._claim(view, space_identity(codec.space), rows)
            if claimed is not None:
                raise SpaceMismatch(
                    f"view {view.name}: expected writes of {claimed}, got {space_identity(codec.space)}; "
                    "give the new encoder a new space version, or drop the view and backfill it"
                )
        else:
            claimed = self._claim(view, str(self._length), rows)
            if claimed is not None:
                raise Misconfigured(
                    f"view {view.name}: expected sequences of the last {claimed} behaviours, got a process that keeps "
                    f"{self._length}; set MOONTIDE_SEQUENCE_LENGTH={claimed}, or drop the view and load it again"
                )

    def release(self, view: ViewSpec) -> None:
        """End the claim on a table that holds no records any more."""
        self._kv.remove(self._claims, [view.name.encode()], mark=False)
        self._claimed.pop(view.name, None)

    def _claim(self, view: ViewSpec, wanted: str, rows: int) -> str | None:
        """The claim that stands where it is another one than `wanted`."""
        key, packed = view.name.encode(), wanted.encode()
        if self._claimed.get(view.name) == packed:
            return None
        (stored,) = self._kv.get(self._claims, [key], b"")
        if not stored and not rows:
            return None
        while not stored:  # free, or dropped at this moment
            self._kv.put(self._claims, [key], [bytes(KEY_BYTES) + packed], mark=False)
            (stored,) = self._kv.get(self._claims, [key], b"")
        if stored[KEY_BYTES:] != packed:
            return stored[KEY_BYTES:].decode()
        self._claimed[view.name] = packed
        return None

    def _register(self, codec: ColumnsCodec) -> None:
        tag = codec.layout.tag
        if tag not in self._registered:
            record = bytes(KEY_BYTES) + codec.layout.schema.serialize().to_pybytes()
            self._kv.put(self._schemas, [b"%016x" % tag], [record], mark=False)
            self._registered.add(tag)

    def _schema_of(self, tag: int) -> pa.Schema | None:
        (record,) = self._kv.get(self._schemas, [b"%016x" % tag], b"")
        return pa.ipc.read_schema(pa.py_buffer(record[KEY_BYTES:])) if record else None

    def _make(self, view: ViewSpec) -> AnyCodec:
        if "\0" in view.name or not view.entities:
            raise Misconfigured(f"view {view.name!r}: expected a name without NUL and at least one entity, got {view.entities}")
        if view.kind is ViewKind.EMBEDDING:
            return EmbeddingCodec(view)
        if view.kind is ViewKind.SEQUENCE:
            return SequenceCodec(view)
        return ColumnsCodec(view, self._schema_of)

    def _key(self, name: str) -> bytes:
        return f"{self._project}\0{name}\0".encode()
