"""Modality-driven mixture of experts (MOON2.0, arXiv 2511.12449): one space for pictures, texts and both.

B rows, D the space's dim, E experts.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from encoders.vectors import unit

_MODES: Final = 3  # picture alone, text alone, both


class Fusion(nn.Module):
    """Gated sum of the towers plus the experts' correction; starts as the plain mean, whatever modalities are there."""

    def __init__(self, dim: int, experts: int, hidden: int = 96) -> None:
        """Without experts (0) one correction serves every modality mix."""
        super().__init__()
        width, count = 2 * dim + 2, max(experts, 1)
        self.gate = nn.Linear(width, 2)
        self.wide = nn.Parameter(torch.randn(count, width, hidden) * (2.0 / width) ** 0.5)
        self.narrow = nn.Parameter(torch.zeros(count, hidden, dim))
        self.router = nn.Linear(width, experts) if experts else None
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        if self.router is not None:
            nn.init.normal_(self.router.weight, std=0.02)
            nn.init.zeros_(self.router.bias)
            self.router.weight.data[:, -2:] = _preference(experts)

    def forward(self, image: Tensor, text: Tensor, present: Tensor) -> Tensor:
        """(B, D) tower outputs, zero where absent, and (B, 2) flags -> (B, D) unit rows."""
        return self.routed(image, text, present)[0]

    def routed(self, image: Tensor, text: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and (B, E) shares of the experts (E = 1 without a router): what the balance loss is about."""
        both = torch.cat([image, text, present], dim=1)
        gates = torch.exp(torch.tanh(self.gate(both)))
        mixed = unit(gates[:, :1] * image + gates[:, 1:] * text)
        hidden = torch.relu(torch.einsum("bw,ewh->beh", both, self.wide))
        opinions = torch.einsum("beh,ehd->bed", hidden, self.narrow)
        shares = torch.ones_like(present[:, :1]) if self.router is None else torch.softmax(self.router(both), dim=1)
        return unit(mixed + (shares[:, :, None] * opinions).sum(dim=1)), shares


def _preference(experts: int) -> Tensor:
    """(E, 2) router weights on the flags: experts start with a modality each, and training moves on from there."""
    modes = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.5]])
    return 2.0 * modes[torch.arange(experts) % _MODES]
