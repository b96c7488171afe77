"""The runtime: every modality mix, every batch size, errors as values, and no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders import Encoder, Item, Reason, Unencodable
from moontide import Poison

pytestmark = pytest.mark.unit


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def mixed(make_image) -> list[Item]:
    return [
        Item("title", title="Red cotton hoodie"),
        Item("description", description="A warm hoodie of soft cotton."),
        Item("attributes", attributes="red; cotton"),
        Item("image", image=make_image(1)),
        Item("both", title="Red cotton hoodie", image=make_image(1)),
        Item("all", "Red cotton hoodie", "A warm hoodie of soft cotton.", "red; cotton", make_image(1)),
    ]


def test_every_modality_mix_is_present(encoder: Encoder, mixed: list[Item]) -> None:
    vectors = encoder.encode(mixed)
    assert vectors.space == encoder.space
    assert vectors.ids == tuple(item.item_id for item in mixed)
    assert vectors.codes.shape == (len(mixed), encoder.space.dim)
    assert vectors.present.all()


def test_no_items(encoder: Encoder) -> None:
    vectors = encoder.encode([])
    assert len(vectors) == 0
    assert vectors.ids == ()
    assert encoder.encode_or_reject([])[1] == []


def test_a_row_does_not_depend_on_its_batch(encoder: Encoder, mixed: list[Item], make_image) -> None:
    others = [Item(f"n{at}", title=f"candle number {at}", image=make_image(at) if at % 3 else None) for at in range(70)]
    items = [*mixed, *others]
    together = encoder.encode(items)
    alone = np.stack([encoder.encode([item]).codes[0] for item in items])
    backwards = encoder.encode(items[::-1]).codes[::-1]
    for codes in (alone, backwards):
        difference = np.abs(together.codes.astype(int) - codes.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_each_field_matters(encoder: Encoder, mixed: list[Item], make_image) -> None:
    whole = mixed[-1]
    base = encoder.encode([whole]).codes[0]
    for change in ({"title": "Blue mug"}, {"description": "Holds tea."}, {"attributes": "blue"}, {"image": make_image(9)}):
        assert (encoder.encode([replace(whole, **change)]).codes[0] != base).any(), change


def test_ids_are_not_content(encoder: Encoder) -> None:
    codes = encoder.encode([Item("a", title="tin"), Item("b", title="tin")]).codes
    assert (codes[0] == codes[1]).all()


def test_like_titles_are_near(encoder: Encoder) -> None:
    rows = encoder.encode(
        [Item(str(at), title=t) for at, t in enumerate(("Red cotton hoodie", "hoodie, cotton RED", "glass vase"))]
    )
    floats = rows.to_float()
    assert _cosine(floats[0], floats[1]) > 0.8 > 0.6 > _cosine(floats[0], floats[2])


def test_errors_are_values(encoder: Encoder, make_image) -> None:
    items = [
        Item("ok", title="tin"),
        Item("empty"),
        Item("blank", title="  ", description=""),
        Item("signs", title="!!! ??? --"),
        Item("long", title="x" * 10_001),
        Item("torn", title="tin", image=make_image(0)[:300]),
        Item("path", image="pictures/1.jpg"),
        Item("ok2", image=make_image(2)),
    ]
    vectors, rejects = encoder.encode_or_reject(items)
    assert vectors.ids == ("ok", "ok2")
    assert {r.item_id: r.reason for r in rejects} == {
        "empty": Reason.NO_CONTENT,
        "blank": Reason.NO_CONTENT,
        "signs": Reason.NO_CONTENT,
        "long": Reason.TITLE_TOO_LONG,
        "torn": Reason.IMAGE_UNREADABLE,
        "path": Reason.IMAGE_REFUSED,
    }


def test_encode_raises_poison_with_reason(encoder: Encoder) -> None:
    with pytest.raises(Poison, match="no_content") as caught:
        encoder.encode([Item("a", title="tin"), Item("b")])
    assert isinstance(caught.value, Unencodable)
    assert caught.value.reason is Reason.NO_CONTENT


def test_only_rejects_in_a_batch(encoder: Encoder) -> None:
    vectors, rejects = encoder.encode_or_reject([Item("a"), Item("b")])
    assert len(vectors) == 0
    assert [r.item_id for r in rejects] == ["a", "b"]


def test_prepare_then_run_equals_encode(encoder: Encoder, mixed: list[Item]) -> None:
    prepared = encoder.prepare(mixed)
    assert (encoder.run(prepared).codes == encoder.encode(mixed).codes).all()
    assert prepared.content_hashes == tuple(encoder.content_hash(item) for item in mixed)


def test_strange_text_is_encoded(encoder: Encoder) -> None:
    titles = ["Ünïcödé Größe", "商品 名称", "a", "1", "\ud800 tin", "tin\0tin", "🎁 gift 🎁", "x" * 10_000, "ﬁne ①"]
    vectors = encoder.encode([Item(str(at), title=title) for at, title in enumerate(titles)])
    assert vectors.present.all()


def test_two_threads_give_the_same_rows(artifact_path: Path, encoder: Encoder, mixed: list[Item]) -> None:
    other = Encoder.load(artifact_path, threads=2)
    difference = np.abs(other.encode(mixed).codes.astype(int) - encoder.encode(mixed).codes.astype(int))
    assert difference.max() <= 1


def test_runtime_imports_no_training_package(artifact_path: Path) -> None:
    code = (
        "import sys; from encoders import Encoder; "
        f"Encoder.load({str(artifact_path)!r}, threads=1); "
        "sys.exit(', '.join({'torch', 'onnx', 'pandas', 'pyspark', 'feast'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
