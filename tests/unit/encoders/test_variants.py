"""Precisions: chosen by measurement, only where the manifest says they agree, and named with a reason where they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from encoders import Encoder, Item, variants
from encoders.artifact import LAYOUT, Agreement, load_artifact
from encoders.compare import compare_variants
from encoders.export import Exported
from encoders.sample_inputs import cosines
from encoders.sessions import open_session
from encoders.variants import GAIN, SECONDS, choose, require_precision
from moontide import Misconfigured

from . import tiny_artifact as tiny

pytestmark = pytest.mark.unit

NEAR = Agreement(min_cosine=0.99, mean_cosine=0.999, codes_changed=0.3, recall_loss=0.1, items=50)


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_chosen", {})


@pytest.fixture
def folder(tmp_path: Path, tiny_export: Exported) -> Path:
    tiny.write(tmp_path / "tiny", tiny_export.models, variants={"int8": NEAR})
    return tmp_path / "tiny"


class Clock:
    """Time that passes only in `run`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run


@pytest.mark.parametrize("int8, best", [(0.004, "int8"), (0.012, "fp32"), (0.01 * (1 - GAIN / 2), "fp32")])
def test_the_faster_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch, int8: float, best: str) -> None:
    monkeypatch.setattr(variants, "_measure", lambda runs, _: {"fp32": 0.01, "int8": int8} if len(runs) == 2 else {})
    found = choose(load_artifact(folder), threads=1)
    assert found.name == best
    assert set(found.milliseconds) == {"fp32", "int8"}


def test_a_real_measurement_has_figures_and_reasons(folder: Path) -> None:
    encoder = Encoder.load(folder, threads=1, precision="auto")
    choice = encoder.precision
    assert choice.name in ("fp32", "int8")
    assert all(value > 0 for value in choice.milliseconds.values())
    assert {"fp32", "int8", "bf16"} == choice.milliseconds.keys() | choice.left_out.keys()
    assert choice.name in str(choice)


def test_time_is_limited_and_runs_take_turns() -> None:
    clock = Clock()
    times = variants._measure({"fp32": clock.run(0.010), "int8": clock.run(0.004)}, clock)
    assert times == pytest.approx({"fp32": 10.0, "int8": 4.0})
    slow = Clock()
    variants._measure({"fp32": slow.run(SECONDS), "int8": slow.run(SECONDS)}, slow)
    assert slow.now == 2 * SECONDS


@pytest.mark.parametrize(
    "agreement, reason",
    [
        (None, "does not say how far"),
        (Agreement(0.9, 0.999, 0.3, 0.1, 50), "expected cosines"),
        (Agreement(0.99, 0.98, 0.3, 0.1, 50), "expected cosines"),
        (Agreement(0.99, 0.999, 0.3, 0.6, 50), "got 0.9900, 0.9990 and 0.60"),
    ],
)
def test_what_does_not_agree_is_left_out(tmp_path: Path, tiny_export: Exported, agreement: Agreement | None, reason: str) -> None:
    tiny.write(tmp_path / "t", tiny_export.models, variants={} if agreement is None else {"int8": agreement})
    choice = Encoder.load(tmp_path / "t", threads=1, precision="auto").precision
    assert choice.name == "fp32"
    assert reason in choice.left_out["int8"]


def test_a_kernel_that_computes_otherwise_here_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = iter([lambda: np.eye(4, dtype=np.float32), lambda: -np.eye(4, dtype=np.float32)])
    monkeypatch.setattr(variants, "_probe", lambda *_: next(probes))
    choice = choose(load_artifact(folder), threads=1)
    assert choice.name == "fp32"
    assert choice.left_out["int8"].startswith("on this machine: expected a cosine")


def test_the_choice_is_made_once_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Encoder.load(folder, threads=1, precision="auto").precision
    monkeypatch.setattr(variants, "choose", lambda *_, **__: pytest.fail("measured again"))
    assert Encoder.load(folder, threads=1, precision="auto").precision is first


def test_fp32_is_the_default_and_measures_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "choose", lambda *_, **__: pytest.fail("measured"))
    choice = Encoder.load(folder, threads=1).precision
    assert (choice.name, choice.milliseconds, choice.left_out) == ("fp32", {}, {})


def test_a_named_precision_is_taken_or_refused(folder: Path, tmp_path: Path, tiny_export: Exported) -> None:
    items = [Item("a", image=_png())]
    plain, int8 = (Encoder.load(folder, threads=1, precision=name) for name in ("fp32", "int8"))
    assert int8.precision.name == "int8"
    assert int8.space == plain.space
    near = cosines(plain.floats(plain.prepare(items)), int8.floats(int8.prepare(items)))
    assert 0.95 < near.min() < 1.0
    plain_models = {name: data for name, data in tiny_export.models.items() if name != LAYOUT.image_int8}
    tiny.write(tmp_path / "plain", plain_models)
    with pytest.raises(Misconfigured, match=r"precision int8: the artifact has none of .*image\.int8\.onnx"):
        Encoder.load(tmp_path / "plain", threads=1, precision="int8")
    with pytest.raises(Misconfigured, match="expected one of .*auto.*got 'int4'"):
        Encoder.load(folder, precision="int4")  # type: ignore[arg-type]


def test_bfloat16_is_for_other_processors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = load_artifact(folder)
    monkeypatch.setattr(variants.platform, "machine", lambda: "x86_64")
    with pytest.raises(Misconfigured, match="precision bf16: onnxruntime's CPU provider has bfloat16 products on arm64 only"):
        require_precision(artifact, "bf16")
    monkeypatch.setattr(variants.platform, "machine", lambda: "aarch64")
    require_precision(artifact, "bf16")


def test_onnxruntime_has_no_bfloat16_convolution() -> None:
    kind = onnx.TensorProto.BFLOAT16
    value = helper.make_tensor_value_info
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    inputs = [value("x", kind, [1, 1, 4, 4]), value("w", kind, [1, 1, 3, 3])]
    graph = helper.make_graph([node], "g", inputs, [value("y", kind, [1, 1, 2, 2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    # The day this fails, a bfloat16 graph is worth exporting.
    with pytest.raises(Misconfigured, match="cannot run it"):
        open_session(model.SerializeToString(), threads=1, name="m")


def test_agreement_is_measured_and_recorded(folder: Path) -> None:
    items = [Item(str(at), image=_png(at)) for at in range(5)]
    lines: list[str] = []
    before = load_artifact(folder).manifest.space

    def recall(encoder: Encoder) -> dict[str, float]:
        return {"easy": 0.9, "hard": 0.5 if encoder.precision.name == "fp32" else 0.49}

    found = compare_variants(folder, items, recall=recall, threads=1, say=lines.append)
    artifact = load_artifact(folder)
    assert artifact.manifest.space == before
    assert artifact.manifest.variants == found
    assert found["int8"].recall_loss == pytest.approx(1.0)
    assert found["int8"].items == 5
    assert 0.9 < found["int8"].min_cosine <= found["int8"].mean_cosine <= 1.0
    assert 0.0 < found["int8"].codes_changed <= 1.0
    assert [line.split(":")[0] for line in lines] == ["int8", "bf16"]
    assert "recall lost +1.00 points (hard)" in lines[0]
    with pytest.raises(Misconfigured, match="expected at least one item"):
        compare_variants(folder, [], recall=recall)


def test_the_command_prints_the_measurement(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert variants.main([str(folder), "--threads", "1"]) == 0
    assert "bf16 left out" in capsys.readouterr().out
    assert variants.main([str(folder / "none")]) == 1


def _png(seed: int = 0) -> bytes:
    import io

    from PIL import Image

    from encoders.sample_inputs import smooth_pictures

    file = io.BytesIO()
    Image.fromarray(smooth_pictures(1, 48, seed=seed)[0]).save(file, "PNG")
    return file.getvalue()
