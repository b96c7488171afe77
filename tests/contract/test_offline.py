"""The offline tables on a local folder and on an object store, with a list of rows as oracle."""

import time
from datetime import UTC, datetime, timedelta

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontide import EmbeddingSpace, views
from moontide.errors import Misconfigured, Poison, SpaceMismatch, Transient
from moontide.simtier import SimTierSpec
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_compact import compact

pytestmark = pytest.mark.contract

SPACE = EmbeddingSpace("moon", 3, 4, "sha256:" + "0" * 64)
EMBEDDINGS = views.embedding_view(SPACE)
SIMTIER = views.simtier_view(SimTierSpec("moon_v3"))
START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = timedelta(0)


@pytest.fixture(params=["local", "object store"])
def tables(request, tmp_path):
    return open_tables(request.param, tmp_path)


def open_tables(kind, folder):
    if kind == "local":
        return OfflineTables(folder / "offline")
    return OfflineTables("bucket/offline", system=pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem()))


def at(second):
    return START + timedelta(seconds=second)


def embedding(item, version, event, encoded, *, known=None, deleted=False, digest=0):
    """One row; times in seconds from START."""
    codes = np.random.default_rng([version, digest]).integers(-127, 128, SPACE.dim).astype(np.int8)
    return {
        "item_id": item,
        "source_version": version,
        "event_timestamp": at(event),
        "encoded_at": at(encoded),
        "content_known_at": at(event if known is None else known),
        "content_hash": f"{digest:032x}",
        "deleted": deleted,
        "codes": codes.tobytes(),
        "scale": 0.5,
        "inv_norm": 0.25,
        "embedding": (codes * np.float32(0.5)).tolist(),
        "space": SPACE.id,
    }


def table(rows, view=EMBEDDINGS):
    return pa.Table.from_pylist(rows, schema=view.table)


def rows_of(parts):
    return [row for part in parts for row in part.to_pylist()]


def key(row):
    return (row["item_id"], row["source_version"], row["event_timestamp"], row["encoded_at"], row["content_hash"])


def same(got, expected):
    return sorted(got, key=key) == sorted(expected, key=key)


def files(tables, view=EMBEDDINGS):
    return tables.tree.files(tables.folder(view))


ROWS = st.builds(
    embedding,
    item=st.sampled_from(["a", "b", "c"]),
    version=st.integers(1, 3),
    event=st.sampled_from([0, 1, 86_399, 86_400, 200_000]),
    encoded=st.integers(0, 2),
    known=st.one_of(st.none(), st.sampled_from([0, 100_000, 300_000])),
    digest=st.integers(0, 1),
)
STEPS = st.lists(st.one_of(st.lists(ROWS, max_size=6), st.sampled_from(["compact", "fold small", "later"])), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, moment=st.sampled_from([0, 90_000, 250_000, 400_000]), kind=st.sampled_from(["local", "object store"]))
def test_any_history_of_appends_and_compactions_reads_as_its_distinct_rows(tmp_path_factory, steps, moment, kind):
    tables, oracle = open_tables(kind, tmp_path_factory.mktemp("tables")), {}
    for number, step in enumerate(steps):
        if isinstance(step, list):
            # Rows of one key are equal rows: what else they hold was made from the key.
            step = [oracle.setdefault(key(row), row) for row in step]
            tables.append(EMBEDDINGS, table(step), writer=f"w{number}")
        else:
            grace = timedelta(hours=1) if step == "later" else NOW
            counts = compact(tables, EMBEDDINGS, target_rows=3 if step == "fold small" else 1_000, grace=grace)
            assert counts.rows_after == len(oracle)
    rows = list(oracle.values())
    assert same(rows_of(tables.scan(EMBEDDINGS)), rows)
    newest = {}
    for row in sorted(rows, key=lambda r: key(r)[1:]):
        newest[row["item_id"]] = row
    assert same(rows_of(tables.latest(EMBEDDINGS)), newest.values())
    heads = tables.latest_heads(EMBEDDINGS).to_pylist()
    assert same(heads, [{k: r[k] for k in heads[0]} for r in newest.values()] if heads else newest.values())
    then = {}
    for row in sorted(rows, key=lambda r: key(r)[1:]):
        if row["event_timestamp"] <= at(moment) and row["content_known_at"] <= at(moment):
            then[row["item_id"]] = row
    assert same(rows_of(tables.latest(EMBEDDINGS, as_of=at(moment))), then.values())
    assert same(rows_of(tables.latest(EMBEDDINGS, ["a", "zz"])), [r for i, r in newest.items() if i == "a"])


def test_files_lie_by_space_spec_and_utc_day_in_the_documented_format(tables):
    paths = tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0), embedding("b", 1, 86_400, 0)]), writer="job-0")
    root = tables.tree.base
    assert [p.rsplit("/", 1)[0] for p in paths] == [
        f"{root}/item_embedding/space=moon_v3/date=2026-03-01",
        f"{root}/item_embedding/space=moon_v3/date=2026-03-02",
    ]
    assert all(p.rsplit("/", 1)[1].startswith("part-job-0-") for p in paths)
    assert tables.path(SIMTIER).endswith("/user_item_simtier/spec=" + SimTierSpec("moon_v3").spec_id)
    assert tables.path(views.item_features()).endswith("/item_features")
    assert tables.partitions(EMBEDDINGS) == ["date=2026-03-01", "date=2026-03-02"]
    written = pq.ParquetFile(tables.tree.system.open_input_file(paths[0]))
    assert written.schema_arrow.metadata[b"moontide.format"] == b"1"
    assert written.metadata.row_group(0).column(0).compression == "ZSTD"


def test_days_are_utc_and_reach_before_1970(tables):
    early = [
        embedding("a", 1, 0, 0) | {"event_timestamp": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
        embedding("b", 1, 86_399, 0),
    ]
    tables.append(EMBEDDINGS, table(early), writer="w")
    assert tables.partitions(EMBEDDINGS) == ["date=1969-12-31", "date=2026-03-01"]


def test_batches_of_none_and_one_row_read_back_as_written(tables):
    assert tables.append(EMBEDDINGS, table([]), writer="w") == []
    assert list(tables.scan(EMBEDDINGS)) == list(tables.latest(EMBEDDINGS)) == []
    assert tables.latest_heads(EMBEDDINGS).num_rows == 0 and tables.partitions(EMBEDDINGS) == []
    assert compact(tables, EMBEDDINGS).partitions == 0
    row = embedding("a", 1, 0, 0)
    tables.append(EMBEDDINGS, table([row]), writer="w")
    assert rows_of(tables.scan(EMBEDDINGS)) == rows_of(tables.latest(EMBEDDINGS)) == [row]
    assert list(tables.latest(EMBEDDINGS, [])) == []


def test_the_same_rows_are_the_same_file(tables):
    rows = table([embedding("a", 1, 0, 0), embedding("b", 1, 86_400, 0)])
    first = tables.append(EMBEDDINGS, rows, writer="w")
    assert tables.append(EMBEDDINGS, rows, writer="w") == first and len(files(tables)) == 2
    assert tables.append(EMBEDDINGS, rows.slice(0, 1), writer="other") != first[:1]
    assert len(rows_of(tables.scan(EMBEDDINGS))) == 2


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_a_time_without_a_zone_is_utc_wherever_this_runs(tables, monkeypatch, zone):
    tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0), embedding("a", 2, 86_400 + 60, 0)]), writer="w")
    moments = [at(86_400 + 60), at(86_400 + 59), at(0), at(-1)]
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = [rows_of(tables.latest(EMBEDDINGS, as_of=moment.replace(tzinfo=None))) for moment in moments]
        heads = tables.latest_heads(EMBEDDINGS, as_of=moments[0].replace(tzinfo=None))
    time.tzset()
    assert [[row["source_version"] for row in rows] for rows in found] == [[2], [1], [1], []]
    assert heads["source_version"].to_pylist() == [2]


def test_a_rerun_with_other_rows_under_one_name_loses_none(tables):
    tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0)]), writer="w")
    tables.append(EMBEDDINGS, table([embedding("b", 1, 0, 0)]), writer="w")
    assert {r["item_id"] for r in rows_of(tables.scan(EMBEDDINGS))} == {"a", "b"}


def test_scan_chooses_columns_and_rows(tables):
    tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0), embedding("b", 2, 0, 0)]), writer="w")
    tables.append(EMBEDDINGS, table([embedding("b", 2, 0, 0), embedding("c", 2, 90_000, 0)]), writer="x")
    found = list(tables.scan(EMBEDDINGS, ["source_version", "item_id"], where=pc.field("source_version") == 2))
    assert [t.column_names for t in found] == [["source_version", "item_id"]] * 2
    assert [r["item_id"] for r in rows_of(found)] == ["b", "c"]


@pytest.mark.parametrize("view", [views.item_features(), views.user_sequence(), SIMTIER], ids=lambda v: v.name.split("__")[0])
def test_every_kind_of_table_keeps_its_types(tables, view):
    values = {
        "item_id": "a", "user_id": "u", "source_version": 1, "event_timestamp": at(0), "created": at(1), "deleted": False,
        "price": 1.5, "category": None, "has_image": True, "has_text": None, "item_ids": ["a", "b"], "actions": ["click", "buy"],
        "times": [1, 2], "sequence_version": -7, "counts": [0, 1], "missing": 3, "history_digest": "ff", "computed_at": at(1),
    }  # fmt: skip
    first = {name: values[name] for name in view.table.names}
    later = first | {"created": at(2)}
    for name, rows in (("w", [first, later]), ("x", [first])):
        tables.append(view, table(rows, view), writer=name)
    compact(tables, view, grace=NOW)
    assert len(files(tables, view)) == 1
    found = list(tables.scan(view))
    assert rows_of(found) == [first, later] and found[0].schema.equals(view.table)
    assert rows_of(tables.latest(view)) == [later]


def test_pairs_of_keys_do_not_run_together(tables):
    rows = [
        {"user_id": user, "item_id": item, "event_timestamp": at(0), "created": at(0), "counts": [1], "missing": 0,
         "sequence_version": 1, "history_digest": "", "computed_at": at(0)}
        for user, item in (("a", "b.c"), ("a.b", "c"), ("a", "b"))
    ]  # fmt: skip
    tables.append(SIMTIER, table(rows, SIMTIER), writer="w")
    assert len(rows_of(tables.latest(SIMTIER))) == 3 and len(rows_of(tables.latest(SIMTIER, ["a"]))) == 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.drop_columns(["codes"]), Misconfigured),
        (lambda t: t.set_column(0, "item_id", pa.array([None, "b"])), Poison),
        (lambda t: t.set_column(1, "source_version", pa.array([1, None], pa.int64())), Poison),
        (lambda t: t.set_column(1, "source_version", pa.array(["one", "two"])), Misconfigured),
        (lambda t: t.set_column(11, "space", pa.array(["moon_v3", "moon_v4"])), SpaceMismatch),
    ],
)
def test_wrong_rows_write_nothing(tables, change, error):
    rows = table([embedding("a", 1, 0, 0), embedding("b", 1, 86_400, 0)])
    with pytest.raises(error, match="got"):
        tables.append(EMBEDDINGS, change(rows), writer="w")
    assert files(tables) == []


@pytest.mark.parametrize("writer", ["", "a/b", "../x", "a b", "x" * 121])
def test_wrong_writer_names_are_refused_and_write_nothing(tables, writer):
    with pytest.raises(Misconfigured, match="writer"):
        tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0)]), writer=writer)
    assert files(tables) == []


def test_another_encoder_under_the_same_space_id_is_refused(tables):
    tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0)]), writer="w")
    other = views.embedding_view(EmbeddingSpace("moon", 3, 4, "sha256:" + "1" * 64))
    for call in (
        lambda: tables.append(other, table([embedding("b", 1, 0, 0)]), writer="w"),
        lambda: list(tables.scan(other)),
        lambda: list(tables.latest(other)),
        lambda: tables.latest_heads(other),
        lambda: compact(tables, other),
        lambda: tables.require_own(other),
    ):
        with pytest.raises(SpaceMismatch, match="encoder"):
            call()
    tables.require_own(EMBEDDINGS)
    assert len(files(tables)) == 1


def test_a_row_of_another_space_with_the_keys_of_a_kept_one_is_refused_by_every_reader(tables):
    (path,) = tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0), embedding("b", 1, 0, 0)]), writer="w")
    foreign = table([embedding("a", 1, 0, 0), embedding("a", 1, 0, 0) | {"space": "moon_v4"}])
    with tables.tree.system.open_output_stream(path) as sink:
        pq.write_table(foreign, sink)
    for call in (
        lambda: list(tables.scan(EMBEDDINGS, ["item_id"])),
        lambda: list(tables.latest(EMBEDDINGS)),
        lambda: tables.latest_heads(EMBEDDINGS),
        lambda: compact(tables, EMBEDDINGS),
    ):
        with pytest.raises(SpaceMismatch, match="moon_v4"):
            call()


def test_files_of_a_newer_format_or_no_parquet_stop_the_reader(tables):
    (path,) = tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0)]), writer="w")
    newer = table([embedding("a", 1, 0, 0)]).replace_schema_metadata({"moontide.format": "2"})
    with tables.tree.system.open_output_stream(path) as sink:
        pq.write_table(newer, sink)
    with pytest.raises(Misconfigured, match="format"):
        list(tables.scan(EMBEDDINGS))
    with tables.tree.system.open_output_stream(path) as sink:
        sink.write(b"PAR1 not really")
    with pytest.raises(Misconfigured, match="Parquet"):
        tables.latest_heads(EMBEDDINGS)


def test_a_root_that_cannot_be_opened_is_misconfigured():
    with pytest.raises(Misconfigured, match="offline root"):
        OfflineTables("nosuch://bucket/x")


def test_compaction_folds_drops_duplicates_and_keeps_every_version(tables):
    for version in range(1, 6):
        tables.append(EMBEDDINGS, table([embedding(i, version, 0, version) for i in "abc"]), writer=f"w{version}")
        tables.append(EMBEDDINGS, table([embedding("a", version, 0, version)]), writer="replay")
    tables.append(EMBEDDINGS, table([embedding("a", 9, 86_400, 9)]), writer="alone")
    first = compact(tables, EMBEDDINGS, grace=NOW)
    assert (first.partitions, first.files_before, first.files_after, first.waiting) == (2, 11, 2, 0)
    assert (first.rows_before, first.rows_after) == (21, 16)
    again = compact(tables, EMBEDDINGS, grace=NOW)
    assert (again.files_before, again.files_after, again.rows_before, again.rows_after) == (2, 2, 16, 16)


def test_compaction_leaves_young_files_and_large_ones(tables):
    for n in range(4):
        tables.append(EMBEDDINGS, table([embedding(f"{n}.{m}", 1, 0, 0) for m in range(10)]), writer=f"w{n}")
    assert compact(tables, EMBEDDINGS, older_than=timedelta(days=1), grace=NOW).files_after == 4
    assert compact(tables, EMBEDDINGS, target_rows=20, grace=NOW).files_after == 4
    assert compact(tables, EMBEDDINGS, target_rows=30, grace=NOW).files_after == 2
    assert compact(tables, EMBEDDINGS, target_rows=1_000, grace=NOW).files_after == 1
    assert len(rows_of(tables.scan(EMBEDDINGS))) == 40
    with pytest.raises(Misconfigured, match="target_rows"):
        compact(tables, EMBEDDINGS, target_rows=0)


def test_replaced_files_stay_for_readers_until_grace_has_passed(tables):
    written = [embedding(i, 1, 0, 0) for i in "abc"]
    for row in written:
        tables.append(EMBEDDINGS, table([row]), writer="w")
    reader = tables.scan(EMBEDDINGS)
    first = next(reader)
    counts = compact(tables, EMBEDDINGS, grace=timedelta(hours=1))
    assert (counts.files_before, counts.files_after, counts.waiting, counts.rows_after) == (3, 4, 3, 3)
    assert same([*first.to_pylist(), *rows_of(reader)], written)
    assert compact(tables, EMBEDDINGS, grace=timedelta(hours=1)).waiting == 3
    tables.append(EMBEDDINGS, table([embedding("d", 1, 0, 0)]), writer="w")
    assert same(rows_of(tables.scan(EMBEDDINGS)), [*written, embedding("d", 1, 0, 0)])
    late = OfflineTables(tables.tree.base, clock=lambda: datetime.now(UTC) + timedelta(hours=2), system=tables.tree.system)
    late = late if tables.tree.local is None else OfflineTables(tables.tree.local, clock=late.clock)
    counts = compact(late, EMBEDDINGS, grace=timedelta(hours=1))
    assert counts.rows_after == 4
    counts = compact(late, EMBEDDINGS, grace=timedelta(hours=1))
    assert (counts.files_after, counts.waiting, counts.rows_before) == (1, 0, 4)


def test_a_file_system_that_tells_no_age(tmp_path):
    """Files of unknown age are never old: nothing a reader may still want is removed before it is asked for."""
    tables = OfflineTables(f"bucket{tmp_path}", system=pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("memory"))))
    for item in "ab":
        tables.append(EMBEDDINGS, table([embedding(item, 1, 0, 0)]), writer="w")
    assert compact(tables, EMBEDDINGS, older_than=timedelta(seconds=1)).files_after == 2
    assert compact(tables, EMBEDDINGS, grace=timedelta(seconds=1)).waiting == 2
    assert compact(tables, EMBEDDINGS, grace=NOW).files_after == 1
    assert len(rows_of(tables.scan(EMBEDDINGS))) == 2


def test_an_empty_table_made_for_feast_reads_as_empty(tables):
    path = tables.ensure(EMBEDDINGS)
    assert tables.ensure(EMBEDDINGS) == path and len(files(tables)) == 1
    assert list(tables.scan(EMBEDDINGS)) == [] and tables.latest_heads(EMBEDDINGS).num_rows == 0
    tables.append(EMBEDDINGS, table([embedding("a", 1, 0, 0)]), writer="w")
    compact(tables, EMBEDDINGS, grace=NOW)
    assert len(rows_of(tables.scan(EMBEDDINGS))) == 1


def test_a_root_that_cannot_be_made_is_transient(tmp_path, monkeypatch):
    made = OfflineTables(tmp_path / "offline")
    monkeypatch.setattr(type(made.tree), "_commit", lambda *_: (tmp_path / "absent" / "file").touch())  # as a mount that went
    with pytest.raises(Transient, match="^offline tables: write: expected success"):
        made.ensure(EMBEDDINGS)


def test_a_file_that_cannot_be_read_is_transient(tmp_path, monkeypatch):
    made = OfflineTables(tmp_path / "offline")
    made.ensure(EMBEDDINGS)

    def refused(*_):
        raise PermissionError("no")

    monkeypatch.setattr(pq, "ParquetFile", refused)
    with pytest.raises(Transient, match="^offline tables: read: expected success"):
        made.require_own(EMBEDDINGS)
