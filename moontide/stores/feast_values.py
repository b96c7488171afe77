"""Feast values to the columns of moontide's views and back; null is null."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
from feast.protos.feast.types import Value_pb2
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from moontide import schemas
from moontide.errors import Misconfigured, Poison

ValueProto = Value_pb2.Value
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MICROS: Final = 1_000_000
_NULL_TIME: Final = -(1 << 63)

#: Feast type, Arrow type, name in Feast's `Value`, and its list message.
_EXACT: Final[tuple[tuple[Any, pa.DataType, str, Any], ...]] = (
    (String, pa.string(), "string", Value_pb2.StringList),
    (Bytes, pa.binary(), "bytes", Value_pb2.BytesList),
    (Bool, pa.bool_(), "bool", Value_pb2.BoolList),
    (Int32, pa.int32(), "int32", Value_pb2.Int32List),
    (Int64, pa.int64(), "int64", Value_pb2.Int64List),
    (Float32, pa.float32(), "float", Value_pb2.FloatList),
    (Float64, pa.float64(), "double", Value_pb2.DoubleList),
)


@dataclass(frozen=True, slots=True)
class Codec:
    """How one feature of a moontide view travels.

    Attributes:
        feast: the declared Feast type.
        arrow: the column type in the store.
        field: member of Feast's `Value`.
        items: list message of a list feature, else None.
    """

    feast: Any
    arrow: pa.DataType
    field: str
    items: Any = None

    def pack(self, values: Sequence[Any], *, where: str) -> pa.Array:
        """(B,) column of B `Value` messages.

        Raises:
            Poison: a value of another type than the declared one, or out of its range.
        """
        try:
            return pa.array([self._plain(v) for v in values], self.arrow)
        except (TypeError, pa.ArrowInvalid, OverflowError) as error:
            raise Poison(f"{where}: expected values of {self.feast}, got: {error}") from error

    def unpack(self, column: pa.Array) -> list[Any]:
        """`Value` messages of a column; null becomes an empty `Value`, which is Feast's null."""
        if self.items is not None:
            return self._unpack_lists(column)
        plain = column.cast(pa.int64()).to_pylist() if self._is_time else column.to_pylist()
        if self._is_time:
            plain = [None if v is None else v // _MICROS for v in plain]
        return [ValueProto() if v is None else ValueProto(**{self.field: v}) for v in plain]

    @property
    def _is_time(self) -> bool:
        return bool(pa.types.is_timestamp(self.arrow))

    def _plain(self, value: Any) -> Any:
        got = value.WhichOneof("val")
        if got is None or got == "null_val":
            return None
        if got != self.field:
            raise TypeError(f"a {got}")
        plain = getattr(value, got)
        if self.items is not None:
            return list(plain.val)
        if self._is_time:
            return None if plain == _NULL_TIME else plain * _MICROS
        return plain

    def _unpack_lists(self, column: pa.Array) -> list[Any]:
        flat, offsets = column.values, column.offsets.to_pylist()
        valid = column.is_valid().to_pylist()
        if pa.types.is_floating(flat.type) and not flat.null_count:
            return self._parse_floats(flat, offsets, valid)
        plain = flat.to_pylist()
        return [
            ValueProto(**{self.field: self.items(val=plain[offsets[n] : offsets[n + 1]])}) if valid[n] else ValueProto()
            for n in range(len(column))
        ]

    def _parse_floats(self, flat: pa.Array, offsets: list[int], valid: list[bool]) -> list[Any]:
        # A packed float list is its Arrow bytes behind two headers: parsing that is five times faster than filling a message.
        width = flat.type.bit_width // 8
        raw = flat.to_numpy().tobytes()
        outer = _varint(ValueProto.DESCRIPTOR.fields_by_name[self.field].number << 3 | 2)
        messages = []
        for n, there in enumerate(valid):
            packed = raw[offsets[n] * width : offsets[n + 1] * width]
            inner = b"\x0a" + _varint(len(packed)) + packed
            messages.append(ValueProto.FromString(outer + _varint(len(inner)) + inner) if there else ValueProto())
        return messages


def codec_of(kind: pa.DataType) -> Codec:
    """Codec of a column of a moontide view; `Codec.feast` is the type `feature_repo` declares for it.

    Feast's timestamps have whole seconds: through stock Feast a time column loses its fraction.

    Raises:
        Misconfigured: a type no Feast feature can have.
    """
    if kind == schemas.TIMESTAMP:
        return Codec(UnixTimestamp, kind, "unix_timestamp_val")
    for feast, arrow, name, items in _EXACT:
        if kind == arrow:
            return Codec(feast, arrow, f"{name}_val")
        if kind == pa.list_(arrow):
            return Codec(Array(feast), pa.list_(arrow), f"{name}_list_val", items)
    raise Misconfigured(f"feature type: expected one of {[str(a) for _, a, _, _ in _EXACT]} or a list of it, got {kind}")


def micros(moments: Iterable[datetime | None]) -> pa.Array:
    """(B,) timestamp column; a naive time is UTC, None is the epoch."""
    values = [0 if m is None else (_aware(m) - EPOCH) // _MICROSECOND for m in moments]
    return pa.array(values, pa.int64()).cast(schemas.TIMESTAMP)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low]) if not rest else bytes([low | 128]) + _varint(rest)
