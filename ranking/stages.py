"""How a configured model comes to be: the multimodal model first where one is brought, then the model itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import torch

from moontide.errors import Misconfigured
from ranking.config import ModelConfig, RankingConfig
from ranking.fingerprint import fingerprint
from ranking.fit import Fitted, Trial, fit
from ranking.models.base import Parts, Ranker, VectorTable
from ranking.models.make import MultimodalDin
from ranking.models.registry import build_model
from ranking.spaces import vector_rows
from ranking.weights import read_weights, write_weights

#: Begins and ends the name of a multimodal model in a cache.
_CACHED: Final = ("make-", ".safetensors")


def parts_of(trial: Trial, config: RankingConfig, chosen: ModelConfig) -> Parts:
    """Sizes, and the table of vectors where the model reads one."""
    table = VectorTable(vector_rows(trial.examples.data)) if chosen.reads_vectors else None
    return Parts(trial.examples.shapes, config.sizes, table)


def make_stage(trial: Trial, config: RankingConfig, chosen: ModelConfig, *, cache: Path | None = None) -> Fitted | None:
    """The multimodal model of MAKE, trained for several epochs; None where the model brings none.

    With `cache` it is trained once for all runs that share what it reads of the data, length, seed and settings. A cached one
    that is damaged is trained again.
    """
    if "make" not in chosen.sides:
        return None
    path = None if cache is None else cache / _digest(trial, config, chosen).join(_CACHED)
    if path is not None and path.exists():
        kept = MultimodalDin(parts_of(trial, config, chosen))
        with suppress(Misconfigured):
            note = read_weights(path, kept)
            return Fitted(kept, tuple(note["curve"]))
    torch.manual_seed(trial.seed)
    model = MultimodalDin(parts_of(trial, config, chosen))
    said = Trial(trial.examples, trial.seed, lambda text: trial.say(f"make {text}"))
    fitted = fit(model, said, config.make)
    if path is not None:
        write_weights(path, fitted.model, {"curve": list(fitted.curve)})
    return fitted


def forget_make(cache: Path) -> None:
    """Remove the multimodal models that `make_stage` left in a cache."""
    for path in cache.glob("*".join(_CACHED)):
        path.unlink(missing_ok=True)


def new_model(trial: Trial, config: RankingConfig, chosen: ModelConfig, made: Fitted | None) -> Ranker:
    """The configured model with fresh weights under the trial's seed."""
    torch.manual_seed(trial.seed)
    brought = made.model if made is not None and isinstance(made.model, MultimodalDin) else None
    return build_model(parts_of(trial, config, chosen), chosen, brought)


def _digest(trial: Trial, config: RankingConfig, chosen: ModelConfig) -> str:
    return config.make_digest(trial.seed, chosen.shuffle, fingerprint(trial.examples, vectors=True))
