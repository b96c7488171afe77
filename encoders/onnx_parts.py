"""A model file completed from another one: weights that two variants share are stored once.

Of two protobuf messages one after the other, the reader makes one: lists follow each other. So a graph without some of its
initialisers, followed by a message that holds only those, is the whole model, and nothing of either has to be understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from encoders.onnx_guard import fields_of
from moontide.errors import Misconfigured

# Field numbers of onnx.proto3.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 7, 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _TENSOR_NAME, _INPUT_NAME = 1, 2, 8, 1
_BYTES: Final = 2


def join(variant: bytes, stored: bytes, *, name: str) -> bytes:
    """`variant` with the initialisers that it names and lacks, taken from `stored`. Both passed `check_model`.

    Raises:
        Misconfigured: a value is in neither.
    """
    graph = _graph(variant)
    known: set[bytes] = set()
    wanted: set[bytes] = set()
    for field, value in graph:
        if field == _GRAPH_NODE:
            wanted.update(bytes(part) for number, part in _parts(value) if number == _NODE_INPUT)
            known.update(bytes(part) for number, part in _parts(value) if number == _NODE_OUTPUT)
        elif field == _GRAPH_INITIALIZER:
            known.add(_name_of(value, _TENSOR_NAME))
        elif field == _GRAPH_INPUT:
            known.add(_name_of(value, _INPUT_NAME))
    missing = wanted - known - {b""}
    tensors = [value for field, value in _graph(stored) if field == _GRAPH_INITIALIZER]
    taken = [value for value in tensors if _name_of(value, _TENSOR_NAME) in missing]
    if len(taken) != len(missing):
        lost = sorted(missing - {_name_of(value, _TENSOR_NAME) for value in taken})[:3]
        raise Misconfigured(
            f"{name}: expected its weights in the float32 model, got none for {lost}; copy the whole artifact again"
        )
    body = b"".join(_field(_GRAPH_INITIALIZER, bytes(value)) for value in taken)
    return variant + _field(_MODEL_GRAPH, body)


def _graph(model: bytes) -> list[tuple[int, memoryview]]:
    return [part for field, value in _parts(memoryview(model)) if field == _MODEL_GRAPH for part in _parts(value)]


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for field, value in fields_of(message):
        if isinstance(value, memoryview):
            yield field, value


def _name_of(message: memoryview, number: int) -> bytes:
    return b"".join(bytes(value) for field, value in _parts(message) if field == number)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
