"""The jobs on real Spark, LMDB or Redis, and milvus-lite: one Spark session for the whole file."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from encoders import Encoder, ImageLoader, Item
from jobs import backfill_embeddings, compact_log, simtier_backfill, user_sequences
from jobs._spark import spark_session
from moontide import schemas, views
from moontide.live import load_spaces
from moontide.order import WriteOrder
from moontide.settings import Settings
from moontide.simtier import tier_counts
from moontide.stores import online_store, vector_index
from moontide.stores.base import Status
from moontide.stores.offline import OfflineTables

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SPEC = "stub_v1_n20_l5_drop"
SPACES = """
[[space]]
name = "stub"
version = 1
dim = 16

[[space]]
name = "stub"
version = 2
dim = 8

[[space]]
name = "real"
version = 1
dim = 16
encoder_digest = "sha256:{zeros}"
artifact = "artifact"

[[simtier]]
space = "stub_v1"
tiers = 20
length = 5

[[service]]
name = "ctr_v1"
space = "stub_v1"
simtier = "stub_v1_n20_l5_drop"
item_fields = ["price"]
"""


@pytest.fixture(scope="module", autouse=True)
def spark():
    with spark_session("tests", "local[2]", conf={"spark.sql.requireAllClusterKeysForCoPartition": "false"}) as session:
        yield session


class Site:
    """A home folder, and what its three stores hold."""

    def __init__(self, home):
        self.home = home
        (home / "spaces.toml").write_text(SPACES.format(zeros="0" * 64))
        self.settings = Settings(home=home, lmdb_sync=False)
        self.live = load_spaces(self.settings.spaces_path)

    def catalog(self, rows, name="catalog.parquet", row_group_size=3):
        present = [f for f in schemas.CATALOG if any(f.name in r for r in rows)] or list(schemas.CATALOG)[:2]
        table = pa.table([pa.array([r.get(f.name) for r in rows], f.type) for f in present], names=[f.name for f in present])
        pq.write_table(table, self.home / name, row_group_size=row_group_size)
        return str(self.home / name)

    def backfill(self, catalog, *flags, space="stub_v1", dim=16):
        stub = ["--encoder", f"stub:{dim}"] if dim else []
        command = ["--home", str(self.home), "--catalog", catalog, "--space", space, "--partitions", "2", *stub, *flags]
        return backfill_embeddings.main(command)

    def view(self, space="stub_v1"):
        return views.embedding_view(self.live.space(space))

    def offline(self, view):
        """The latest offline row of each entity, without the times of the run."""
        found = [row for table in OfflineTables(self.settings.offline_root).latest(view) for row in table.to_pylist()]
        return {row[view.entities[0]]: comparable(row) for row in found}

    def online(self, view):
        with closing(online_store(self.settings)) as store:
            ids = [i for page in store.scan(view) for i in page]
            return {row[view.entities[0]]: comparable(row) for row in store.read_records(view, ids).to_pylist()}

    def index(self, space="stub_v1"):
        with closing(vector_index(self.settings)) as index:
            found = [pair for page in index.scan(self.live.space(space)) for pair in page]
            return {item: WriteOrder.unpack(token) for item, token in found}

    def state(self, space="stub_v1"):
        """Everything a reader could see; checks on the way that the three stores agree."""
        view, features = self.view(space), views.item_features()
        offline, online, index = self.offline(view), self.online(view), self.index(space)
        assert offline == online
        assert self.offline(features) == self.online(features)
        live = {item: row for item, row in online.items() if not row["deleted"]}
        assert set(index) == set(live)
        assert all(index[i].source_version == r["source_version"] for i, r in live.items())
        assert all(index[i].content_hash.hex() == r["content_hash"] for i, r in live.items())
        return online, self.online(features)

    def rejects(self, name="backfill"):
        return pq.read_table(self.home / "rejects" / f"{name}.parquet").to_pylist()


def comparable(row):
    row = {k: v for k, v in row.items() if k not in ("encoded_at", "created", "content_known_at", "embedding")}
    if row.get("content_hash") == "0" * 32:
        row["content_hash"] = ""
    if row.get("deleted") and "codes" in row:
        row |= {"codes": b"", "scale": 0.0, "inv_norm": 0.0}
    return row


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


SNAPSHOT = ("--snapshot-time", "2026-01-01T00:00:00Z")
SNAPSHOT_US = 1_767_225_600_000_000


def items(count, **more):
    return [{"item_id": f"i{n}", "title": f"title {n}", "price": n / 2, "category": "c", **more} for n in range(count)]


def test_a_catalog_becomes_readable_everywhere_and_a_second_run_does_nothing(site, capsys):
    path = site.catalog(items(7))
    assert site.backfill(path, *SNAPSHOT) == 0
    state = site.state()
    assert len(state[0]) == 7
    assert state[0]["i3"]["source_version"] == SNAPSHOT_US
    assert (state[1]["i3"]["price"], state[1]["i3"]["has_text"], state[1]["i3"]["has_image"]) == (1.5, True, False)
    files = sorted((site.home / "offline").rglob("*.parquet"))
    capsys.readouterr()
    assert site.backfill(path, *SNAPSHOT) == 0
    assert "unchanged 7" in capsys.readouterr().out
    assert site.state() == state
    assert sorted((site.home / "offline").rglob("*.parquet")) == files


def when_known(site):
    tables = OfflineTables(site.settings.offline_root).latest(site.view())
    return {row["item_id"]: int(row["content_known_at"].timestamp() * 1e6) for table in tables for row in table.to_pylist()}


def test_an_export_of_the_past_was_known_at_its_event_times_and_keeps_them(site):
    assert site.backfill(site.catalog(items(2)), *SNAPSHOT, "--history") == 0
    assert when_known(site) == {"i0": SNAPSHOT_US, "i1": SNAPSHOT_US}
    later = items(1, source_version=SNAPSHOT_US + 5, event_timestamp=SNAPSHOT_US + 5)
    assert site.backfill(site.catalog([*later, *items(3, source_version=SNAPSHOT_US, event_timestamp=SNAPSHOT_US)[2:]])) == 0
    found = when_known(site)
    assert found["i1"] == SNAPSHOT_US
    assert min(found["i0"], found["i2"]) > SNAPSHOT_US + 5, "versions that a run without the flag read first"


def test_every_store_is_repaired_on_its_own(site, capsys):
    path = site.catalog([*items(5), {"item_id": "gone", "deleted": True}])
    assert site.backfill(path, *SNAPSHOT) == 0
    state = site.state()
    for lost in ("online", "index.db", "offline"):
        shutil.rmtree(site.home / lost)
        assert site.backfill(path, *SNAPSHOT) == 0, lost
        assert site.state() == state, lost
    with closing(online_store(site.settings)) as store:
        store.delete(site.view(), ["i1"])
        store.delete(views.item_features(), ["i2"])
    with closing(vector_index(site.settings)) as index:
        index.delete(site.live.space("stub_v1"), ["i4"])
        index.flush(site.live.space("stub_v1"))
    assert site.backfill(path, *SNAPSHOT) == 0
    assert site.state() == state


def test_bad_rows_are_rejected_with_place_and_reason_and_the_rest_is_done(site, capsys):
    good = {"source_version": 1, "event_timestamp": SNAPSHOT_US}
    rows = [
        {"item_id": "a", "title": "one", **good},
        {"item_id": None, "title": "x", **good},
        {"item_id": "b c", "title": "x", **good},
        {"item_id": "d", **good},
        {"item_id": "e", "image_bytes": b"unreadable", **good},
        {"item_id": "f", "title": "x", "price": float("nan"), **good},
        {"item_id": "g", "title": "x" * 1_000_000, **good},
        {"item_id": "a", "title": "again", **good},
        {"item_id": "h", "title": "old", **good},
        {"item_id": "h", "title": "new", **good, "source_version": 2},
        {"item_id": "h", "title": "new again", **good, "source_version": 2},
        {"item_id": "k", "title": "x", **good, "event_timestamp": 2**55},
        {"item_id": "m", "image_bytes": b"picture", **good},
    ]
    path = site.catalog(rows)
    assert site.backfill(path) == 3
    found = {(r["row"], r["item_id"], r["reason"]) for r in site.rejects()}
    assert found == {
        (1, None, "no_id"),
        (2, "b c", "invalid_id"),
        (3, "d", "no_content"),
        (4, "e", "image_unreadable"),
        (5, "f", "bad_price"),
        (6, "g", "title_too_long"),
        (7, "a", "duplicate_id"),
        (10, "h", "duplicate_id"),
        (11, "k", "event_time_out_of_range"),
    }
    assert {r["source"] for r in site.rejects()} == {path}
    printed = capsys.readouterr()
    assert "rejected 9 rows" in printed.err
    assert "superseded 1" in printed.out
    embeddings, features = site.state()
    assert set(embeddings) == set(features) == {"a", "h", "m"}
    assert embeddings["h"]["source_version"] == 2
    assert (features["m"]["has_image"], features["m"]["has_text"]) == (True, False)
    assert site.backfill(path) == 3
    assert {(r["row"], r["item_id"], r["reason"]) for r in site.rejects()} == found


def test_versions_move_items_forward_only_and_equal_content_keeps_its_vector(site, capsys):
    def rows(version, hours, **titles):
        when = SNAPSHOT_US + hours * 3_600_000_000
        return [{"item_id": i, "title": t, "source_version": version, "event_timestamp": when} for i, t in titles.items()]

    assert site.backfill(site.catalog(rows(5, 0, a="a", b="b", c="c"))) == 0
    first = site.state()[0]
    # a: same content; b: new content under an older clock; c: deleted.
    newer = [
        *rows(6, 1, a="a"),
        *rows(6, -1, b="b2"),
        {"item_id": "c", "source_version": 6, "event_timestamp": SNAPSHOT_US, "deleted": True},
    ]
    capsys.readouterr()
    assert site.backfill(site.catalog(newer)) == 0
    assert "encode 1, reuse 1, tombstone 1" in capsys.readouterr().out
    second = site.state()[0]
    assert second["a"]["codes"] == first["a"]["codes"]
    assert second["b"]["codes"] != first["b"]["codes"]
    us = {i: r["event_timestamp"].timestamp() * 1e6 for i, r in second.items()}
    assert us["b"] == SNAPSHOT_US + 1
    assert second["c"]["deleted"]
    capsys.readouterr()
    assert site.backfill(site.catalog(rows(5, 0, a="x", b="y", c="z"))) == 0
    assert "stale 3" in capsys.readouterr().out
    assert site.state()[0] == second


def test_content_known_at_is_inherited_from_an_earlier_row_of_the_version_in_any_space(site):
    rows = items(2, source_version=1, event_timestamp=SNAPSHOT_US)
    path = site.catalog(rows)
    assert site.backfill(path) == 0
    known = known_at(site, "stub_v1")
    assert (
        site.backfill(site.catalog([*rows, *items(3, source_version=2, event_timestamp=SNAPSHOT_US)[2:]]), space="stub_v2", dim=8)
        == 0
    )
    again = known_at(site, "stub_v2")
    assert {i: again[i] for i in known} == known
    assert again["i2"] > max(known.values())


def known_at(site, space):
    tables = OfflineTables(site.settings.offline_root)
    return {r["item_id"]: r["content_known_at"] for t in tables.latest(site.view(space)) for r in t.to_pylist()}


def test_empty_and_single_row_catalogs(site):
    assert site.backfill(site.catalog([]), *SNAPSHOT) == 0
    assert site.state() == ({}, {})
    assert site.backfill(site.catalog(items(1)), *SNAPSHOT) == 0
    assert len(site.state()[0]) == 1


def test_dry_run_says_what_and_writes_nothing(site, capsys):
    path = site.catalog([*items(4), {"item_id": None, "title": "x"}])
    before = sorted(site.home.rglob("*"))
    assert site.backfill(path, *SNAPSHOT, "--dry-run") == 3
    printed = capsys.readouterr()
    assert "encode 4" in printed.out
    assert "would reject 1 rows: no_id 1" in printed.err
    assert sorted(site.home.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"catalog": "absent.parquet"}, "got nothing"),
        ({"catalog": "spaces.toml"}, "expected Parquet"),
        ({"space": "nope_v1"}, "expected one of"),
        ({"dim": 8}, "expected a space of dim 8"),
        ({"space": "real_v1"}, "without encoder_digest"),
        ({"space": "real_v1", "dim": 0}, "encoder file"),
        ({"space": "stub_v1", "dim": 0}, "expected an artifact in spaces.toml"),
        ({"more": ("--master", "local-cluster[2,1,1024]")}, "every machine reaches"),
        ({"more": ("--snapshot-time", "2999-01-01T00:00:00Z")}, "got a future one"),
    ],
)
def test_what_is_wrong_as_a_whole_is_one_error_and_nothing_written(site, capsys, flags, message):
    site.catalog(items(2))
    before = sorted(site.home.rglob("*"))
    catalog = str(site.home / flags.get("catalog", "catalog.parquet"))
    more = flags.get("more", SNAPSHOT)
    assert site.backfill(catalog, *SNAPSHOT, *more, space=flags.get("space", "stub_v1"), dim=flags.get("dim", 16)) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(site.home.rglob("*")) == before


def test_a_store_of_another_space_is_refused_before_anything_is_written(site, capsys):
    path = site.catalog(items(2))
    assert site.backfill(path, *SNAPSHOT) == 0
    offline = sorted((site.home / "offline").rglob("*.parquet"))
    text = (
        (site.home / "spaces.toml")
        .read_text()
        .replace('version = 1\ndim = 16\n\n[[space]]\nname = "stub"', 'version = 1\ndim = 12\n\n[[space]]\nname = "stub"')
    )
    (site.home / "spaces.toml").write_text(text)
    assert site.backfill(site.catalog(items(3)), *SNAPSHOT, dim=12) == 1
    assert "expected" in capsys.readouterr().err
    assert sorted((site.home / "offline").rglob("*.parquet")) == offline


def test_items_over_many_dates_make_few_files_each(site):
    day = 86_400_000_000
    rows = [{**r, "source_version": 1, "event_timestamp": SNAPSHOT_US - (n % 3) * day} for n, r in enumerate(items(60))]
    assert site.backfill(site.catalog(rows, row_group_size=20)) == 0
    assert len(site.state()[0]) == 60
    assert len(list((site.home / "offline" / "item_features").rglob("*.parquet"))) <= 6


def test_redis_is_loaded_from_executors_and_repaired_too(tmp_path, redis_url, monkeypatch):
    for name, value in {"ONLINE": "redis", "REDIS_URL": redis_url, "PROJECT": "jobs"}.items():
        monkeypatch.setenv(f"MOONTIDE_{name}", value)
    site = Site(tmp_path)
    path = site.catalog([*items(9), {"item_id": "gone", "deleted": True}])
    assert site.backfill(path, *SNAPSHOT) == 0
    state = site.state()
    assert len(state[0]) == 10
    assert not (tmp_path / "online").exists()
    with closing(online_store(site.settings)) as store:
        store.drop_view(site.view())
        store.delete(views.item_features(), ["i2"])
    assert site.backfill(path, *SNAPSHOT) == 0
    assert site.state() == state


def test_the_shipped_encoder_with_good_and_bad_images(tmp_path, monkeypatch):
    monkeypatch.setenv("MOONTIDE_SPACES_FILE", str(ROOT / "feature_repo" / "spaces.toml"))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "images" / "red.png")
    Image.new("1", (6_000, 5_000)).save(tmp_path / "images" / "huge.png")
    (tmp_path / "images" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    content = {
        "both": ("red dress", "images/red.png"),
        "text": ("red dress", None),
        "image": (None, "images/red.png"),
        "huge": ("x", "images/huge.png"),
        "torn": ("x", "images/torn.jpg"),
        "absent": ("x", "images/none.jpg"),
        "outside": ("x", "../../../etc/passwd"),
        "signs": ("!!!", None),
    }
    columns = {"item_id": list(content), "title": [t for t, _ in content.values()], "image": [i for _, i in content.values()]}
    pq.write_table(pa.table(columns), tmp_path / "catalog.parquet")
    flags = ["--home", str(tmp_path), "--catalog", str(tmp_path / "catalog.parquet"), "--space", "moon_v2", "--partitions", "2"]
    assert backfill_embeddings.main([*flags, *SNAPSHOT]) == 3
    found = {r["item_id"]: r["reason"] for r in pq.read_table(tmp_path / "rejects" / "backfill.parquet").to_pylist()}
    assert found == {
        "huge": "image_too_large",
        "torn": "image_unreadable",
        "absent": "image_missing",
        "outside": "image_refused",
        "signs": "no_content",
    }
    settings = Settings(home=tmp_path)
    live = load_spaces(settings.spaces_path).live("moon_v2")
    encoder = Encoder.load(live.artifact, images=ImageLoader(tmp_path))
    good = [i for i in content if i not in found]
    expected = encoder.encode([Item(i, title=content[i][0], image=content[i][1]) for i in good])
    with closing(online_store(settings)) as store:
        got = store.read_embeddings(live.space, good)
    assert got.present.all()
    assert np.abs(got.codes.astype(int) - expected.codes.astype(int)).max() <= 1


def behaviours(site, rows, name="behaviours.parquet"):
    columns = zip(*rows, strict=True) if rows else [()] * 4
    table = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, schemas.BEHAVIOURS, strict=True)], names=schemas.BEHAVIOURS.names
    )
    pq.write_table(table, site.home / name, row_group_size=4)
    return str(site.home / name)


def sequences(site, *users):
    view = views.user_sequence()
    with closing(online_store(site.settings)) as store:
        online = store.read_sequences(view, users)
    offline = site.offline(view)
    for user, sequence in zip(users, online, strict=True):
        assert tuple(offline[user]["item_ids"]) == sequence.item_ids
        assert offline[user]["sequence_version"] == sequence.version
    return [s.item_ids for s in online]


def test_sequences_merge_with_what_is_there_and_a_second_run_changes_nothing(site, capsys, monkeypatch):
    monkeypatch.setenv("MOONTIDE_SEQUENCE_LENGTH", "3")
    site.settings = Settings(home=site.home, lmdb_sync=False)

    def run(rows, *flags):
        path = behaviours(site, rows)
        command = ["--home", str(site.home), "--behaviours", path, "--partitions", "2", *flags]
        return user_sequences.main(command)

    rows = [("u1", f"i{n}", "buy", SNAPSHOT_US + n) for n in range(5)] + [("u2", "i9", "buy", SNAPSHOT_US)]
    bad = [("u 1", "i1", "buy", 1), ("u1", "i1", "buy", None), ("u1", "i1", "buy", 2**55)]
    assert run([*rows, *bad], "--dry-run") == 3
    assert not (site.home / "offline").exists()
    assert run([*rows, *bad]) == 3
    assert sorted(r["reason"] for r in site.rejects("user_sequences")) == [
        "event_time_out_of_range",
        "invalid_id",
        "no_event_time",
    ]
    assert sequences(site, "u1", "u2") == [("i2", "i3", "i4"), ("i9",)]
    assert run(rows) == 0
    assert "sequences of 0 users changed" in capsys.readouterr().out
    late = [("u1", "i7", "view", SNAPSHOT_US + 3), ("u1", "i0", "buy", SNAPSHOT_US)]
    assert run(late) == 0
    assert sequences(site, "u1", "u2") == [("i3", "i7", "i4"), ("i9",)]
    shutil.rmtree(site.home / "online")
    assert run([]) == 0
    assert sequences(site, "u1", "u2") == [("i3", "i7", "i4"), ("i9",)]


def test_tiers_ahead_equal_the_kernel_for_pairs_and_for_lists(site, capsys):
    assert site.backfill(site.catalog(items(6)), *SNAPSHOT, "--skip-index") == 0
    path = behaviours(site, [("u1", f"i{n}", "buy", SNAPSHOT_US + n) for n in range(6)])
    assert user_sequences.main(["--home", str(site.home), "--behaviours", path, "--partitions", "2"]) == 0
    pairs = [("u1", "i0"), ("u1", "i5"), ("u1", "new"), ("u2", "i0"), ("u1", "i0"), ("u 1", "i0")]
    pq.write_table(pa.table({"user_id": [u for u, _ in pairs], "item_id": [i for _, i in pairs]}), site.home / "pairs.parquet")
    command = ["--home", str(site.home), "--spec", SPEC]
    assert simtier_backfill.main([*command, "--pairs", str(site.home / "pairs.parquet"), "--dry-run"]) == 3
    view = views.simtier_view(site.live.simtier(SPEC))
    assert not (site.home / "offline" / "user_item_simtier").exists()
    assert simtier_backfill.main([*command, "--pairs", str(site.home / "pairs.parquet")]) == 3
    with closing(online_store(site.settings)) as store:
        space, spec = site.live.space("stub_v1"), site.live.simtier(SPEC)
        found = store.read_columns(
            view, [("u1", "i0"), ("u1", "i5"), ("u1", "new"), ("u2", "i0")], ["counts", "missing"]
        ).to_pylist()
        history = store.read_embeddings(space, ["i1", "i2", "i3", "i4", "i5"])
        expected = tier_counts(store.read_embeddings(space, ["i0", "i5", "new"]), history, spec)
    assert [r["counts"] for r in found[:3]] == expected.counts.tolist()
    assert [r["missing"] for r in found[:3]] == expected.missing.tolist()
    assert (sum(found[3]["counts"]), found[3]["missing"], found[3]["status"]) == (0, 0, Status.PRESENT)
    users, candidates = site.home / "users.parquet", site.home / "candidates.parquet"
    pq.write_table(pa.table({"user_id": ["u1", "u3"]}), users)
    pq.write_table(pa.table({"item_id": ["i1", "i2"]}), candidates)
    assert simtier_backfill.main([*command, "--users", str(users), "--candidates", str(candidates)]) == 0
    rows = [r for t in OfflineTables(site.settings.offline_root).latest(view) for r in t.to_pylist()]
    assert {(r["user_id"], r["item_id"]) for r in rows} == {(u, i) for u, i in pairs if " " not in u} | {
        (u, i) for u in ("u1", "u3") for i in ("i1", "i2")
    }


def test_compaction_keeps_every_row_and_says_so(site, capsys):
    for version in (1, 2, 3):
        assert site.backfill(site.catalog(items(4, source_version=version, event_timestamp=SNAPSHOT_US)), "--skip-index") == 0
    view = site.view()
    before = [r for t in OfflineTables(site.settings.offline_root).scan(view) for r in t.to_pylist()]
    files = len(list((site.home / "offline").rglob("*.parquet")))
    assert compact_log.main(["--home", str(site.home), "--dry-run"]) == 0
    assert len(list((site.home / "offline").rglob("*.parquet"))) == files
    assert compact_log.main(["--home", str(site.home), "--grace", "0"]) == 0
    after = [r for t in OfflineTables(site.settings.offline_root).scan(view) for r in t.to_pylist()]
    assert len(list((site.home / "offline").rglob("*.parquet"))) < files
    assert sorted(map(str, after)) == sorted(map(str, before))
    assert compact_log.main(["--home", str(site.home), "--view", "nope"]) == 1
    assert "expected names among" in capsys.readouterr().err
