"""Feature retrieval for ranking services."""

from serving.client import RankingClient
from serving.features import Features

__all__ = ["Features", "RankingClient"]
