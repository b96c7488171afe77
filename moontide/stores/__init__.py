"""Adapters, one file per system: online (packed records), index (Milvus), offline (Parquet)."""
