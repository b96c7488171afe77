"""The peer of a trained space: character n-grams of a catalog's titles through TF-IDF and a truncated SVD.

``python -m ranking.text_svd --data DIR --dim 128 --out svd.npz`` writes what ``python -m encoders.study encode`` writes of an
encoder. It reads titles only, never sales, but all titles of the catalog, those of items first sold later too: a peer is given
every advantage that titles have. It has no tower: another catalog needs another fit, and its vectors compare with no others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from encoders.arguments import positive
from encoders.data import read_data_set
from encoders.study.vector_file import write_vectors
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, MoontideError
from moontide.spaces import EmbeddingSpace

SPACE: Final = "charsvd"
#: Lengths of n-grams; a word's boundary counts as one character.
GRAMS: Final = (2, 4)


def title_vectors(titles: Sequence[str], dim: int, *, seed: int) -> NDArray[np.float32]:
    """(N, dim) float32 rows of N titles; zeros for a title without letters or digits.

    Raises:
        Misconfigured: `dim` is not below both the titles and their different n-grams.
    """
    weigher = TfidfVectorizer(analyzer="char_wb", ngram_range=GRAMS, sublinear_tf=True)
    known = any(title.strip() for title in titles)
    terms = weigher.fit_transform(titles) if known else np.zeros((len(titles), 0))
    if dim >= min(terms.shape):
        raise Misconfigured(f"--dim: expected less than {min(terms.shape)} for {len(titles)} titles, got {dim}; give more titles")
    found = TruncatedSVD(dim, random_state=seed).fit_transform(terms)
    return np.asarray(found, np.float32)


def title_space(item_ids: Sequence[str], titles: Sequence[str], dim: int, *, seed: int) -> Embeddings:
    """Vectors of the items that have a title, in their order; the digest covers titles and settings."""
    given = [at for at, title in enumerate(titles) if title.strip()]
    rows = title_vectors([titles[at] for at in given], dim, seed=seed)
    content = json.dumps([SPACE, dim, GRAMS, seed, [[item_ids[at], titles[at]] for at in given]])
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    space = EmbeddingSpace(SPACE, 1, dim, f"sha256:{digest}")
    return Embeddings.from_float(space, rows, ids=[item_ids[at] for at in given])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m ranking.text_svd", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with items.csv")
    parser.add_argument("--dim", type=positive, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the randomised SVD")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    arguments = parser.parse_args(argv)
    try:
        items = [example.item for example in read_data_set(arguments.data, cutoff=None, licensed=False).examples]
        found = title_space(
            [item.item_id for item in items], [item.title or "" for item in items], arguments.dim, seed=arguments.seed
        )
        write_vectors(arguments.out, found)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{len(found)} of {len(items)} items in {found.space.id}, {arguments.dim} dims; the others have no title")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
