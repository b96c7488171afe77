"""Unit vectors in torch."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero."""
    # A floor, not an added epsilon: exporters take "+ 1e-12" for a no-op and drop it.
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True).clamp(min=1e-12))
