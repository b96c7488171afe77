"""A MOON encoder and an item tower side by side: backfilled, encoded nearline in the child process, indexed, and served."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from encoders import Encoder, Item
from jobs import backfill_embeddings
from jobs._spark import spark_session
from moontide import views
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store, vector_index
from moontide.stores.offline import OfflineTables
from serving import RankingClient
from streaming.encoder_process import encoder_process
from tests import tiny_tower

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "data"
ITEMS = 24
SPACES = """
[[space]]
name = "moon"
version = 2
dim = 256
encoder_digest = "{moon}"
artifact = "{moon_at}"
[[space]]
name = "pre"
version = 1
dim = 8
encoder_digest = "{pre}"
artifact = "pre_v1"
[[simtier]]
space = "moon_v2"
[[simtier]]
space = "pre_v1"
tiers = 10
length = 5
[[service]]
name = "ctr_v1"
space = "moon_v2"
simtier = "moon_v2_n20_l50_drop"
item_fields = ["price"]
[[service]]
name = "pre_v1"
space = "pre_v1"
simtier = "pre_v1_n10_l5_drop"
item_fields = ["price", "category"]
"""


@pytest.fixture(scope="module")
def spark():
    with spark_session("tests", "local[1]", conf={"spark.sql.requireAllClusterKeysForCoPartition": "false"}) as session:
        yield session


@pytest.fixture(scope="module")
def site(tmp_path_factory, spark):
    """The example's first pictures and texts, with the tower's categories, encoded into both spaces."""
    home = tmp_path_factory.mktemp("site")
    pre = tiny_tower.artifact(home)
    moon = ROOT / "artifacts" / "moon_v2"
    text = SPACES.format(moon=Encoder.load(moon).space.encoder_digest, moon_at=moon, pre=pre.encoder_digest)
    (home / "spaces.toml").write_text(text)
    rows = pq.read_table(EXAMPLE / "catalog.parquet")
    some = pa.concat_tables(
        [rows.filter(pc.is_valid(rows["image"])).slice(0, 4), rows.filter(pc.is_null(rows["image"])).slice(0, ITEMS - 4)]
    )
    kinds = pa.array([(*tiny_tower.CATEGORIES, "another", None)[n % 5] for n in range(ITEMS)])
    some = some.set_column(some.schema.get_field_index("category"), "category", kinds)
    pq.write_table(some, home / "catalog.parquet")
    for space in ("moon_v2", "pre_v1"):
        assert backfill(home, space) == 0
    return home


def backfill(home, space):
    flags = ["--home", str(home), "--catalog", str(home / "catalog.parquet"), "--image-root", str(EXAMPLE)]
    return backfill_embeddings.main([*flags, "--space", space, "--partitions", "1"])


def opened(home):
    settings = Settings(home=home, lmdb_sync=False)
    return settings, load_spaces(settings.spaces_path)


def content(home):
    rows = pq.read_table(home / "catalog.parquet").to_pylist()
    names = ("item_id", "title", "description", "attributes", "image", "price", "category")
    return [Item(**{name: row[name] for name in names}) for row in rows]


def latest(home, space):
    settings, live = opened(home)
    tables = OfflineTables(settings.offline_root)
    return {r["item_id"]: r for t in tables.latest(views.embedding_view(live.space(space))) for r in t.to_pylist()}


def test_every_item_has_a_vector_in_both_spaces_and_the_tower_is_served(site):
    settings, live = opened(site)
    items = content(site)
    want = Encoder.load(site / "pre_v1").encode(items)
    with closing(online_store(settings)) as store:
        assert store.read_embeddings(live.space("moon_v2"), want.ids).present.all()
        client = RankingClient(store, live)
        served = client.features("nobody", [*want.ids, "unknown"], service="pre_v1")
    assert served.schema.metadata[b"space"] == b"pre_v1"
    assert served["embedding_present"].to_pylist() == [True] * ITEMS + [False]
    got = np.array(served["embedding"].to_pylist()[:-1])
    assert np.allclose(got, want.to_float(), atol=2 * want.scale.max())
    assert served["price"].to_pylist()[:-1] == pytest.approx([item.price for item in items])
    with closing(vector_index(settings)) as index:
        assert sum(len(page) for page in index.scan(live.space("pre_v1"))) == ITEMS


def test_a_new_price_is_encoded_by_the_tower_alone(site, capsys):
    before = {space: latest(site, space) for space in ("moon_v2", "pre_v1")}
    rows = pq.read_table(site / "catalog.parquet")
    changed = rows["item_id"][0].as_py()
    dearer = pc.if_else(pc.equal(rows["item_id"], changed), pc.add(rows["price"], 100.0), rows["price"])
    rows = rows.set_column(rows.schema.get_field_index("price"), "price", dearer)
    newer = pc.if_else(pc.equal(rows["item_id"], changed), pc.add(rows["source_version"], 1), rows["source_version"])
    rows = rows.set_column(rows.schema.get_field_index("source_version"), "source_version", newer)
    pq.write_table(rows, site / "catalog.parquet")
    said = {}
    for space in ("pre_v1", "moon_v2"):
        assert backfill(site, space) == 0
        said[space] = capsys.readouterr().out
    assert "encode 1" in said["pre_v1"] and f"unchanged {ITEMS - 1}" in said["pre_v1"]
    assert "reuse 1" in said["moon_v2"] and "encode" not in said["moon_v2"].split("\n")[0]
    after = {space: latest(site, space) for space in before}
    moved = {space: [i for i in rows_ if rows_[i]["codes"] != before[space][i]["codes"]] for space, rows_ in after.items()}
    assert moved == {"moon_v2": [], "pre_v1": [changed]}
    moon, pre = after["moon_v2"][changed], after["pre_v1"][changed]
    assert moon["source_version"] == pre["source_version"]
    assert moon["encoded_at"] == before["moon_v2"][changed]["encoded_at"]
    # Neither space's hash hides from the other's backfill when its own content became known.
    assert moon["content_known_at"] > before["moon_v2"][changed]["content_known_at"]
    settings, live = opened(site)
    with closing(online_store(settings)) as store:
        assert store.read_embeddings(live.space("pre_v1"), [changed]).codes.tobytes() == pre["codes"]


def test_the_encoder_process_gives_the_vectors_of_the_backfill(site):
    settings, live = opened(site)
    items = [item for item in content(site) if item.image is None]
    rows = latest(site, "pre_v1")
    encoder = encoder_process(live.live("pre_v1"), settings)
    try:
        encoded = encoder.encode([*items, Item("pictured", title="t", image=b"never decoded", price=5.0, category="hats")])
    finally:
        encoder.close()
    assert encoded.refused == {} and len(encoded.rows) == len(items) + 1
    for at, item in enumerate(items):
        assert encoder.reads.hash(item, None) == rows[item.item_id]["content_hash"]
        stored = np.frombuffer(rows[item.item_id]["codes"], np.int8)
        assert np.abs(encoded.vectors.codes[at].astype(int) - stored).max() <= 1
