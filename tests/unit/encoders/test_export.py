"""Export: what the files compute is what torch computes, weights are small, and a variant shares them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import nn

from encoders import export
from encoders.artifact import LAYOUT
from encoders.export import OPSET, Exported
from encoders.export_weights import quantise, shrink
from encoders.folding import fold, round_weights
from encoders.onnx_guard import check_model
from encoders.onnx_parts import join
from encoders.sample_inputs import cosines, smooth_pictures
from encoders.sessions import open_session
from moontide import Misconfigured

from . import tiny_artifact as tiny

pytestmark = pytest.mark.unit

IMAGE = LAYOUT.image_model


@pytest.fixture
def exported(tiny_export: Exported) -> Exported:
    return tiny_export


@pytest.fixture
def variant(exported: Exported) -> bytes:
    return exported.models[LAYOUT.image_int8]


def _run(model: bytes, pixels: np.ndarray) -> np.ndarray:
    return open_session(model, threads=1, name="m").run(None, {"pixels": pixels})[0]


def test_the_file_computes_what_torch_computes(exported: Exported) -> None:
    assert exported.torch_cosine[IMAGE] > 1 - 1e-6
    # Its weights were rounded before.
    assert exported.stored_cosine[IMAGE][0] > 1 - 1e-6
    assert f"{IMAGE}: 0.0" in exported.summary()
    for count in (1, 5, 7):
        pixels = smooth_pictures(count, tiny.SIDE, seed=count)
        with torch.no_grad():
            expected = tiny.tower()(torch.from_numpy(pixels)).numpy()
        got = _run(exported.models[IMAGE], pixels)
        assert got.shape == (count, tiny.DIM)
        assert cosines(expected, got).min() > 1 - 1e-6


def test_the_file_states_its_opset_and_names_no_machine(exported: Exported) -> None:
    model = onnx.load_from_string(exported.models[IMAGE])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_convolutions_are_stored_as_codes(exported: Exported) -> None:
    kinds = {t.name: t.data_type for t in onnx.load_from_string(exported.models[IMAGE]).graph.initializer}
    assert kinds["backbone.blocks.0.wide.0.weight_int8"] == onnx.TensorProto.INT8
    # Sums of 27 numbers are too short for 8 bits.
    assert kinds["backbone.stem.0.weight_half"] == onnx.TensorProto.FLOAT16


def test_rounding_again_changes_nothing() -> None:
    module = tiny.tower()
    before = [parameter.clone() for parameter in module.parameters()]
    round_weights(module)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(before, module.parameters(), strict=True))


def test_folding_changes_nothing_and_leaves_no_norm() -> None:
    module, pixels = tiny.Tower().eval(), torch.from_numpy(smooth_pictures(2, tiny.SIDE))
    with torch.no_grad():
        before = module(pixels)
        fold(module)
        after = module(pixels)
    assert torch.allclose(before, after, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def _graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], kind: int, out: int) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", kind, ["batch", "length"])], [value("vectors", 1, ["batch", out])]
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def test_a_file_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = _graph([helper.make_node("Neg", ["x"], ["vectors"])], {}, 1, 8).SerializeToString()
    monkeypatch.setattr(export, "export_module", lambda *_, **__: wrong)
    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    with pytest.raises(Misconfigured, match=r"fusion.onnx: expected a cosine with torch of at least 0.9999, got -1"):
        export.export_parts({"fusion.onnx": (nn.Identity(), {"x": rows})})


def test_weights_that_bear_no_8_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    table[:, 0] = 1e6
    table[:, 0] *= np.where(np.arange(64) % 2, 1, -1)
    reads = [
        helper.make_node("Gather", ["table", "x"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
    ]
    tail = [helper.make_node("Sub", ["sum", "big"], ["vectors"])]
    weights = {"table": table, "axis": np.array([1]), "big": np.eye(1, 64, dtype=np.float32) * 0}
    made = _graph([*reads, *tail], weights, 6, 64).SerializeToString()
    monkeypatch.setattr(export, "export_module", lambda *_, **__: made)
    pairs = np.arange(12, dtype=np.int32).reshape(6, 2)

    class Read(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(table)[x.long()].sum(dim=1)

    with pytest.raises(Misconfigured, match=r"int8 weights to keep a mean cosine of 0.98, got 0\.0"):
        export.export_parts({"text.onnx": (Read(), {"x": pairs})})


def test_a_table_is_stored_and_read_row_by_row() -> None:
    table = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    read = [
        helper.make_node("Gather", ["table", "x"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["vectors"], keepdims=0),
    ]
    model = _graph(read, {"table": table, "axis": np.array([1])}, 6, 64)
    shrink(model.graph)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    assert len(data) < 256 * (64 + 4) + 1_000
    ids = np.random.default_rng(1).integers(0, 256, (5, 9)).astype(np.int32)
    got = open_session(data, threads=1, name="m").run(None, {"x": ids})[0]
    assert cosines(got, table[ids].mean(axis=1)).min() > 0.999


def test_the_variant_is_near_and_a_row_is_its_own(exported: Exported, variant: bytes) -> None:
    whole = join(variant, exported.models[IMAGE], name="v")
    pixels = smooth_pictures(9, tiny.SIDE, seed=5)
    got = _run(whole, pixels)
    assert cosines(got, _run(exported.models[IMAGE], pixels)).min() > 0.98
    assert not np.array_equal(got, _run(exported.models[IMAGE], pixels))
    alone = np.concatenate([_run(whole, pixels[at : at + 1]) for at in range(9)])
    assert np.allclose(alone, got, atol=1e-5)


def test_the_variant_shares_the_weights(exported: Exported, variant: bytes) -> None:
    check_model(variant, name="v")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(exported.models[IMAGE]).graph.initializer}
    own = {t.name for t in onnx.load_from_string(variant).graph.initializer}
    assert not own & stored.keys()
    operators = {node.op_type for node in onnx.load_from_string(variant).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    assert len(variant) < len(exported.models[IMAGE])
    with pytest.raises(Misconfigured, match="expected its weights in the float32 model"):
        join(variant, exported.models[LAYOUT.fusion_model], name="v")


def test_joining_is_what_onnx_reads(exported: Exported, variant: bytes) -> None:
    merged = onnx.load_from_string(join(variant, exported.models[IMAGE], name="v"))
    onnx.checker.check_model(merged)
    assert len(merged.graph.node) == len(onnx.load_from_string(variant).graph.node)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 40))
def test_codes_are_within_half_a_step(seed: int, outputs: int, inputs: int) -> None:
    values = np.random.default_rng(seed).normal(size=(outputs, inputs)).astype(np.float32)
    values[0] = 0.0
    codes, scale = quantise(values, (1,))
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max(initial=0) <= 127
    assert (np.abs(codes * scale - values) <= scale / 2 * (1 + 1e-5)).all()
