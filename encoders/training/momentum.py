"""The momentum encoder of MoCo: a slow copy of a model, whose keys change little from step to step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from moontide.errors import Misconfigured

ModelT = TypeVar("ModelT", bound=nn.Module)


class MomentumCopy(Generic[ModelT]):
    """``k = m k + (1 - m) q`` for every parameter; buffers (running statistics of norms) are copied as they are.

    Args:
        model: q, which keeps training; the copy starts equal to it.
        momentum: m, 0..1.

    Attributes:
        model: k; its parameters need no gradient. Ask it under `torch.no_grad()`.

    Raises:
        Misconfigured: a momentum outside 0..1.
    """

    def __init__(self, model: ModelT, momentum: float) -> None:
        if not 0.0 <= momentum <= 1.0:
            raise Misconfigured(f"momentum: expected 0..1, got {momentum}; 0.99 is usual")
        self.momentum = momentum
        self._source = model
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """One step towards the model; to be called after the optimiser's."""
        pairs = zip(self.model.parameters(), self._source.parameters(), strict=True)
        for slow, fast in pairs:
            # lerp leaves equal values equal to the last bit, so frozen parameters never drift.
            slow.lerp_(fast, 1.0 - self.momentum)
        for kept, newest in zip(self.model.buffers(), self._source.buffers(), strict=True):
            kept.copy_(newest)

    def state(self) -> dict[str, Tensor]:
        """Copies of the slow model's tensors, by name."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave, bit for bit.

        Raises:
            Misconfigured: names, shapes or dtypes differ.
        """
        expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.model.state_dict().items()}
        got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        differing = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        if differing:
            name = differing[0]
            raise Misconfigured(
                f"momentum encoder: expected {name} to be {expected.get(name)}, got {got.get(name)} ({len(differing)} differ); "
                "resume with the config it was written with"
            )
        self.model.load_state_dict(dict(state))
