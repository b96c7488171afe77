"""What recall is worth in CTR, and what buys recall: `python -m encoders.study`."""
