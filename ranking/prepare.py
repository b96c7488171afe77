"""From a folder to the examples of one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from encoders.purchases import read_purchases
from encoders.study.vector_file import read_vectors
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit import layout
from moontide.pit.impressions import RATIO, WINDOW, make_impressions
from moontide.pit.in_memory import from_purchases
from moontide.pit.purchases import DAY
from moontide.pit.training_set import TrainingSet, read_training_set
from ranking.config import ModelConfig, RankingConfig
from ranking.examples import Examples, make_examples
from ranking.spaces import shuffled, with_tiers, with_vectors
from ranking.splits import split

#: The draw of negatives and of the users that train; not a seed of the study, or models would differ in data too.
DATA_SEED: Final = 7
LOG: Final = "transactions.parquet"


def read_data(folder: Path, config: RankingConfig, model: ModelConfig, *, vectors: Path | None, length: int) -> TrainingSet:
    """A training set of `jobs.training_set`, or impressions made from the purchases of a data folder.

    Raises:
        Misconfigured: neither is there, or the model reads vectors and there are none.
    """
    given = read_vectors(vectors) if vectors is not None and model.reads_vectors else None
    data = _read(folder, config, given, length)
    if model.reads_vectors and data.vectors is None:
        raise Misconfigured(f"{folder}: expected vectors, got none; give --vectors FILE.npz, or a training set made with --space")
    return shuffled(data, DATA_SEED) if model.shuffle else data


def _read(folder: Path, config: RankingConfig, vectors: Embeddings | None, length: int) -> TrainingSet:
    if (folder / layout.CARD).is_file():
        data = read_training_set(folder)
        return data if vectors is None else with_vectors(data, vectors)
    if not (folder / LOG).is_file():
        raise Misconfigured(
            f"--data {folder}: expected a training set ({layout.CARD}) or a folder with items.csv and {LOG}, got neither; "
            "make one with jobs.training_set"
        )
    purchases = read_purchases(folder)
    impressions = make_impressions(purchases, variant=config.data.variant, seed=DATA_SEED)
    made = from_purchases(purchases, impressions, length, vectors)
    left_out = {"sales_left_out": dict(purchases.left_out), "positives_left_out": dict(impressions.left_out)}
    sampler = {"variant": config.data.variant, "negatives": RATIO, "window_days": WINDOW // DAY, "seed": DATA_SEED}
    return replace(made, card={"input": {"purchases": folder.name, "sampler": sampler, **left_out}})


def prepare(data: TrainingSet, config: RankingConfig, model: ModelConfig, *, length: int) -> Examples:
    """Examples of one model.

    Raises:
        Misconfigured: a split without rows in a part, or what `make_examples` and `with_tiers` refuse.
    """
    chosen = split(data, config.data.days, budget=config.data.train_impressions, seed=DATA_SEED)
    examples = make_examples(data, chosen, length=length, labels=config.data.labels, drop=config.data.drop)
    return with_tiers(examples, model.tiers) if model.tiers else examples
