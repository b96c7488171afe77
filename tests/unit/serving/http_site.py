"""A small site in memory and the server's app over it, for the tests of the server and of what is built on it."""

import numpy as np
import pyarrow as pa
from starlette.testclient import TestClient

from moontide import Embeddings, schemas, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.http.app import Parts, create_app
from serving.http.tokens import Tokens

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
"""


def rows_of(schema, **columns):
    return pa.table([columns[f.name] for f in schema], schema=schema)


def fill(store, live):
    """Items a to d with vectors, a and b with fields, and the history of user u."""
    space = live.space("moon_v1")
    vectors = Embeddings.from_float(space, np.eye(8, dtype=np.float32)[:4] + 0.1, ids=list("abcd"))
    times = {"event_timestamp": NOW, "encoded_at": NOW, "content_known_at": NOW}
    store.write_rows(views.embedding_view(space), embedding_rows(vectors, source_version=1, **times))
    stamp, one = pa.array([NOW] * 2, schemas.TIMESTAMP), pa.array([NOW], schemas.TIMESTAMP)
    items = rows_of(
        schemas.ITEM_FEATURES, item_id=["a", "b"], source_version=[1, 1], event_timestamp=stamp, created=stamp,
        deleted=[False, False], price=[1.5, None], category=["hats", None], has_image=[True, True], has_text=[True, True],
    )  # fmt: skip
    store.write_rows(views.item_features(), items)
    history = rows_of(
        schemas.USER_SEQUENCE, user_id=["u"], event_timestamp=one, created=one, item_ids=[["d", "a", "b", "gone"]],
        actions=[["buy"] * 4], times=[[1, 2, 3, 4]], sequence_version=[0],
    )  # fmt: skip
    store.write_rows(views.user_sequence(), history)


def opened(folder, toml=TOML):
    """A `RankingClient` over the memory store, filled, and its live spaces."""
    (folder / "spaces.toml").write_text(toml)
    live = load_spaces(folder / "spaces.toml")
    store = online_store(Settings(home=folder, online="memory", project=folder.name.replace("-", "_").lower()[:60]))
    fill(store, live)
    return RankingClient(store, live), live


def web(client, live, *, tokens=None, wrap=None, **settings):
    """A test client of the app; `settings` without their ``serving_``."""
    limits = Settings(**{f"serving_{name}": value for name, value in settings.items()})
    app = create_app(Parts(client, live, limits, tokens or Tokens()))
    return TestClient(wrap(app) if wrap else app, raise_server_exceptions=True)
