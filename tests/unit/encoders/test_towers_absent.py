"""Artifacts of another shape: one tower, core crops, optional files, and manifests that lie about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encoders import Encoder, Item, Reason
from encoders.artifact import LAYOUT, Agreement, Manifest, digest_of, load_artifact, record_variants, save_artifact
from encoders.crops import core_crop
from encoders.export import Exported
from encoders.images import decode_sizes
from moontide import EmbeddingSpace, Misconfigured

from . import tiny_artifact as tiny

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path, tiny_export: Exported) -> Path:
    tiny.write(tmp_path / "tiny", tiny_export.models)
    return tmp_path / "tiny"


def test_an_encoder_of_pictures_reads_no_text(folder: Path, make_image) -> None:
    encoder = Encoder.load(folder, threads=1)
    picture = make_image(1)
    items = [Item("t", title="tin"), Item("i", image=picture), Item("both", title="tin", image=picture), Item("none")]
    vectors, rejects = encoder.encode_or_reject(items)
    assert vectors.ids == ("i", "both")
    assert (vectors.codes[0] == vectors.codes[1]).all()
    assert [(r.item_id, r.reason) for r in rejects] == [("t", Reason.MODALITY_UNSUPPORTED), ("none", Reason.NO_CONTENT)]
    assert "reads images only" in rejects[0].detail
    assert len(encoder.encode([])) == 0


def test_a_text_model_of_another_tokenizer_is_refused(tmp_path: Path, artifact_path: Path) -> None:
    files = load_artifact(artifact_path).files
    tiny.write(tmp_path / "text", {name: files[name] for name in (LAYOUT.text_model, LAYOUT.fusion_model)}, dim=256)
    with pytest.raises(Misconfigured, match="with weights, got one without"):
        Encoder.load(tmp_path / "text", threads=1)


def test_an_encoder_of_texts_decodes_no_picture(tmp_path: Path, artifact_path: Path, make_image) -> None:
    shipped = load_artifact(artifact_path)
    models = {name: shipped.files[name] for name in (LAYOUT.text_model, LAYOUT.fusion_model, LAYOUT.terms)}
    manifest = Manifest(EmbeddingSpace("texts", 1, shipped.manifest.space.dim), shipped.manifest.opset)
    save_artifact(tmp_path / "text", models, tokenizer=shipped.tokenizer, preprocessing=shipped.preprocessing, manifest=manifest)
    encoder = Encoder.load(tmp_path / "text", threads=1)
    torn = make_image(0)[:300]
    vectors, rejects = encoder.encode_or_reject([Item("a", title="tin", image=torn), Item("b", image=torn)])
    assert vectors.ids == ("a",)
    assert [(r.item_id, r.reason) for r in rejects] == [("b", Reason.MODALITY_UNSUPPORTED)]


def test_the_core_is_encoded_too(tmp_path: Path, folder: Path, tiny_export: Exported, make_image) -> None:
    tiny.write(tmp_path / "core", tiny_export.models, core_crop=True)
    encoder, plain = Encoder.load(tmp_path / "core", threads=1), Encoder.load(folder, threads=1)
    assert encoder.space != plain.space
    pictures = [make_image(at, (120, 90)) for at in range(3)]
    prepared = encoder.prepare([Item(str(at), image=picture) for at, picture in enumerate(pictures)])
    assert prepared.image_rows.tolist() == [0, 0, 1, 1, 2, 2]
    size, larger = (tiny.SIDE, tiny.SIDE), (2 * tiny.SIDE, 2 * tiny.SIDE)
    whole = [decode_sizes(picture, (size, larger)) for picture in pictures]
    expected = np.stack([np.stack([small, core_crop(big, size)]) for small, big in whole])
    assert (prepared.pixels == expected.reshape(prepared.pixels.shape)).all()
    rows = plain._image.run(None, {"pixels": prepared.pixels})[0].reshape(3, 2, tiny.DIM).sum(axis=1)
    assert np.allclose(encoder.floats(prepared), rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-5)


def test_a_model_of_another_dim_is_refused(tmp_path: Path, tiny_export: Exported) -> None:
    tiny.write(tmp_path / "wide", tiny_export.models, dim=64)
    with pytest.raises(Misconfigured, match=r"fusion\.onnx: expected vectors of 64 numbers, got 16"):
        Encoder.load(tmp_path / "wide", threads=1)


def test_optional_files_are_under_the_digest(folder: Path, tiny_export: Exported) -> None:
    artifact = load_artifact(folder)
    assert json.loads((folder / LAYOUT.manifest).read_text())["digest_order"][-1] == LAYOUT.image_int8
    without = {name: data for name, data in artifact.files.items() if name != LAYOUT.image_int8}
    assert digest_of(without) != artifact.manifest.space.encoder_digest
    (folder / LAYOUT.image_int8).unlink()
    with pytest.raises(Misconfigured, match=r"image\.int8\.onnx"):
        load_artifact(folder)


def test_a_file_that_is_not_listed_is_not_read(folder: Path) -> None:
    (folder / LAYOUT.terms).write_bytes(b"anything")
    assert LAYOUT.terms not in load_artifact(folder).files


@pytest.mark.parametrize(
    "listed",
    [["../secret"], ["image.onnx"], ["fusion.onnx", "tokenizer.json", "preprocessing.json"], "image.onnx", None,
     ["tokenizer.json", "image.onnx", "fusion.onnx", "preprocessing.json"]],
)  # fmt: skip
def test_a_list_of_other_files_is_refused(folder: Path, listed: object) -> None:
    path = folder / LAYOUT.manifest
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest_order": listed}))
    with pytest.raises(Misconfigured):
        load_artifact(folder)


@pytest.mark.parametrize("variants", [{"int8": {}}, {"int8": 1}, [1], {"int8": {"min_cosine": float("nan")}}])
def test_an_agreement_that_is_none_is_refused(folder: Path, variants: object) -> None:
    path = folder / LAYOUT.manifest
    path.write_text(json.dumps(json.loads(path.read_text()) | {"variants": variants}))
    with pytest.raises(Misconfigured, match=r"manifest\.json"):
        load_artifact(folder)


def test_an_agreement_is_of_numbers() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Agreement(float("nan"), 1.0, 0.0, 0.0, 1)


def test_recording_changes_no_digest(folder: Path) -> None:
    before = load_artifact(folder)
    record_variants(folder, {"int8": Agreement(0.99, 0.999, 0.1, 0.0, 5)})
    after = load_artifact(folder)
    assert after.files == before.files
    assert after.manifest.space == before.manifest.space
    assert after.manifest.variants["int8"].items == 5
