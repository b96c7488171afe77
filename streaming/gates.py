"""Vectors that are not to be served, although the encoder gave them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from encoders import Item
from encoders.content import WHOLE_CONTENT, ContentReader
from moontide.embeddings import Embeddings
from streaming.encoding import Fault, Refused

#: Different items of one call that share a vector: so many are a broken encoder, fewer may be one word's.
COLLAPSE: Final = 8


def refused_vectors(items: Sequence[Item], vectors: Embeddings, reads: ContentReader = WHOLE_CONTENT) -> dict[int, Refused]:
    """Rows, among the B items and their B vectors, that are zero, or that say the same of `COLLAPSE` or more different contents.

    A vector that is not finite cannot get here: it has no codes. Contents differ where the model is given different inputs, so
    what `reads` leaves out does not count.
    """
    refused = {
        int(row): Refused(Fault.VECTOR_ZERO, "expected a direction, the model gave a vector of zeros")
        for row in np.flatnonzero(~vectors.present)
    }
    alike: dict[bytes, list[int]] = defaultdict(list)
    for row, codes in enumerate(vectors.codes.view(f"V{vectors.space.dim}")[:, 0].tolist()):
        alike[codes].append(row)
    for rows in alike.values():
        if len(rows) < COLLAPSE or rows[0] in refused:
            continue
        # Hashing images costs, so it waits for the suspicion.
        contents = len({reads.model_key(items[row]) for row in rows})
        if contents >= COLLAPSE:
            detail = f"expected different vectors, the model gave one to {contents} different items of one batch"
            refused |= dict.fromkeys(rows, Refused(Fault.VECTOR_COLLAPSED, detail))
    return refused
