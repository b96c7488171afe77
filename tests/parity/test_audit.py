"""Serve, log, audit: with an LMDB store and offline tables nothing differs, and what is broken is found, where and why."""

import json
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import parity_audit
from moontide import Embeddings, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.request_log import REQUEST_LOG
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.offline import OfflineTables
from serving import RankingClient
from serving.request_log import RequestLog
from tests.served_rows import NOW, TOML, history_row, item_rows

pytestmark = pytest.mark.parity
SECOND = 1_000_000
ITEMS = [f"i{n}" for n in range(12)]


class Site:
    """A store, offline tables and a client that logs every request."""

    def __init__(self, home, rate=1.0):
        (home / "spaces.toml").write_text(TOML)
        self.home, self.now, self.rng = home, NOW, np.random.default_rng(5)
        self.live = load_spaces(home / "spaces.toml")
        self.space = self.live.space("moon_v1")
        settings = Settings(home=home, online="lmdb", lmdb_map_size=1 << 26, lmdb_sync=False)
        self.store, self.offline = online_store(settings), OfflineTables(settings.offline_root)
        self.log = RequestLog(home / "log", rate=rate, random=Random(1), clock=lambda: self.now)
        self.client = RankingClient(self.store, self.live, log=self.log)

    def write(self, view, rows, *, offline=True):
        self.store.write_rows(view, rows)
        if offline:
            self.offline.append(view, rows, writer="test")

    def vectors(self, ids, version, *, known=None, encoded=None, deleted=False, offline=True):
        values = self.rng.standard_normal((len(ids), 8)).astype(np.float32) * (not deleted)
        made = Embeddings.from_float(self.space, values, ids=ids)
        at = self.now if known is None else known
        rows = embedding_rows(
            made, source_version=version, event_timestamp=at, encoded_at=encoded or self.now, content_known_at=at,
            content_hash=[f"{version:032x}"] * len(ids), deleted=np.full(len(ids), deleted),
        )  # fmt: skip
        self.write(views.embedding_view(self.space), rows, offline=offline)

    def catalog(self, ids, version, price, *, deleted=False):
        count = len(ids)
        columns = {
            "source_version": [version] * count, "deleted": [deleted] * count, "price": [price] * count,
            "category": ["hats"] * count, "has_text": [None] * count,
        }  # fmt: skip
        self.write(views.item_features(), item_rows(ids, now=self.now, **columns))

    def behave(self, user, *items, offline=True):
        view = views.user_sequence()
        times = [self.now + n for n in range(len(items))]
        self.store.write_rows(view, history_row(user, items, times, action="click", now=self.now, event=times[-1]))
        if offline:
            self.offline.append(view, self.store.read_records(view, [user]), writer="test")

    def serve(self):
        """Twelve requests of two services, with writes of everything between them."""
        self.vectors(ITEMS[:10], 1)
        self.catalog(ITEMS[:9], 1, 2.5)
        self.catalog(["i3"], 2, None)
        self.behave("u0", "i1", "i2", "i1", "i5", "nobody")
        self.behave("u1", "i4")
        for n in range(6):
            self.now += SECOND
            for user in ("u0", "u1"):
                service = "bare" if n % 3 == 2 else "ctr_v1"
                self.client.features(user, ["i0", "i1", "i1", "i11", f"i{n}"], service=service, request_id=f"{user}-{n}")
            self.now += SECOND
            self.vectors([f"i{n}", "i1"], n + 2)
            self.catalog([f"i{n}"], n + 3, float(n), deleted=n == 4)
            self.behave("u1", f"i{n}", "i7")
        self.now += SECOND
        self.vectors(["i8"], 9, deleted=True)
        self.client.features("stranger", ["i8", "i9"], request_id="last")
        self.client.features("u0", [], request_id="none")
        self.log.close()

    def audit(self, *flags):
        out = self.home / "out" / "report.json"
        code = parity_audit.main(["--home", str(self.home), "--log", str(self.home / "log"), "--report", str(out), *flags])
        return code, json.loads(out.read_text())

    def rewrite(self, view, change):
        """Every offline file of a view with its rows changed."""
        for file in self.offline.tree.files(self.offline.folder(view)):
            table = pq.read_table(file.path, partitioning=None)
            pq.write_table(change(table), file.path)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    made.serve()
    yield made
    made.store.close()


def only(table, item, version):
    return pc.and_(pc.equal(table["item_id"], item), pc.equal(table["source_version"], version))


def replaced(table, name, values):
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)


def test_nothing_differs(site, capsys):
    code, report = site.audit()
    assert (code, report["differences"], report["values_not_compared"]) == (0, 0, 0)
    assert (report["requests"], report["candidates"], report["services"]) == (14, 62, {"ctr_v1": 10, "bare": 4})
    # embedding, counts and missing of each candidate; two fields of those of ctr_v1; one sequence of each request.
    assert report["values_compared"] == 3 * 62 + 2 * (62 - 20) + 14
    assert report["notes"] == {"sequences_in_offline_table": 14, "sequences_between_offline_rows": 0}
    assert "14 requests" in capsys.readouterr().out
    assert site.audit("--service", "bare")[1]["requests"] == 4


def test_a_logged_request_has_the_same_features(site):
    plain = RankingClient(site.store, site.live)
    for service in ("ctr_v1", "bare"):
        for user, ids in (("u0", ITEMS), ("stranger", ["i8", "i8", "nobody"]), ("u1", [])):
            assert site.client.features(user, ids, service=service).equals(plain.features(user, ids, service=service))


def test_a_corrupt_vector_is_found_where_it_was_a_candidate(site):
    def change(table):
        wrong = only(table, "i0", 1).to_pylist()
        codes = [bytes([c[0] ^ 1]) + c[1:] if bad else c for c, bad in zip(table["codes"].to_pylist(), wrong, strict=True)]
        return replaced(table, "codes", pa.array(codes, pa.binary()))

    site.rewrite(views.embedding_view(site.space), change)
    code, report = site.audit()
    found = {(d["request_id"], d["item_id"]) for d in report["listed"] if d["feature"] == "embedding"}
    assert code == 3 and report["by_reason"] == {"value_differs": report["differences"]}
    # i0 has version 1 in the first requests alone, where it also stands in for itself as i{n}.
    assert found == {("u0-0", "i0"), ("u1-0", "i0")}
    assert report["by_feature"]["embedding"] == 4
    assert {d["item_id"] for d in report["listed"] if d["feature"] != "embedding"} <= {"i0"}


def test_a_lost_row_is_named_and_what_hangs_on_it_is_not_compared(site):
    site.rewrite(views.embedding_view(site.space), lambda t: t.filter(pc.invert(only(t, "i4", 1))))
    code, report = site.audit()
    assert code == 3 and report["by_reason"] == {"version_not_offline": report["differences"]}
    places = {(d["request_id"], d["feature"], d["item_id"]) for d in report["listed"]}
    # u1's history holds i4 until newer behaviours push it out; it is a candidate in the requests of n = 4.
    assert {("u0-4", "embedding", "i4"), ("u1-4", "embedding", "i4"), ("u1-0", "history", "i4")} <= places
    assert {item for _, _, item in places} == {"i4"}
    assert report["values_not_compared"] > 0


def test_a_changed_price_and_a_lost_catalog_row(site):
    site.rewrite(
        views.item_features(),
        lambda t: replaced(t, "price", pc.if_else(only(t, "i0", 1), pa.scalar(9.0, pa.float32()), t["price"])).filter(
            pc.invert(only(t, "i1", 1))
        ),
    )
    code, report = site.audit()
    assert code == 3 and report["by_feature"].keys() == {"price", "item_features"}
    price = next(d for d in report["listed"] if d["feature"] == "price")
    assert (price["item_id"], price["logged"], price["rebuilt"], price["reason"]) == ("i0", 2.5, 9.0, "value_differs")
    assert {d["item_id"] for d in report["listed"] if d["feature"] == "item_features"} == {"i1"}


def logged(site, change):
    for path in (site.home / "log").rglob("*.parquet"):
        pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def test_a_sequence_that_is_not_the_hashed_one(site):
    logged(
        site, lambda t: replaced(t, "sequence_version", pc.if_else(pc.equal(t["request_id"], "u0-1"), 7, t["sequence_version"]))
    )
    code, report = site.audit()
    assert (code, report["differences"]) == (3, 1)
    assert report["listed"][0]["reason"] == "sequence_hash_differs" and report["listed"][0]["request_id"] == "u0-1"
    assert report["listed"][0]["logged"] == "7"


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("space", "sun_v1", "unknown_space"),
        ("encoder_digest", "sha256:" + "f" * 64, "encoder_differs"),
        ("simtier", "moon_v1_n4_l3_drop", "unknown_spec"),
    ],
)
def test_requests_of_an_unknown_kind(site, column, value, reason):
    logged(site, lambda t: replaced(t, column, pc.if_else(pc.equal(t["request_id"], "last"), value, t[column])))
    code, report = site.audit()
    assert (code, report["by_reason"], report["requests"]) == (3, {reason: 1}, 14)
    assert report["listed"][0]["request_id"] == "last"
    assert site.audit("--by", "time")[0] == 3


def test_lists_that_do_not_fit(site):
    logged(
        site,
        lambda t: replaced(
            t, "missing", pc.if_else(pc.equal(t["request_id"], "u0-1"), pa.scalar([1], pa.list_(pa.int32())), t["missing"])
        ),
    )
    code, report = site.audit()
    assert (code, report["by_reason"]) == (3, {"malformed": 1})


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("item_price", lambda prices: prices[:-1]),
        ("item_price", lambda prices: None),
        ("fields", lambda fields: [*fields, "colour"]),
        ("fields", lambda fields: [*fields, None]),
    ],
)
@pytest.mark.parametrize("by", ["versions", "time"])
def test_item_fields_that_do_not_fit(site, column, change, by):
    def spoil(table):
        pairs = zip(table["request_id"].to_pylist(), table[column].to_pylist(), strict=True)
        return replaced(table, column, pa.array([change(v) if at == "u0-1" else v for at, v in pairs], table[column].type))

    logged(site, spoil)
    code, report = site.audit("--by", by)
    assert (code, report["by_reason"], report["requests"]) == (3, {"malformed": 1}, 14)
    assert report["listed"][0]["request_id"] == "u0-1"


@pytest.mark.parametrize("by", ["versions", "time"])
def test_offline_codes_of_another_width_are_refused(site, capsys, by):
    site.rewrite(
        views.embedding_view(site.space), lambda t: replaced(t, "codes", pa.array([c[:-1] for c in t["codes"].to_pylist()]))
    )
    flags = ["--home", str(site.home), "--log", str(site.home / "log"), "--report", str(site.home / "r.json"), "--by", by]
    assert parity_audit.main(flags) == 1
    said = capsys.readouterr().err
    assert "expected 8 codes a row, got" in said
    assert "space version" in said


def test_by_time_a_fresh_site_has_no_skew(site):
    code, report = site.audit("--by", "time")
    assert (code, report["differences"]) == (0, 0)
    assert {name: found["differing"] for name, found in report["skew"].items()} == dict.fromkeys(report["skew"], 0)
    assert report["skew"].keys() == {"embedding", "counts", "missing", "sequence", "price", "category"}
    assert report["skew"]["embedding"]["compared"] == 62 and report["skew"]["price"]["median_age_seconds"] is None


def test_by_time_what_came_late_is_skew_and_no_difference_by_version(tmp_path):
    site = Site(tmp_path)
    site.vectors(["a", "b"], 1)
    site.behave("u", "b")
    site.now += 10 * SECOND
    site.client.features("u", ["a", "b"], service="bare")
    # Known eight seconds before the request, and online only after it; a behaviour two seconds before likewise.
    site.vectors(["a"], 2, known=site.now - 8 * SECOND)
    site.now -= 2 * SECOND
    site.behave("u", "a")
    site.log.close()
    assert site.audit()[0] == 0
    code, report = site.audit("--by", "time")
    skew = report["skew"]
    assert (code, skew["embedding"]["differing"], skew["embedding"]["share"]) == (0, 1, 0.5)
    assert skew["embedding"]["median_age_seconds"] == skew["embedding"]["max_age_seconds"] == 2.0
    assert (skew["sequence"]["differing"], skew["sequence"]["max_age_seconds"]) == (1, 8.0)
    assert skew["counts"]["differing"] >= 1
    site.store.close()


def test_by_time_a_sequence_that_is_not_offline_is_as_old_as_its_newest_behaviour_when_served(tmp_path):
    site = Site(tmp_path)
    site.vectors(["a", "b"], 1)
    site.behave("u", "b", offline=False)
    site.now += 10 * SECOND
    site.client.features("u", ["a"], service="bare")
    site.log.close()
    skew = site.audit("--by", "time")[1]["skew"]
    assert (skew["sequence"]["differing"], skew["sequence"]["max_age_seconds"]) == (1, 10.0)
    site.store.close()


def test_encoded_again_is_no_difference_by_version(site):
    site.vectors(["i0"], 2, known=NOW + 2 * SECOND, encoded=site.now)
    assert site.audit()[0] == 0
    assert site.audit("--by", "time")[1]["skew"]["embedding"]["differing"] > 0


def test_an_empty_log_and_one_row(site, tmp_path):
    for name, table in (("empty", REQUEST_LOG.empty_table()), ("one", None)):
        folder = tmp_path / name
        folder.mkdir()
        whole = pa.concat_tables([pq.read_table(p, partitioning=None) for p in (tmp_path / "log").rglob("*.parquet")])
        pq.write_table(whole.slice(0, 1) if table is None else table, folder / "log.parquet")
        for by in ("versions", "time"):
            out = folder / "report.json"
            args = ["--home", str(tmp_path), "--log", str(folder / "log.parquet"), "--by", by, "--report", str(out)]
            assert parity_audit.main(args) == 0
            assert json.loads(out.read_text())["requests"] == (table is None)


def test_a_log_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "spaces.toml").write_text(TOML)
    (tmp_path / "log.parquet").write_bytes(b"no parquet")
    args = ["--home", str(tmp_path), "--report", str(tmp_path / "r.json"), "--log"]
    assert parity_audit.main([*args, str(tmp_path / "log.parquet")]) == 1
    assert "expected Parquet" in capsys.readouterr().err
    pq.write_table(pa.table({"request_id": ["a"]}), tmp_path / "other.parquet")
    assert parity_audit.main([*args, str(tmp_path / "other.parquet")]) == 1
    assert parity_audit.main([*args, str(tmp_path / "absent")]) == 1
    assert not (tmp_path / "r.json").exists()


def test_a_share_is_logged_and_a_broken_disk_costs_no_ranking(tmp_path, monkeypatch):
    site = Site(tmp_path, rate=0.25)
    site.vectors(ITEMS, 1)
    for _ in range(200):
        site.client.features("u", ["i0"], service="bare")
    site.log.flush()
    rows = sum(pq.read_metadata(p).num_rows for p in (tmp_path / "log").rglob("*.parquet"))
    assert 30 <= rows <= 70 and site.log.lost == 0
    names = {
        i for p in (tmp_path / "log").rglob("*.parquet") for i in pq.read_table(p, partitioning=None)["request_id"].to_pylist()
    }
    assert len(names) == rows
    (tmp_path / "log").rename(tmp_path / "old")
    (tmp_path / "log").write_text("a file")
    for _ in range(20):
        assert site.client.features("u", ["i0"], service="bare").num_rows == 1
    site.log.close()
    assert site.log.lost > 0
    site.store.close()
