"""Pretrained models through the command and our runtime: the library's own vectors, from tiny random models."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.nn.functional import normalize  # noqa: E402

from encoders import Encoder, Item, Reason  # noqa: E402
from encoders.backbones.pretrained import Pretrained  # noqa: E402
from encoders.hf_model import fit_projection, load  # noqa: E402
from encoders.huggingface import main  # noqa: E402
from encoders.images import decode  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402
from tests.unit.encoders import tiny_pretrained as tiny  # noqa: E402

pytestmark = pytest.mark.unit

TITLES = ("red mug", "a hoodie of blue wool with a candle", "glass vase 20 cm", "candle " * 40)


@dataclass(frozen=True)
class Exported:
    folder: Path
    reference: object
    encoder: Encoder


@pytest.fixture(scope="module", autouse=True)
def no_network() -> object:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def _exported(at: Path, build: Callable[[Path], object], *more: str) -> Exported:
    folder, out = at / "model", at / "artifact"
    folder.mkdir()
    reference = build(folder)
    assert main(["--model", str(folder), "--out", str(out), "--space", "tiny", "--version", "1", *more]) == 0
    return Exported(folder, reference, Encoder.load(out, threads=1))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _exported(tmp_path_factory.mktemp("clip"), tiny.clip)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _exported(tmp_path_factory.mktemp("siglip"), tiny.siglip)


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _exported(tmp_path_factory.mktemp("sentence"), tiny.sentence)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _exported(tmp_path_factory.mktemp("vit"), lambda folder: tiny.vision(folder, "vit"))


@pytest.fixture(scope="module")
def pictures(make_image) -> list[bytes]:
    return [make_image(seed, size) for seed, size in ((1, (80, 60)), (2, (40, 90)), (3, (32, 32)))]


def _floats(encoder: Encoder, items: list[Item]) -> np.ndarray:
    vectors = encoder.encode(items)
    assert vectors.present.all()
    return _unit(vectors.to_float())


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _pixel_values(pictures: list[bytes]) -> torch.Tensor:
    pixels = np.stack([decode(picture, (tiny.SIDE, tiny.SIDE)) for picture in pictures]).transpose(0, 3, 1, 2) / 255.0
    mean, std = (np.array(values)[:, None, None] for values in (tiny.MEAN, tiny.STD))
    return torch.from_numpy(((pixels - mean) / std).astype(np.float32))


def _tokens(folder: Path, texts: tuple[str, ...], **how: object) -> dict[str, torch.Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer(list(texts), return_tensors="pt", truncation=True, max_length=16, return_token_type_ids=False, **how)


def _reference_texts(model: Exported) -> np.ndarray:
    with torch.no_grad():
        if isinstance(model.reference, transformers.CLIPModel):
            rows = model.reference.get_text_features(**_tokens(model.folder, TITLES, padding=True)).pooler_output
        elif isinstance(model.reference, transformers.SiglipModel):
            ids = _tokens(model.folder, TITLES, padding="max_length")["input_ids"]
            rows = model.reference.get_text_features(input_ids=ids).pooler_output
        else:
            tokens = _tokens(model.folder, TITLES, padding=True)
            weights = tokens["attention_mask"][:, :, None].float()
            rows = (model.reference(**tokens).last_hidden_state * weights).sum(1) / weights.sum(1)
    return normalize(rows).numpy()


def _reference_pictures(model: Exported, pictures: list[bytes]) -> np.ndarray:
    with torch.no_grad():
        return normalize(model.reference.get_image_features(pixel_values=_pixel_values(pictures)).pooler_output).numpy()


@pytest.mark.parametrize("name", ["clip", "siglip", "sentence"])
def test_texts_are_those_of_the_library(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    got = _floats(model.encoder, [Item(str(at), title=title) for at, title in enumerate(TITLES)])
    wanted = _reference_texts(model)
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    # Or the figure above would say nothing.
    assert (wanted @ wanted.T)[~np.eye(len(TITLES), dtype=bool)].max() < 0.99


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_pictures_and_mixes_are_those_of_the_library(name: str, request: pytest.FixtureRequest, pictures: list[bytes]) -> None:
    model = request.getfixturevalue(name)
    wanted = _reference_pictures(model, pictures)
    got = _floats(model.encoder, [Item(str(at), image=picture) for at, picture in enumerate(pictures)])
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    both = _floats(model.encoder, [Item(str(at), title=TITLES[at], image=picture) for at, picture in enumerate(pictures)])
    mean = _unit(wanted + _reference_texts(model)[: len(pictures)])
    assert (both * mean).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("name", ["clip", "siglip", "sentence"])
def test_batches_of_none_and_one_and_padding(name: str, request: pytest.FixtureRequest, pictures: list[bytes]) -> None:
    encoder: Encoder = request.getfixturevalue(name).encoder
    assert len(encoder.encode([])) == 0
    items = [Item(str(at), title=title) for at, title in enumerate(TITLES)]
    if name != "sentence":
        items += [Item(f"p{at}", image=picture) for at, picture in enumerate(pictures)]
    together, alone = encoder.encode(items).codes, np.concatenate([encoder.encode([item]).codes for item in items])
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


def test_long_text_is_cut(sentence: Exported) -> None:
    words = "red blue cotton wool hoodie mug glass vase candle with a of red blue".split()
    first, second = " ".join(words), " ".join([*words, "glass", "vase"] * 50)
    codes = sentence.encoder.encode([Item("a", title=first), Item("b", title=second)]).codes
    assert (codes[0] == codes[1]).all()


def test_a_text_encoder_refuses_what_it_cannot_read(sentence: Exported, pictures: list[bytes]) -> None:
    items = [Item("p", image=pictures[0]), Item("t", title="mug"), Item("b", title="mug", image=pictures[0]), Item("n")]
    vectors, rejects = sentence.encoder.encode_or_reject(items)
    assert vectors.ids == ("t", "b")
    assert (vectors.codes[0] == vectors.codes[1]).all()
    assert [(reject.item_id, reject.reason) for reject in rejects] == [
        ("p", Reason.MODALITY_UNSUPPORTED), ("n", Reason.NO_CONTENT),
    ]  # fmt: skip
    assert "text" in rejects[0].detail


def test_an_image_network_alone(vit: Exported, pictures: list[bytes]) -> None:
    with torch.no_grad():
        wanted = normalize(vit.reference(pixel_values=_pixel_values(pictures)).last_hidden_state[:, 0]).numpy()
    got = _floats(vit.encoder, [Item(str(at), image=picture) for at, picture in enumerate(pictures)])
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    _, rejects = vit.encoder.encode_or_reject([Item("t", title="mug")])
    assert [reject.reason for reject in rejects] == [Reason.MODALITY_UNSUPPORTED]


def test_the_manifest_says_where_it_comes_from(clip: Exported) -> None:
    manifest = clip.encoder.artifact.manifest
    assert manifest.space.dim == 24
    assert manifest.provenance["pretrained"] == {"model": "model", "model_type": "clip"}
    assert str(clip.folder.parent) not in json.dumps(dict(manifest.provenance))
    assert min(manifest.provenance["cosine_with_torch"].values()) >= 0.9999


def test_it_runs_without_torch_and_transformers(clip: Exported) -> None:
    program = (
        "import sys; from encoders import Encoder, Item\n"
        f"assert Encoder.load({str(clip.folder.parent / 'artifact')!r}, threads=1).encode([Item('a', title='red mug')]).present.all()\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_two_models_side_by_side_and_a_projection(tmp_path: Path, pictures: list[bytes]) -> None:
    for name in ("picture", "text"):
        (tmp_path / name).mkdir()
    tiny.vision(tmp_path / "picture", "resnet")
    tiny.sentence(tmp_path / "text")
    loaded = load(Pretrained(str(tmp_path / "picture")), Pretrained(str(tmp_path / "text")))
    assert loaded.width == 16 + 32
    pixels = np.stack([decode(picture, (tiny.SIDE, tiny.SIDE)) for picture in pictures])
    items = [Item(str(at), title=title) for at, title in enumerate(TITLES)]
    projection = fit_projection(loaded, items, pixels, 7)
    torch.testing.assert_close(projection @ projection.T, torch.eye(7), atol=1e-5, rtol=0)
    image, text = loaded.modules()
    short_image, _ = loaded.modules(projection)
    with torch.no_grad():
        rows, words = image(torch.from_numpy(pixels)), text(torch.tensor([[0, 3, 1]]), torch.ones(1, 3))
        assert (rows @ words.T).abs().max() == 0
        # Seven rows lie in seven directions: their cosines survive whole.
        short = short_image(torch.from_numpy(pixels))
        torch.testing.assert_close(short @ short.T, rows @ rows.T, atol=1e-4, rtol=0)
    with pytest.raises(Misconfigured, match="--fit"):
        fit_projection(loaded, items, pixels, 8)
    with pytest.raises(Misconfigured, match="--dim"):
        fit_projection(loaded, items, pixels, 48)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "distilbert"])
def test_sentence_encoders_pool_as_their_files_say(kind: str, tmp_path: Path) -> None:
    reference = tiny.sentence(tmp_path, kind=kind, pooling="cls")
    loaded = load(Pretrained(str(tmp_path)))
    ids, kinds = torch.tensor([[0, 4, 5, 1], [0, 6, 1, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        got = loaded.text.tower(ids, kinds)
        alone = reference(input_ids=ids[1:, :3], attention_mask=torch.ones(1, 3, dtype=torch.long)).last_hidden_state[:, 0]
    torch.testing.assert_close(got[1:], alone, atol=1e-5, rtol=1e-4)
    assert loaded.text.tokenizer.max_length == 16


def test_what_is_not_stated_or_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.sentence(tmp_path)
    arguments = ["--model", str(tmp_path), "--out", str(tmp_path / "out"), "--space", "tiny", "--version", "1"]
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "max"}))
    assert main(arguments) == 1
    assert "pooling" in capsys.readouterr().err
    (tmp_path / "modules.json").unlink()
    assert main(arguments) == 1
    assert "--pooling" in capsys.readouterr().err
    assert main([*arguments, "--text", str(tmp_path)]) == 1
    assert "leave --text out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--dim", "8"])
