"""An encoder without a model: vectors that are a hash of the content, for load tests and for the tests of jobs and consumer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.item import Item, Reason, Reject, Unencodable, hash_content
from encoders.runtime import Progress, no_progress
from moontide.embeddings import Embeddings
from moontide.spaces import EmbeddingSpace

_SCALE: Final = np.float32(1 / 127)
#: Images that start with this cannot be read: it lets tests reach that path.
UNREADABLE: Final = b"unreadable"


@dataclass(frozen=True, slots=True)
class StubPrepared:
    """Items that can be encoded, their hashes, and the others."""

    ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    rejects: tuple[Reject, ...]


@dataclass(frozen=True, slots=True)
class StubEncoder:
    """Same content, same vector, on every machine. Images are not opened: a path counts by its name."""

    space: EmbeddingSpace

    def content_hash(self, item: Item) -> str:
        """As `encoders.Encoder.content_hash`."""
        image = item.image.encode() if isinstance(item.image, str) else item.image
        if image is not None and image.startswith(UNREADABLE):
            raise Unencodable(Reason.IMAGE_UNREADABLE, "expected an image, got the stub's unreadable one")
        return hash_content(item, image)

    def prepare(self, items: Sequence[Item], *, progress: Progress = no_progress) -> StubPrepared:
        """As `encoders.Encoder.prepare`."""
        ids, hashes, rejects = [], [], []
        for row, item in enumerate(items):
            progress(row, False)
            try:
                hashes.append(self.content_hash(item))
                ids.append(item.item_id)
            except Unencodable as error:
                rejects.append(Reject(item.item_id, error.reason, error.detail))
            progress(row, True)
        return StubPrepared(tuple(ids), tuple(hashes), tuple(rejects))

    def run(self, prepared: StubPrepared) -> Embeddings:
        """As `encoders.Encoder.run`."""
        dim = self.space.dim
        raw = b"".join(hashlib.shake_128(text.encode()).digest(dim) for text in prepared.content_hashes)
        codes = np.frombuffer(raw, np.int8).reshape(-1, dim).copy()
        codes[codes == -128] = -127
        return Embeddings.from_codes(self.space, codes, np.full(len(codes), _SCALE, np.float32), ids=prepared.ids)
