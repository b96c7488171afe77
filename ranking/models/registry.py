"""Models by name: which backbone, attention and sides a configuration means."""

from __future__ import annotations

from typing import Final

from moontide.errors import Misconfigured
from ranking.config import ModelConfig
from ranking.models.attention import TargetAttention
from ranking.models.base import Parts, Ranker, Side
from ranking.models.din import Din
from ranking.models.fat import Fat
from ranking.models.make import Make, MultimodalDin
from ranking.models.multitask import MultiTask
from ranking.models.projection import table_of
from ranking.models.raw import Raw, VectorAttention
from ranking.models.sata import SaTa
from ranking.models.similarity import Similarity
from ranking.models.simtier import SimTier

BACKBONES: Final = ("din", "fat", "multitask")
ATTENTIONS: Final = ("target", "sata", "vector")
SIDES: Final = ("raw", "similarity", "simtier", "make")


def build_model(parts: Parts, config: ModelConfig, make: MultimodalDin | None = None) -> Ranker:
    """A model with fresh weights from torch's global generator.

    Args:
        make: the trained model that the side ``make`` brings.

    Raises:
        Misconfigured: an unknown backbone, attention or side, or one that lacks what it reads.
    """
    for what, name, known in (("backbone", config.backbone, BACKBONES), ("attention", config.attention, ATTENTIONS)):
        if name not in known:
            raise Misconfigured(f"model: expected {what} among {known}, got {name!r}")
    sides = [_side(name, parts, config, make) for name in config.sides]
    backbones: dict[str, type[Din] | type[Fat] | type[MultiTask]] = {"din": Din, "fat": Fat, "multitask": MultiTask}
    return backbones[config.backbone](parts, sides, _attention(parts, config))


def _attention(parts: Parts, config: ModelConfig) -> TargetAttention | None:
    width, size = parts.sizes.width, parts.sizes.attention
    if config.attention == "sata":
        return SaTa(width, size, table_of(parts))
    return VectorAttention(width, size, table_of(parts)) if config.attention == "vector" else None


def _side(name: str, parts: Parts, config: ModelConfig, make: MultimodalDin | None) -> Side:
    sizes = parts.sizes
    if name == "raw":
        return Raw(table_of(parts), sizes.width, sizes.attention)
    if name == "similarity":
        return Similarity(table_of(parts), config.last)
    if name == "simtier":
        return SimTier(parts.shapes.tiers, config.resolutions, config.tier_width)
    if name != "make":
        raise Misconfigured(f"model: expected sides among {SIDES}, got {name!r}")
    if make is None:
        raise Misconfigured("model: side make: expected a trained multimodal model, got none")
    return Make(make, len(sizes.hidden), frozen=config.frozen)
