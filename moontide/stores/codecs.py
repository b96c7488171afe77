"""The codecs of the views in use, and the schemas their records were written with."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from moontide import views
from moontide.errors import Misconfigured
from moontide.order import KEY_BYTES
from moontide.spaces import EmbeddingSpace
from moontide.stores.kv import KeyValue
from moontide.stores.record_embedding import EmbeddingCodec
from moontide.stores.record_sequence import SequenceCodec
from moontide.stores.record_views import ColumnsCodec
from moontide.views import ViewKind, ViewSpec

AnyCodec = EmbeddingCodec | ColumnsCodec | SequenceCodec

_SCHEMAS: Final = "\x01schemas"


class Codecs:
    """One codec per view. A schema is registered in the engine before its first record, so that records outlive a change of it.

    Raises:
        Misconfigured: a project name that cannot start a key.
    """

    def __init__(self, kv: KeyValue, project: str) -> None:
        if not project or "\0" in project:
            raise Misconfigured(f"project: expected a name without NUL, got {project!r}")
        self._kv = kv
        self._project = project
        self._codecs: dict[ViewSpec, AnyCodec] = {}
        self._spaces: dict[EmbeddingSpace, tuple[ViewSpec, EmbeddingCodec]] = {}
        self._registered: set[int] = set()
        self._schemas = self._key(_SCHEMAS)

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

    def register(self, codec: ColumnsCodec) -> None:
        """Store the schema under its tag, once per process."""
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
