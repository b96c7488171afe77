"""The site of the backfill benchmark at a size where it takes no time: the job stores every pair, and its tiers hold the history."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.simtier_backfill import CANDIDATES, LENGTH, SPEC, make
from jobs.simtier_backfill import main

pytestmark = pytest.mark.unit


def test_every_generated_pair_is_stored(tmp_path, monkeypatch):
    make(tmp_path, 40, 2)
    pairs = pq.read_table(tmp_path / "pairs.parquet")
    assert pairs.num_rows == 2 * CANDIDATES
    monkeypatch.setenv("MOONTIDE_ONLINE", "lmdb")
    assert main(["--home", str(tmp_path), "--spec", SPEC, "--pairs", str(tmp_path / "pairs.parquet")]) == 0
    stored = _rows(tmp_path)
    assert stored.num_rows == len(set(map(tuple, pairs.to_pandas().itertuples(index=False))))
    counted = np.asarray(stored["counts"].combine_chunks().flatten()).reshape(stored.num_rows, -1)
    # Of 50 behaviours among 40 items the candidate's own are left out.
    assert (counted.sum(axis=1) <= LENGTH).all() and counted.sum() > 0.9 * LENGTH * stored.num_rows


def _rows(home):
    files = sorted((home / "offline").glob("user_item_simtier/**/*.parquet"))
    return pq.read_table(files, partitioning=None)
