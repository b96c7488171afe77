"""Weights of an ONNX file made small: convolutions and tables in int8 with a scale for each output, half precision for the rest.

onnxruntime widens convolutions and matrices once, at load, and computes in float32; of a table only the rows that are
read are widened, at each read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from encoders.folding import HALF_SIZE, INT8_FAN_IN, INT8_SIZE, WEAKEST

#: Suffixes of what a stored weight becomes.
CODES: Final = "_int8"
SCALE: Final = "_scale"
_HALF: Final = "_half"
#: The axes that one output sums over, counted from the end; all other axes have a scale of their own.
_SUMMED: Final = {"Conv": (-3, -2, -1), "Gather": (-1,)}


def shrink(graph: onnx.GraphProto) -> None:
    """Store, in place, large float32 initialisers as int8 codes or in half precision."""
    nodes: list[NodeProto] = []
    readers = {name: _readers(graph, name) for name in (tensor.name for tensor in graph.initializer)}
    kept: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        axes = _common_axes(readers[tensor.name], tensor.name)
        if values.dtype != np.float32 or values.size < HALF_SIZE:
            kept.append(tensor)
        elif axes and values.size >= INT8_SIZE and _fan_in(values, axes) >= INT8_FAN_IN:
            codes, scale = quantise(values, axes)
            kept += [_named(codes, tensor.name + CODES), _named(scale, tensor.name + SCALE)]
            nodes += _widened_rows(graph, readers[tensor.name][0]) if _is_table(readers[tensor.name]) else _widened(tensor.name)
        else:
            kept.append(_named(values.astype(np.float16), tensor.name + _HALF))
            nodes.append(_cast(tensor.name + _HALF, tensor.name))
    ordered = [*nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(ordered)


def quantise(values: NDArray[np.float32], axes: Sequence[int]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes in -127..127 and the scale, 1 long along `axes`; their product is the stored weight."""
    top = np.abs(values).max(axis=tuple(axes), keepdims=True)
    scale = np.maximum(top, np.float32(WEAKEST) * top.max()) / np.float32(127.0)
    scale = np.where(scale > 0, scale, np.float32(1.0)).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _readers(graph: onnx.GraphProto, name: str) -> list[NodeProto]:
    return [node for node in graph.node if name in node.input]


def _common_axes(readers: Sequence[NodeProto], name: str) -> tuple[int, ...]:
    """Axes without a scale of their own; empty where int8 is not for this tensor."""
    found = {summed_axes(node, name) for node in readers}
    return found.pop() if len(found) == 1 and (len(readers) == 1 or not _is_table(readers)) else ()


def summed_axes(node: NodeProto, name: str) -> tuple[int, ...]:
    """Axes of the weight `name` that one output of `node` sums over; empty where int8 is not for it."""
    place = 0 if node.op_type == "Gather" else 1
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type not in _SUMMED or list(node.input).index(name) != place or attributes.get("axis", 0) != 0:
        return ()
    return _SUMMED[node.op_type]


def _is_table(readers: Sequence[NodeProto]) -> bool:
    return any(node.op_type == "Gather" for node in readers)


def _fan_in(values: NDArray[np.float32], axes: Sequence[int]) -> int:
    return int(np.prod([values.shape[axis] for axis in axes]))


def _widened(name: str) -> list[NodeProto]:
    wide = name + CODES + "_wide"
    return [_cast(name + CODES, wide), helper.make_node("Mul", [wide, name + SCALE], [name])]


def _widened_rows(graph: onnx.GraphProto, reader: NodeProto) -> list[NodeProto]:
    """Replace a look-up in a float table by look-ups of codes and scales; returns nothing to put in front."""
    name, ids = reader.input[0], reader.input[1]
    out, at = reader.output[0], list(graph.node).index(reader)
    rows, scales, wide = (f"{out}_{part}" for part in ("codes", "scales", "wide"))
    graph.node.remove(reader)
    for offset, node in enumerate(
        [
            helper.make_node("Gather", [name + CODES, ids], [rows], axis=0),
            helper.make_node("Gather", [name + SCALE, ids], [scales], axis=0),
            _cast(rows, wide),
            helper.make_node("Mul", [wide, scales], [out]),
        ]
    ):
        graph.node.insert(at + offset, node)
    return []


def _cast(name: str, to: str) -> NodeProto:
    return helper.make_node("Cast", [name], [to], to=onnx.TensorProto.FLOAT)


def _named(values: NDArray[np.generic], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)
