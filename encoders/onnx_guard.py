"""What an ONNX file may not hold, read from its protobuf bytes: nothing of the file is run or resolved.

onnxruntime is the only ONNX package at run time, and it would follow a model's references before we could refuse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from moontide.errors import Misconfigured

STANDARD_DOMAINS: Final = frozenset({b"", b"ai.onnx"})
CONTROL_FLOW: Final = frozenset({b"Loop", b"If", b"Scan", b"SequenceMap"})
# Field numbers of onnx.proto3.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTIONS, _OPSET_DOMAIN, _OPSET_VERSION = 7, 8, 25, 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_model(data: bytes, *, name: str) -> None:
    """Raise unless `data` is a self-contained ONNX model of standard operators without control flow.

    Raises:
        Misconfigured: external data, a custom domain, a model function, control flow, or not an ONNX file.
    """
    try:
        _check_model(memoryview(data), name)
    except (IndexError, ValueError) as error:
        raise Misconfigured(f"{name}: expected an ONNX model, got {len(data)} bytes that are not one") from error


def opset_of(data: bytes) -> int:
    """The opset of the standard operators in a model that `check_model` let pass; 0 where it names none."""
    opsets = [_message(value) for field, value in fields_of(memoryview(data)) if field == _MODEL_OPSET]
    versions = [value for part in opsets for field, value in fields_of(part) if field == _OPSET_VERSION]
    return max((value for value in versions if isinstance(value, int)), default=0)


def _check_model(data: memoryview, name: str) -> None:
    graphs = 0
    for field, value in fields_of(data):
        if field == _MODEL_FUNCTIONS:
            raise Misconfigured(f"{name}: expected a model without local functions; export it with functions inlined")
        if field == _MODEL_OPSET:
            domains = [bytes(part) for number, part in fields_of(_message(value)) if number == _OPSET_DOMAIN]
            _check_domains(domains, name)
        if field == _MODEL_GRAPH:
            graphs += 1
            _check_graph(_message(value), name)
    if graphs != 1:
        raise Misconfigured(f"{name}: expected one ONNX graph, got {graphs}; export the model again")


def _check_graph(data: memoryview, name: str) -> None:
    for field, value in fields_of(data):
        if field == _GRAPH_NODE:
            _check_node(_message(value), name)
        elif field == _GRAPH_INITIALIZER:
            _check_tensor(_message(value), name)
        elif field == _GRAPH_SPARSE:
            raise Misconfigured(f"{name}: expected dense initializers, got a sparse one; export the model again")


def _check_node(data: memoryview, name: str) -> None:
    for field, value in fields_of(data):
        if field == _NODE_DOMAIN:
            _check_domains([bytes(_message(value))], name)
        elif field == _NODE_OP and bytes(_message(value)) in CONTROL_FLOW:
            raise Misconfigured(f"{name}: expected no control flow, got {bytes(_message(value)).decode()}")
        elif field == _NODE_ATTRIBUTE:
            _check_attribute(_message(value), name)


def _check_attribute(data: memoryview, name: str) -> None:
    for field, value in fields_of(data):
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _check_tensor(_message(value), name)
        elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            raise Misconfigured(f"{name}: expected no subgraphs; export the model without control flow")


def _check_tensor(data: memoryview, name: str) -> None:
    for field, value in fields_of(data):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise Misconfigured(f"{name}: expected weights inside the file, got external data; export with external_data=False")


def _check_domains(domains: list[bytes], name: str) -> None:
    for domain in domains:
        if domain not in STANDARD_DOMAINS:
            raise Misconfigured(f"{name}: expected standard ONNX operators, got domain {domain[:40]!r}")


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("expected a length-delimited field")
    return value


def fields_of(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, payload) of one protobuf message; the payload of a varint is its value."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("field runs past the end")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("varint longer than 10 bytes")
