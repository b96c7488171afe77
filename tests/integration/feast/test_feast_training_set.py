"""A training set has the vectors and scalars that Feast's point-in-time join gives, but for rows that became known late."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import training_set
from moontide import Embeddings, schemas, views
from moontide.pit.training_set import read_training_set
from moontide.records import embedding_rows

pytestmark = pytest.mark.integration
VIEW = "item_embedding__moon_v1"
ITEMS = ["a", "b", "gone", "late", "nobody"]
#: Days before now; 10, 4 and 2 are the very times of rows.
AGES = [11, 10, 7.5, 4, 3.5, 2, 1.5, 0]
#: `late` happened 8 days ago and reached us 3 days ago.
HAPPENED, KNOWN = 8, 3


@pytest.fixture
def labels(site):
    """(item, age) of each label; `late` is in the offline table from here on."""
    vectors = Embeddings.from_float(site.space, np.full((1, 8), 0.5), ids=["late"])
    times = {"event_timestamp": site.us(site.days(HAPPENED)), "encoded_at": site.us(site.days(KNOWN))}
    site.append(
        views.embedding_view(site.space),
        embedding_rows(vectors, source_version=1, content_known_at=site.us(site.days(KNOWN)), **times),
    )
    return [(item, age) for item in ITEMS for age in AGES]


def ours(site, labels, folder, monkeypatch):
    """The training set of the labels."""
    monkeypatch.setenv("MOONTIDE_SPACES_FILE", str(site.repo / "spaces.toml"))
    times = pa.array([site.us(site.days(age)) for _, age in labels]).cast(schemas.TIMESTAMP)
    columns = {"user_id": ["u1"] * len(labels), "item_id": [i for i, _ in labels], "event_timestamp": times}
    pq.write_table(pa.table(columns | {"label": np.ones(len(labels), np.float32)}), folder / "labels.parquet")
    command = ["--home", site.environment["MOONTIDE_HOME"], "--impressions", str(folder / "labels.parquet"), "--engine", "single"]
    assert training_set.main([*command, "--space", "moon_v1", "--out", str(folder / "out")]) == 0
    return read_training_set(folder / "out")


def feasts(site, store, labels):
    """Rows of `get_historical_features`, in label order."""
    frame = pd.DataFrame(
        {"item_id": [i for i, _ in labels], "event_timestamp": [site.days(a) for _, a in labels], "row": range(len(labels))}
    )
    features = [f"{VIEW}:embedding", f"{VIEW}:source_version", f"{VIEW}:deleted", "item_features:price", "item_features:deleted"]
    got = store.get_historical_features(entity_df=frame, features=features, full_feature_names=True).to_df()
    return got.sort_values("row").to_dict("records")


def test_the_same_vectors_and_scalars_as_feast(site, store, labels, tmp_path: Path, monkeypatch):
    made, rows = ours(site, labels, tmp_path, monkeypatch), feasts(site, store, labels)
    assert len(made) == len(rows) == len(labels)
    floats, late = made.vectors.to_float(), []
    for at, ((item, age), row) in enumerate(zip(labels, rows, strict=True)):
        there = not pd.isna(row[f"{VIEW}__source_version"]) and not row[f"{VIEW}__deleted"]
        if item == "late" and KNOWN < age <= HAPPENED:
            late.append(age)
            assert there and made.vector[at] == -1, "Feast shows what nobody knew yet"
        elif there:
            assert np.array_equal(floats[made.vector[at]], np.float32(row[f"{VIEW}__embedding"])), (item, age)
        else:
            assert made.vector[at] == -1, (item, age)
        price = row["item_features__price"]
        alive = not pd.isna(price) and not row["item_features__deleted"]
        assert made.scalars["price"][at] == np.log1p(np.float32(price if alive else 0)), (item, age)
    assert late == [7.5, 4, 3.5]
