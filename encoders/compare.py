"""How near the precisions of an artifact are to fp32, measured on real items: what `auto` asks before it takes one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from encoders.artifact import Agreement, record_variants
from encoders.item import Item
from encoders.runtime import Encoder
from encoders.sample_inputs import cosines
from encoders.variants import VARIANTS, Precision, require_precision
from moontide.errors import Misconfigured

#: Recall of an encoder by task, 0 to 1.
Recall = Callable[[Encoder], Mapping[str, float]]


def compare_variants(
    path: str | os.PathLike[str],
    items: Sequence[Item],
    *,
    recall: Recall,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[Precision, Agreement]:
    """Encode `items` in each precision that runs here, and write the agreement with fp32 into the artifact's manifest.

    Args:
        path: an artifact; its digest stays.
        items: held-out items of every modality mix, at least one; images as bytes.
        recall: measures one encoder; the same tasks for each.
        threads: of the encoders.
        say: told of each precision, one line, also of those that cannot run here.

    Returns:
        Agreement by precision; fp32 is not among them.

    Raises:
        Misconfigured: nothing to compare.
        Unencodable: an item that cannot be encoded.
    """
    if not items:
        raise Misconfigured("compare_variants: expected at least one item, got none; pass held-out items")
    plain = Encoder.load_moon(path, threads=threads)
    prepared = plain.prepare(items)
    floats, codes, expected = plain.floats(prepared), plain.run(prepared).codes, recall(plain)
    found: dict[Precision, Agreement] = {}
    for name in [name for name in VARIANTS if name != "fp32"]:
        try:
            require_precision(plain.artifact, name)
            other = Encoder.load_moon(path, threads=threads, precision=name)
        except Misconfigured as error:
            say(f"{name}: {error}")
            continue
        near = cosines(floats, other.floats(prepared))
        got = recall(other)
        losses = {task: 100.0 * (value - got[task]) for task, value in expected.items()}
        worst = max(losses, key=lambda task: losses[task], default="")
        changed = float((other.run(prepared).codes != codes).mean())
        found[name] = Agreement(float(near.min()), float(near.mean()), changed, losses.get(worst, 0.0), len(near))
        say(
            f"{name}: cosine with fp32 min {near.min():.5f} mean {near.mean():.5f}, {changed:.1%} of codes changed, "
            f"recall lost {losses.get(worst, 0.0):+.2f} points ({worst or 'no task'}), mean "
            f"{np.mean(list(losses.values()) or [0.0]):+.2f}"
        )
    record_variants(path, {str(name): agreement for name, agreement in found.items()})
    return found
