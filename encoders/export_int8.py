"""The int8-compute variant of a model: its graph with activation ranges, and without the weights the stored file has.

Activations are 8 bits with ranges fixed by calibration, so a row depends on nothing but itself; weights are 8 bits with a
scale for each output. `encoders.onnx_parts.join` puts the weights back at load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from encoders.export_weights import CODES, SCALE, quantise, summed_axes
from encoders.sessions import open_session

#: Axis of the outputs in a weight; matrices are few in an image tower and stay float.
_OUTPUT_AXIS: Final = {"Conv": 0}
_INT32: Final = 2**31 - 1

Arrays = Mapping[str, NDArray[np.generic]]


def int8_variant(stored: bytes, feeds: Sequence[Arrays], *, within: str = "") -> bytes:
    """ONNX bytes that compute in int8 once joined with `stored`.

    Args:
        stored: a model as `encoders.export` writes it.
        feeds: at least one batch of real inputs by name; of training, never of a test.
        within: only nodes whose weight's name starts so compute in int8, and additions between them; a histogram's large
            logits, for one, cannot bear 8 bits.
    """
    model = onnx.load_from_string(stored)
    original = {tensor.name: tensor for tensor in model.graph.initializer}
    wideners = _widen(model.graph)
    plan = _Plan.of(model.graph, within)
    ranges = _calibrate(model, sorted(plan.activations), feeds)
    _rewrite(model.graph, plan, ranges, original)
    _narrow(model.graph, wideners, original)
    onnx.checker.check_model(_joined(model, original))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@dataclass(slots=True)
class _Plan:
    """What computes in int8: nodes by their first output, activations around them, and clips that a range replaces."""

    nodes: set[str] = field(default_factory=set)
    activations: set[str] = field(default_factory=set)
    clips: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, graph: onnx.GraphProto, within: str) -> _Plan:
        plan = cls()
        weights = {t.name for t in graph.initializer if t.name.startswith(within) and len(t.dims) > 1}
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for node in graph.node:
            own = node.op_type in _OUTPUT_AXIS and node.input[1] in weights
            if not own and not (node.op_type == "Add" and all(name in plan.activations for name in node.input)):
                continue
            after = readers.get(node.output[0], [])
            clipped = len(after) == 1 and after[0].op_type in ("Relu", "Clip")
            if clipped:
                plan.clips.add(after[0].output[0])
            plan.nodes.add(node.output[0])
            plan.activations |= {node.input[0], after[0].output[0] if clipped else node.output[0]}
        return plan


def _widen(graph: onnx.GraphProto) -> list[NodeProto]:
    """Stored weights as float32 initialisers again; returns the nodes that had made them so."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, wideners = [], []
    for node in graph.node:
        if node.op_type in ("Cast", "Mul") and all(name in tensors for name in node.input):
            wideners.append(node)
            values = [tensors[name].astype(np.float32) for name in node.input]
            tensors[node.output[0]] = values[0] if len(values) == 1 else values[0] * values[1]
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in tensors.items() if name in read)
    return wideners


def _narrow(graph: onnx.GraphProto, wideners: Sequence[NodeProto], original: Mapping[str, onnx.TensorProto]) -> None:
    """Undo `_widen` for weights that are still read, and leave out what the stored file has."""
    read = {name for node in graph.node for name in node.input}
    needed: list[NodeProto] = []
    for node in reversed(wideners):
        if node.output[0] in read:
            needed.insert(0, node)
            read.update(node.input)
    made = {node.output[0] for node in needed}
    kept = [t for t in graph.initializer if t.name in read - made and not _same(t, original.get(t.name))]
    nodes = [*needed, *graph.node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _calibrate(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Arrays]) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each activation over all feeds, 0 among them."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in inputs)
    session = open_session(watched.SerializeToString(), threads=1, name="calibration")
    found = dict.fromkeys(names, (0.0, 0.0))
    for feed in feeds:
        made = dict(zip([value.name for value in session.get_outputs()], session.run(None, dict(feed)), strict=True))
        for name in names:
            values = made[name] if name in made else feed[name]
            low, high = found[name]
            found[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return found


def _rewrite(
    graph: onnx.GraphProto, plan: _Plan, ranges: Mapping[str, tuple[float, float]], original: Mapping[str, onnx.TensorProto]
) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, onnx.TensorProto] = {}
    clip_of = {node.input[0]: node.output[0] for node in graph.node if node.output[0] in plan.clips}
    nodes: list[NodeProto] = [*_pairs(plan, ranges, made, [value.name for value in graph.input])]
    for node in graph.node:
        if node.output[0] in plan.clips:
            continue
        int8 = node.output[0] in plan.nodes
        if int8:
            # Rounding to the range [0, top] is the clip.
            node.output[0] = clip_of.get(node.output[0], node.output[0])
        if int8 and node.op_type in _OUTPUT_AXIS:
            nodes += _weights(node, weights, original, made, ranges[node.input[0]])
        node.input[:] = [name + "_dq" if name in plan.activations else name for name in node.input]
        nodes.append(node)
        nodes += _pairs(plan, ranges, made, node.output)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(made.values())


def _pairs(
    plan: _Plan, ranges: Mapping[str, tuple[float, float]], made: dict[str, onnx.TensorProto], names: Sequence[str]
) -> list[NodeProto]:
    nodes = []
    for name in names:
        if name in plan.activations:
            scale, zero = _grid(*ranges[name])
            _put(made, name + "_s", np.float32(scale))
            _put(made, name + "_z", np.uint8(zero))
            nodes.append(helper.make_node("QuantizeLinear", [name, name + "_s", name + "_z"], [name + "_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [name + "_q", name + "_s", name + "_z"], [name + "_dq"]))
    return nodes


def _grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of 8 bits over [low, high], 0 exactly on the grid."""
    scale = max(high - low, 1e-6) / 255.0
    return scale, int(np.clip(round(-low / scale), 0, 255))


def _weights(
    node: NodeProto,
    weights: Mapping[str, onnx.TensorProto],
    original: Mapping[str, onnx.TensorProto],
    made: dict[str, onnx.TensorProto],
    span: tuple[float, float],
) -> list[NodeProto]:
    """Give `node` its weight, and a bias where it has one, through DequantizeLinear."""
    name, axis = node.input[1], _OUTPUT_AXIS[node.op_type]
    if name + CODES in original:
        codes, scale = name + CODES, numpy_helper.to_array(original[name + SCALE])
    else:
        codes = name + "_own" + CODES
        values, scale = quantise(numpy_helper.to_array(weights[name]), summed_axes(node, name))
        _put(made, codes, values)
    _put(made, name + "_s", scale.reshape(-1))
    node.input[1] = name + "_dq"
    nodes = [helper.make_node("DequantizeLinear", [codes, name + "_s"], [name + "_dq"], axis=axis)]
    if len(node.input) > 2:
        bias = node.input[2]
        step = (scale.reshape(-1) * np.float32(_grid(*span)[0])).astype(np.float32)
        whole = np.rint(numpy_helper.to_array(weights[bias]).astype(np.float64) / step)
        _put(made, bias + "_codes", np.clip(whole, -_INT32, _INT32).astype(np.int32))
        _put(made, bias + "_s", step)
        node.input[2] = bias + "_dq"
        nodes.append(helper.make_node("DequantizeLinear", [bias + "_codes", bias + "_s"], [bias + "_dq"], axis=0))
    return nodes


def _put(made: dict[str, onnx.TensorProto], name: str, values: NDArray[np.generic] | np.generic) -> None:
    made[name] = numpy_helper.from_array(np.asarray(values), name)


def _same(a: onnx.TensorProto, b: onnx.TensorProto | None) -> bool:
    return b is not None and a.SerializeToString() == b.SerializeToString()


def _joined(model: onnx.ModelProto, original: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.extend(original.values())
    return whole
