"""Sentence encoders through the command and our runtime, and what every pretrained model needs of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from encoders import Item, Reason  # noqa: E402
from encoders.backbones.pretrained import Pretrained  # noqa: E402
from encoders.hf_model import fit_projection, load  # noqa: E402
from encoders.huggingface import main  # noqa: E402
from encoders.images import decode  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402
from tests.unit.encoders import tiny_pretrained as tiny  # noqa: E402
from tests.unit.encoders.pretrained_checks import TITLES, Exported, exported, floats, no_network, reference_texts  # noqa: E402

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with no_network():
        yield


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("sentence"), tiny.sentence)


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [tiny.picture(seed, size) for seed, size in ((1, (80, 60)), (2, (40, 90)), (3, (32, 32)))]


def test_texts_are_those_of_the_library(sentence: Exported) -> None:
    got = floats(sentence.encoder, [Item(str(at), title=title) for at, title in enumerate(TITLES)])
    wanted = reference_texts(sentence)
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    # Or the figure above would say nothing.
    assert (wanted @ wanted.T)[~np.eye(len(TITLES), dtype=bool)].max() < 0.99


def test_batches_of_none_and_one_and_padding(sentence: Exported) -> None:
    encoder = sentence.encoder
    assert len(encoder.encode([])) == 0
    items = [Item(str(at), title=title) for at, title in enumerate(TITLES)]
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
