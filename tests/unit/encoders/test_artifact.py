"""Artifacts: one changed byte, one missing file or a model that reaches outside itself stops the load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders import Encoder, Item, artifact_folder
from encoders.artifact import LAYOUT, load_artifact, save_artifact
from encoders.artifact_folder import replace_folder
from encoders.onnx_guard import check_model
from encoders.tower_artifact import load_tower
from moontide import EmbeddingSpace, Misconfigured

pytestmark = pytest.mark.unit

onnx = pytest.importorskip("onnx")
helper = onnx.helper

#: Every digested file of the shipped artifact.
SHIPPED = (*LAYOUT.digested[:5], LAYOUT.image_int8, LAYOUT.terms)


@pytest.fixture
def copy(artifact_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact_path, tmp_path / "moon"))


def _model(op: str = "Identity", domain: str = "", **attributes: object) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    graph = helper.make_graph([node], "g", [value("x", 1, ["b"])], [value("y", 1, ["b"])])
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets)


def test_the_shipped_artifact_is_whole(artifact_path: Path) -> None:
    artifact = load_artifact(artifact_path)
    assert artifact.manifest.space.id == "moon_v2"
    assert artifact.manifest.space.dim == 256
    assert sum(path.stat().st_size for path in artifact_path.iterdir()) < 12_000_000
    assert {path.name for path in artifact_path.iterdir()} == {*artifact.files, LAYOUT.manifest}
    for source in artifact.manifest.provenance["data"]:
        assert source["licence"]
        assert source.get("author") or source["title"]


def test_what_training_bought_the_shipped_artifact(artifact_path: Path) -> None:
    figures = load_artifact(artifact_path).manifest.metrics["test"]
    trained, untrained = figures["trained"], figures["untrained"]

    def gain(task: str, name: str) -> float:
        return float(trained[task][name] - untrained[task][name])

    assert gain("clothing/image_to_image", "precision_at_10") > 0.1
    assert gain("luma/text_to_image", "recall_at_10") > 0.6
    # Damaged titles are the one task that training makes worse (words are weighed before it): by a few points, no more.
    assert gain("online_retail/title_damaged", "recall_at_10") > -0.05


@pytest.mark.parametrize("name", SHIPPED)
def test_a_changed_byte_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(Misconfigured, match="expected digest sha256:.* got sha256:.*copy the whole artifact"):
        Encoder.load(copy)


@pytest.mark.parametrize("name", [*SHIPPED, LAYOUT.manifest])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(Misconfigured, match=name):
        Encoder.load(copy)


@pytest.mark.parametrize(
    "change",
    [{"format_version": 3}, {"digest": ""}, {"digest": "md5:1"}, {"space": {}}, {"opset": None}, {"space": {"name": "A"}}],
)
def test_a_wrong_manifest_is_refused(copy: Path, change: dict[str, object]) -> None:
    path = copy / LAYOUT.manifest
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Misconfigured):
        Encoder.load(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000])
def test_a_manifest_that_is_no_object(copy: Path, text: str) -> None:
    (copy / LAYOUT.manifest).write_text(text)
    with pytest.raises(Misconfigured, match=r"manifest\.json"):
        Encoder.load(copy)


def test_saved_again_it_is_the_same_space_and_replaces_the_old_one(artifact_path: Path, copy: Path) -> None:
    artifact = load_artifact(artifact_path)
    models = {name: data for name, data in artifact.files.items() if name not in (LAYOUT.tokenizer, LAYOUT.preprocessing)}
    settings = {"tokenizer": artifact.tokenizer, "preprocessing": artifact.preprocessing}
    space = save_artifact(copy, models, manifest=artifact.manifest, **settings)
    assert space == artifact.manifest.space
    again = Encoder.load(copy, threads=1)
    other = replace(artifact.manifest, space=EmbeddingSpace("moon", 3, 256))
    save_artifact(copy, models, manifest=other, **settings)
    assert Encoder.load(copy, threads=1).space.id == "moon_v3"
    assert again.encode([Item("a", title="tin")]).present.all()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_failed_save_leaves_the_old_artifact(artifact_path: Path, copy: Path) -> None:
    artifact = load_artifact(artifact_path)
    models = dict.fromkeys(LAYOUT.models, b"not a model")
    with pytest.raises(Misconfigured):
        save_artifact(copy, models, tokenizer=artifact.tokenizer, preprocessing=artifact.preprocessing,
                      manifest=artifact.manifest)  # fmt: skip
    assert load_artifact(copy).manifest.space == artifact.manifest.space


def test_what_was_there_stays_where_the_new_folder_cannot_take_its_place(tmp_path: Path, monkeypatch) -> None:
    target, rename = tmp_path / "moon", Path.rename
    replace_folder(target, {"a": b"old"})

    def full(self: Path, to: Path) -> Path:
        if to == target and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        replace_folder(target, {"a": b"new"})
    monkeypatch.undo()
    assert (target / "a").read_bytes() == b"old"
    replace_folder(target, {"b": b"new"})
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["moon", "moon/b"]


def test_a_folder_that_a_killed_run_took_away_is_named_to_readers_and_brought_back_by_the_next_run(
    tmp_path: Path, monkeypatch
) -> None:
    target, rename = tmp_path / "moon", Path.rename
    replace_folder(target, {"a": b"old"})

    def killed(self: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(target, {"a": b"new"})
    monkeypatch.undo()
    assert not target.exists()
    for load in (load_artifact, load_tower):
        with pytest.raises(Misconfigured, match=r"whole in \S*/\.moon\.old: rename that to moon, or write"):
            load(target)

    def full(prefix: str, dir: Path) -> str:  # noqa: A002
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact_folder.tempfile, "mkdtemp", full)
    with pytest.raises(OSError, match="No space"):
        replace_folder(target, {"a": b"new"})
    assert (target / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["moon"]


def test_a_plain_model_passes() -> None:
    check_model(_model().SerializeToString(), name="m")


def test_external_data_is_refused() -> None:
    for place in ("initializer", "attribute"):
        tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
        model = _model() if place == "initializer" else _model("Constant", value=tensor)
        if place == "initializer":
            model.graph.initializer.append(tensor)
        with pytest.raises(Misconfigured, match="external data"):
            check_model(model.SerializeToString(), name="m")


def test_custom_domains_are_refused() -> None:
    with pytest.raises(Misconfigured, match="domain"):
        check_model(_model("Evil", "com.example").SerializeToString(), name="m")
    model = _model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(Misconfigured, match="domain"):
        check_model(model.SerializeToString(), name="m")


def test_control_flow_and_functions_are_refused() -> None:
    body = _model().graph
    with pytest.raises(Misconfigured, match="control flow"):
        check_model(_model("If", then_branch=body, else_branch=body).SerializeToString(), name="m")
    model = _model()
    model.functions.append(helper.make_function("local", "f", ["x"], ["y"], [], [helper.make_opsetid("", 18)]))
    with pytest.raises(Misconfigured, match="function"):
        check_model(model.SerializeToString(), name="m")


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x0a\xff\xff\xff\xff\x7f", b"hello world", b"\x80" * 20, bytes(100)])
def test_rubbish_is_not_a_model(data: bytes) -> None:
    with pytest.raises(Misconfigured):
        check_model(data, name="m")
