"""The HTTP server of `RankingClient`: routes, limits, tokens, metrics."""
