"""One TOML file an experiment: data, sizes, training, and the models by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from encoders.toml_config import build, read_toml
from moontide.errors import Misconfigured
from ranking.models.base import Sizes
from ranking.splits import DEFAULT_DAYS

CONFIGS: Final = Path(__file__).with_name("configs")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is learnt from.

    Args:
        variant: of impressions made from purchases: ``new`` or ``all``.
        days: first moments of validation and test, and the end; empty: what `ranking.splits` finds to fit the data.
        train_impressions: training rows kept, whole users drawn under a fixed seed; 0: all.
        labels: further labels of multi-task models.
        drop: scalars left out, e.g. what is not known when serving.
    """

    variant: str = "new"
    days: tuple[str, ...] = ()
    train_impressions: int = 0
    labels: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Training, shared by all models of a file.

    Args:
        epochs: at most so many; training stops after `patience` epochs without a better validation GAUC, or log-loss where no
            user of the validation days has both labels.
        groups: groups a batch.
        candidates: K of a group in training.
        decay: weight decay of AdamW.
        brought: share of `rate` that a model trained before, MAKE's, is trained on with.
    """

    epochs: int = 5
    groups: int = 64
    candidates: int = 32
    rate: float = 2e-3
    decay: float = 1e-4
    patience: int = 2
    brought: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model.

    Args:
        backbone: ``din``, ``fat`` or ``multitask``.
        attention: of ``din``: ``target``, ``sata`` or ``vector``.
        sides: content, in order: ``raw``, ``similarity``, ``simtier``, ``make``.
        tiers: N of `simtier`; 0: no tiers are counted.
        resolutions: of `simtier`: how many fine tiers make one of each.
        tier_width: of `simtier`: width of a tier's embedding.
        last: of `similarity`: newest behaviours that a third scalar reads; 0: none.
        frozen: of `make`: its model is not trained on.
        shuffle: the items' vectors are shuffled: a control.
    """

    backbone: str = "din"
    attention: str = "target"
    sides: tuple[str, ...] = ()
    tiers: int = 0
    resolutions: tuple[int, ...] = (1,)
    tier_width: int = 1
    last: int = 0
    frozen: bool = False
    shuffle: bool = False

    @property
    def reads_vectors(self) -> bool:
        """The model needs a space."""
        return bool(self.sides) or self.attention != "target"


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """What `ranking.compare` runs.

    Args:
        base: the model that differences are to.
        models: names, in the table's order.
        lengths: of histories.
        seeds: how many.
    """

    base: str = "id"
    models: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (50,)
    seeds: int = 5


@dataclass(frozen=True, slots=True)
class RankingConfig:
    """A whole file. `name` is the file's."""

    name: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    sizes: Sizes = field(default_factory=Sizes)
    fit: FitConfig = field(default_factory=FitConfig)
    make: FitConfig = field(default_factory=FitConfig)
    models: dict[str, ModelConfig] = field(default_factory=dict)
    compare: CompareConfig = field(default_factory=CompareConfig)

    def model(self, name: str) -> ModelConfig:
        """The model of that name, or `Misconfigured`."""
        if name not in self.models:
            raise Misconfigured(f"model: expected one of {sorted(self.models)}, got {name!r}")
        return self.models[name]

    def digest(self, *parts: Any) -> str:
        """16 hex digits over data, sizes, both kinds of training, and `parts`: what decides a run beside its data."""
        return _digest([self._data(), asdict(self.sizes), asdict(self.fit), asdict(self.make), *parts])

    def run_digest(self, model: ModelConfig, length: int) -> str:
        """`digest` of one model at one length: what weights and checkpoints belong to."""
        return self.digest(asdict(model), length)

    def make_digest(self, *parts: Any) -> str:
        """The same of the multimodal model of MAKE, which `fit` and the rest do not touch."""
        return _digest([self._data(), asdict(self.sizes), asdict(self.make), *parts])

    def _data(self) -> dict[str, Any]:
        # No days are the default ones wherever those fit the data: what is done with either is done with both.
        return {**asdict(self.data), "days": self.data.days or DEFAULT_DAYS}


def _digest(body: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()


def load_config(source: str | Path, *, overrides: Sequence[str] = ()) -> RankingConfig:
    """Read a TOML file, or one of `ranking/configs` by its name.

    Args:
        overrides: ``section.key=value`` with a TOML value.

    Raises:
        Misconfigured: no such file, not TOML, an unknown key, or a value of another type.
    """
    path, body = read_toml(source, CONFIGS, overrides=overrides)
    return build(RankingConfig, {"name": path.stem, **body})
