"""Character-SVD vectors: the definition by numpy, what is left out, and the file that the command writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders.study.vector_file import read_vectors
from moontide.errors import Misconfigured
from ranking.text_svd import GRAMS, main, title_space, title_vectors

pytestmark = pytest.mark.unit

TITLES = ("red mug", "red mug large", "blue lamp", "lamp shade blue", "tea tin", "tin of tea", "glass jar", "jar")
IDS = tuple(f"i{at}" for at in range(len(TITLES)))


def _terms() -> np.ndarray:
    """TF-IDF in plain Python: 1 + log of counts, smoothed idf, unit rows."""
    low, high = GRAMS
    bags: list[dict[str, int]] = []
    for title in TITLES:
        bag: dict[str, int] = {}
        for word in (f" {word} " for word in title.split()):
            for size in range(low, min(high, len(word)) + 1):
                for at in range(len(word) - size + 1):
                    gram = word[at : at + size]
                    bag[gram] = bag.get(gram, 0) + 1
        bags.append(bag)
    names = sorted(set().union(*bags))
    idf = {name: np.log((1 + len(bags)) / (1 + sum(name in bag for bag in bags))) + 1 for name in names}
    rows = np.array([[(1 + np.log(bag[name])) * idf[name] if name in bag else 0.0 for name in names] for bag in bags])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_cosines_are_those_of_the_exact_decomposition() -> None:
    terms, dim = _terms(), 3
    left, sizes, _ = np.linalg.svd(terms)
    expected = left[:, :dim] * sizes[:dim]
    found = title_vectors(TITLES, dim, seed=0)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_one_seed_gives_the_same_bytes_and_items_without_a_title_are_left_out() -> None:
    titles = [*TITLES[:4], " ", *TITLES[5:]]
    first, again = (title_space(IDS, titles, 3, seed=1) for _ in range(2))
    assert first.ids == tuple(item for item in IDS if item != "i4")
    assert first.codes.tobytes() == again.codes.tobytes() and first.space == again.space
    assert first.space.encoder_digest != title_space(IDS, TITLES, 3, seed=1).space.encoder_digest


@pytest.mark.parametrize("titles", [(), ("mug",), TITLES])
def test_more_dims_than_titles_are_refused(titles: tuple[str, ...]) -> None:
    with pytest.raises(Misconfigured, match="--dim: expected less than"):
        title_vectors(titles, 100, seed=0)


def test_the_command_writes_products_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{item},{title},{item != 'i0'}" for item, title in zip(IDS, TITLES, strict=True)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,is_product", *lines]) + "\n")
    out = tmp_path / "out" / "svd.npz"
    assert main(["--data", str(tmp_path), "--dim", "3", "--out", str(out)]) == 0
    found = read_vectors(out)
    assert (found.space.name, found.codes.shape, found.ids) == ("charsvd", (7, 3), IDS[1:])
    assert main(["--data", str(tmp_path), "--dim", "300", "--out", str(out)]) == 1
    assert "--dim" in capsys.readouterr().err
