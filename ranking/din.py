"""DIN: target attention over a user's item ids (arXiv 1706.06978), with scalars, and SimTier counts where they are given.

B rows, L behaviours, E embedding width, F scalars, N tiers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class DinConfig:
    """Sizes of the model.

    Args:
        items: rows of the catalog.
        scalars: F.
        tiers: N; 0: no SimTier.
        width: E.
        hidden: widths of the MLP.
    """

    items: int
    scalars: int
    tiers: int = 0
    width: int = 16
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.1


class Din(nn.Module):
    """Logit of a click or purchase."""

    def __init__(self, config: DinConfig) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__()
        self.items = nn.Embedding(config.items, config.width)
        nn.init.normal_(self.items.weight, std=0.05)
        self.query, self.key, self.both = (nn.Linear(config.width, 16, bias=at == 0) for at in range(3))
        self.score = nn.Sequential(nn.PReLU(), nn.Linear(16, 1))
        self.tiers = SimTier(config.tiers) if config.tiers else None
        entries = 3 * config.width + config.scalars + (config.tiers + 1 if config.tiers else 0)
        layers: list[nn.Module] = []
        for width in config.hidden:
            layers += [nn.Linear(entries, width), nn.PReLU(), nn.Dropout(config.dropout)]
            entries = width
        self.mlp = nn.Sequential(*layers, nn.Linear(entries, 1))

    def forward(self, item: Tensor, history: Tensor, present: Tensor, scalars: Tensor, tiers: Tensor | None = None) -> Tensor:
        """(B,) logits.

        Args:
            item: (B,) int64.
            history: (B, L) int64; `present` (B, L) bool says which are real.
            scalars: (B, F) float32, standardised.
            tiers: (B, N + 1) float32, standardised ``log1p`` of the counts and of `missing`; None without SimTier.
        """
        target = self.items(item)
        interest = self._interest(target, self.items(history), present)
        parts = [target, interest, target * interest, scalars]
        if self.tiers is not None:
            if tiers is None:
                raise ValueError("Din with SimTier: expected tiers (B, N + 1), got None")
            parts.append(self.tiers(tiers))
        logit: Tensor = self.mlp(torch.cat(parts, dim=1)).squeeze(1)
        return logit

    def _interest(self, target: Tensor, behaviours: Tensor, present: Tensor) -> Tensor:
        """(B, E) behaviours weighed by their attention to the target; zeros for an empty history."""
        mixed = self.query(target)[:, None] + self.key(behaviours) + self.both(target[:, None] * behaviours)
        scores = self.score(mixed).squeeze(2).masked_fill(~present, -1e9)
        weights = torch.softmax(scores, dim=1) * present
        return torch.einsum("bl,ble->be", weights, behaviours)


class SimTier(nn.Module):
    """``log1p`` counts times a learned weight a tier (arXiv 2512.07216); the last column is `missing`."""

    def __init__(self, tiers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(tiers + 1))

    def forward(self, tiers: Tensor) -> Tensor:
        """(B, N + 1) weighed."""
        return tiers * self.weight
