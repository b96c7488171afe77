"""One TOML file a size: everything but the data that decides an encoder's weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from encoders.toml_config import build, read_toml
from moontide.errors import Misconfigured
from moontide.spaces import MAX_DIM

CONFIGS = Path(__file__).with_name("configs")
_SECTIONS: Final = ("model", "pretrain", "post")
# By the end of a key; whole numbers start at 0 where nothing else is said.
_RANGES: Final = (
    (("seed",), 0, 2**63 - 1),
    (("model.dim",), 1, MAX_DIM),
    (("model.side", "model.buckets", "pretrain.steps"), 1, math.inf),
    ((".momentum",), 0, 1),
    (("temperature",), 1e-6, math.inf),
    (("_rate", "_decay", "_sharpness"), 0, math.inf),
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the model.

    Args:
        dim: width of a vector.
        prefix_dims: Matryoshka prefixes trained beside the whole vector; empty: none.
        backbone: ``lite0`` (EfficientNet-Lite0, ImageNet weights), ``scratch`` (a small random ResNet), or ``hf:PATH_OR_NAME``.
        train_backbone: False: its features are computed once, for `views` variants of each picture, and kept.
        side: pictures are stretched to side x side.
        buckets: rows of the text table.
        experts: experts of the modality-driven mixture; 0: one gated sum for every modality mix.
        views: augmented variants of a picture kept when the backbone is frozen, beside the plain one.
    """

    dim: int = 256
    prefix_dims: tuple[int, ...] = (32, 64, 128)
    backbone: str = "lite0"
    train_backbone: bool = False
    side: int = 128
    buckets: int = 32_768
    experts: int = 4
    views: int = 5


@dataclass(frozen=True, slots=True)
class Switches:
    """Parts of the recipe that an ablation turns off or on, one by one.

    Args:
        queue: negatives from a momentum encoder's queue (SCL, MoCo), beside those of the batch.
        hard_negatives: triplet loss against items of the same category, or clicked and not bought.
        post_training: a second stage on cleaned purchase pairs with a spatio-temporal queue.
        experts: modality-driven mixture of experts with a balance loss (MOON2.0).
        inter_alignment: query and item aligned in every modality form (MOON2.0).
        intra_alignment: an item's picture and its own text aligned (MOON2.0).
        dynamic_filter: pairs that the model finds unlikely are left out; harder ones are let in as it learns (MOON2.0).
        core_crops: the core region of a picture is encoded beside the whole (MOON).
        enrichment: texts enriched from attributes (MOON2.0).
        popularity: logQ correction of behaviour pairs.
        clicks: click-supervised pairs, where the log has clicks (visual encoding for CTR, stage 2).
        debias: rarely shown items are aligned with often shown ones (the same paper, stage 3).
    """

    queue: bool = True
    hard_negatives: bool = True
    post_training: bool = True
    experts: bool = True
    inter_alignment: bool = True
    intra_alignment: bool = True
    dynamic_filter: bool = True
    core_crops: bool = False
    enrichment: bool = True
    popularity: bool = True
    clicks: bool = False
    debias: bool = False


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage of training.

    Args:
        steps: optimiser steps; the learning rate warms up over the first twentieth and falls to zero along a cosine.
        photos, illustrated, titles, behaviour: rows of each kind of pair in a step.
        made_up: made-up titles in a step, whose vectors stay as they began: few texts must not unlearn all others.
        head_rate, fusion_rate, backbone_rate, table_rate, term_rate: peak learning rates.
        temperature, text_temperature, label_temperature, behaviour_temperature: InfoNCE divides cosines by them.
        queue_size: negatives kept per modality form; momentum: of the key encoder, ``k = m k + (1 - m) q``.
        margin: of the triplet loss, in cosine.
        filter_threshold, filter_sharpness, filter_margin: tau, kappa and the first margin of MOON2.0's dynamic filter.
        weights: of losses by name, 0 or more and not all 0; those not named keep `encoders.training.objectives.WEIGHTS`.
    """

    steps: int = 1500
    photos: int = 128
    illustrated: int = 48
    titles: int = 192
    behaviour: int = 128
    made_up: int = 128
    head_rate: float = 2e-3
    fusion_rate: float = 4e-4
    backbone_rate: float = 2e-4
    table_rate: float = 1e-3
    term_rate: float = 1e-2
    weight_decay: float = 5e-4
    temperature: float = 0.07
    text_temperature: float = 0.05
    label_temperature: float = 0.1
    behaviour_temperature: float = 0.15
    queue_size: int = 1024
    momentum: float = 0.99
    margin: float = 0.2
    filter_threshold: float = 0.6
    filter_sharpness: float = 10.0
    filter_margin: float = 0.3
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """A whole recipe. `name` is the file's; `seed` decides every draw."""

    name: str = "small"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    switches: Switches = field(default_factory=Switches)
    pretrain: StageConfig = field(default_factory=StageConfig)
    post: StageConfig = field(default_factory=StageConfig)

    @property
    def digest(self) -> str:
        """16 hex digits over every setting: a checkpoint is resumed by its own config only."""
        body = json.dumps(asdict(self), sort_keys=True).encode()
        return hashlib.blake2b(body, digest_size=8).hexdigest()


def load_config(source: str | Path, *, overrides: Sequence[str] = ()) -> EncoderConfig:
    """Read a TOML file, or one of `encoders/configs` by its name.

    Args:
        source: a path that ends in ``.toml``, or a name such as ``small``.
        overrides: ``section.key=value`` with a TOML value, e.g. ``switches.experts=false``, ``pretrain.steps=50``, ``seed=3``.

    Raises:
        Misconfigured: no such file, not TOML, an unknown key, or a value of another type or out of its range.
    """
    path, body = read_toml(source, CONFIGS, overrides=overrides)
    config = build(EncoderConfig, {"name": path.stem, **body})
    values = {f"{section}.{key}": value for section in _SECTIONS for key, value in asdict(getattr(config, section)).items()}
    for stage in ("pretrain", "post"):
        values |= {f"{stage}.weights.{loss}": weight for loss, weight in values[f"{stage}.weights"].items()}
    for key, value in {"seed": config.seed, **values}.items():
        if type(value) in (int, float):
            low, high = _range_of(key, value)
            if not low <= value <= high or value in (math.inf, -math.inf):
                least = "" if low == -math.inf else f" of {low} or more"
                most = "" if high == math.inf else f", at most {high}"
                raise Misconfigured(f"config {key}: expected a finite number{least}{most}, got {value!r}")
    return config


def _range_of(key: str, value: float) -> tuple[float, float]:
    if ".weights." in key:
        return 0, math.inf
    for ends, low, high in _RANGES:
        if key.endswith(ends):
            return low, high
    return (0 if isinstance(value, int) else -math.inf), math.inf
