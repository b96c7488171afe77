"""A small site that tests of serving share: one space, two services, and rows of every view they read."""

import numpy as np
import pyarrow as pa

from moontide import Embeddings, schemas, views
from moontide.records import embedding_rows

NOW = 1_700_000_000_000_000
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
[[simtier]]
space = "moon_v1"
tiers = 10
length = 3
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l3_drop"
item_fields = ["price", "category"]
[[service]]
name = "bare"
space = "moon_v1"
simtier = "moon_v1_n10_l3_drop"
item_fields = []
"""


def rows_of(schema, **columns):
    """A table of exactly this schema."""
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def item_rows(ids, *, now=NOW, **columns):
    """Rows of `schemas.ITEM_FEATURES`, version 1 and not deleted unless `columns` say otherwise."""
    stamp = pa.array([now] * len(ids), schemas.TIMESTAMP)
    blank = {"source_version": [1] * len(ids), "deleted": [False] * len(ids), "has_image": [True] * len(ids)}
    known = {"item_id": ids, "event_timestamp": stamp, "created": stamp, "has_text": [True] * len(ids)}
    return rows_of(schemas.ITEM_FEATURES, **(blank | known | columns))


def history_row(user, items, times, *, action="buy", now=NOW, event=None):
    """One row of `schemas.USER_SEQUENCE`, its version left to the store."""
    return rows_of(
        schemas.USER_SEQUENCE, user_id=[user], event_timestamp=[now if event is None else event], created=[now],
        item_ids=[list(items)], actions=[[action] * len(items)], times=[list(times)], sequence_version=[0],
    )  # fmt: skip


def fill(store, live):
    """Items a to d with vectors, a and b with fields, and the history of user u."""
    space = live.space("moon_v1")
    vectors = Embeddings.from_float(space, np.eye(8, dtype=np.float32)[:4] + 0.1, ids=list("abcd"))
    times = {"event_timestamp": NOW, "encoded_at": NOW, "content_known_at": NOW}
    store.write_rows(views.embedding_view(space), embedding_rows(vectors, source_version=1, **times))
    store.write_rows(views.item_features(), item_rows(["a", "b"], price=[1.5, None], category=["hats", None]))
    store.write_rows(views.user_sequence(), history_row("u", ["d", "a", "b", "gone"], [1, 2, 3, 4]))
