"""Readers of published data sets in the layouts their authors released."""
