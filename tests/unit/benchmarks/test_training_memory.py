"""The memory benchmark's data at a size where it takes no time: the job takes all of it, and a label has vectors and counts."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.training_memory import SPACE, make_labels, make_site
from jobs.training_set import main
from moontide.pit.training_set import read_training_set

pytestmark = pytest.mark.unit


def test_every_generated_label_is_joined(tmp_path):
    make_site(tmp_path, users=6, items=20, behaviours=300)
    make_labels(tmp_path / "labels.parquet", 43, users=6, items=20)
    labels = pq.read_table(tmp_path / "labels.parquet")
    assert labels.num_rows == 43
    assert len(set(labels["event_timestamp"].to_pylist())) == 9  # requests of 5
    flags = ["--home", tmp_path / "home", "--impressions", tmp_path / "labels.parquet", "--out", tmp_path / "set"]
    flags += ["--behaviours", tmp_path / "behaviours.parquet", "--space", SPACE.id, "--engine", "single"]
    assert main([*map(str, flags)]) == 0
    made = read_training_set(tmp_path / "set")
    assert len(made.item_ids) <= 20
    impressions = pq.read_table(tmp_path / "set" / "impressions")
    assert impressions.num_rows == 43
    assert (np.asarray(impressions["vector"]) >= 0).all()
    assert np.asarray(impressions["counts"].combine_chunks().flatten()).sum() > 0
