"""Feature retrieval for ranking services."""

from serving.client import RankingClient

__all__ = ["RankingClient"]
