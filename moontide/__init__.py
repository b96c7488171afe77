"""moontide: item embeddings and similarity tiers for ranking, the same in training and in serving."""

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, MoontideError, Poison, SpaceMismatch, Transient
from moontide.spaces import EmbeddingSpace

__version__ = "0.1.0"

__all__ = [
    "EmbeddingSpace",
    "Embeddings",
    "Misconfigured",
    "MoontideError",
    "Poison",
    "SpaceMismatch",
    "Transient",
    "__version__",
]
