"""Reference CTR models that consume the features: the proof that they help."""
