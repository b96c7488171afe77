"""Inputs made up to look like real ones: to compare two models, and to time one. N pictures of side x side, B rows of D."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.item import Item

#: Items as catalogs have them, one without attributes.
ITEMS: Final = (
    Item("0", title="WHITE HANGING HEART T-LIGHT HOLDER"),
    Item("1", title="Apple MacBook Pro 13.3in 256 GB Retina, silver", attributes="brand Apple; colour silver"),
    Item("2", title="Women's red cotton hoodie, size M", attributes="colour red; material cotton"),
    Item("3", title="Casio G-Shock GA-2100-1A1ER Herrenuhr", attributes="brand Casio"),
    Item("4", title="Set of 6 café glasses 250 ml", attributes="material glass"),
    Item("5", title="Trousers", attributes="colour black; season winter; gender men"),
    Item("6", title="Canon EF 50mm f/1.8 STM lens"),
    Item("7", title="Sac à dos de randonnée 40 L bleu", attributes="couleur bleu"),
)


def smooth_pictures(count: int, side: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """(count, side, side, 3): patches of colour with soft edges, and some noise."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 6, 6, 3)).astype(np.float32)
    at = np.linspace(0, 5, side)
    low = np.minimum(at.astype(np.int64), 4)
    part = (at - low).astype(np.float32)
    rows = coarse[:, low] * (1 - part)[None, :, None, None] + coarse[:, low + 1] * part[None, :, None, None]
    whole = rows[:, :, low] * (1 - part)[None, None, :, None] + rows[:, :, low + 1] * part[None, None, :, None]
    noisy = whole + random.normal(0, 6, whole.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def mixes(image: NDArray[np.float32], text: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """What the fusion reads: rows of the (B, D) towers that are image only, text only and both, in turn."""
    turn = np.arange(len(image)) % 3
    present = np.stack([turn != 1, turn != 0], axis=1).astype(np.float32)
    return {"image": image * present[:, :1], "text": text * present[:, 1:], "present": present}


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """(B,) cosine of each row of `a` with the same row of `b`; two zero rows agree."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = ~left.any(axis=1) & ~right.any(axis=1)
    found: NDArray[np.float64] = np.where(both_zero, 1.0, (left * right).sum(axis=1) / np.maximum(lengths, 1e-30))
    return found
