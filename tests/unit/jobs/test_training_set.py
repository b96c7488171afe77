"""Inputs of a training set that are odd or wrong: the right rows, or one line that says what to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.purchases import read_purchases
from jobs import training_set
from jobs._training_set import build_unit
from jobs.training_set import main
from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.pit import layout
from moontide.pit.impressions import make_impressions
from moontide.pit.in_memory import from_purchases
from moontide.pit.purchases import DAY
from moontide.pit.training_set import read_training_set
from moontide.records import embedding_rows
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view
from tests.unit.ranking.purchases_world import write_shop

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 3)
START = datetime(2021, 3, 1, tzinfo=UTC)


def at(hours):
    return START + timedelta(hours=hours)


def labels_table(rows, zone="UTC"):
    """Rows of (user, item, hour, label)."""
    columns = list(zip(*rows, strict=True)) or [()] * 4
    time = pa.array([at(h) for h in columns[2]], pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
    texts = [pa.array(c, pa.string()) for c in columns[:2]]
    return pa.table([*texts, time, pa.array(columns[3], pa.float32())], names=["user_id", "item_id", "event_timestamp", "label"])


def behaviours_table(rows):
    """Rows of (user, item, hour)."""
    columns = list(zip(*rows, strict=True)) or [()] * 3
    texts = [pa.array(c, pa.string()) for c in (*columns[:2], ["buy"] * len(rows))]
    return pa.table([*texts, pa.array([at(h) for h in columns[2]], schemas.TIMESTAMP)], schema=schemas.BEHAVIOURS)


@pytest.fixture
def site(tmp_path):
    """A home with a live space and one vector of item a, labels and behaviours."""
    (tmp_path / "spaces.toml").write_text(
        '[[space]]\nname = "moon"\nversion = 1\ndim = 3\n\n[[simtier]]\nspace = "moon_v1"\ntiers = 4\n'
    )
    vector = Embeddings.from_float(SPACE, np.eye(3)[:1], ids=["a"])
    rows = embedding_rows(vector, source_version=1, event_timestamp=0, encoded_at=0, content_known_at=0)
    OfflineTables(tmp_path / "offline").append(embedding_view(SPACE), rows, writer="one")
    pq.write_table(labels_table([("u", "a", 5, 1.0), ("u", "b", 5, 0.0)]), tmp_path / "labels.parquet")
    pq.write_table(behaviours_table([("u", "a", 1)]), tmp_path / "behaviours.parquet")
    return tmp_path


def start(site, *flags, vectors=("--space", "moon_v1")):
    return main(
        ["--home", str(site), "--impressions", str(site / "labels.parquet"), "--behaviours", str(site / "behaviours.parquet"),
         "--out", str(site / "out"), *vectors, *flags]
    )  # fmt: skip


def test_labels_before_any_behaviour_and_at_the_very_time_of_one_know_nothing(site):
    pq.write_table(
        labels_table([("u", "a", 0, 1.0), ("u", "a", 1, 1.0), ("u", "a", 2, 1.0), ("new", "a", 9, 0.0)]), site / "labels.parquet"
    )
    assert start(site) == 0
    got = read_training_set(site / "out")
    assert got.known.tolist() == [0, 0, 1, 0]
    assert np.diff(got.history_offsets).tolist() == [0, 0, 1, 0]
    assert got.card["cold"]["requests_without_behaviours"] == 3


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_times_without_a_zone_are_refused_unless_said_to_be_utc(site, capsys, zone):
    folder = site / "labels.parquet"
    folder.unlink()
    folder.mkdir()
    pq.write_table(labels_table([("u", "a", 5, 1.0)], zone), folder / "1.parquet")
    pq.write_table(labels_table([("u", "a", 6, 1.0)]), folder / "2.parquet")
    if zone is None:
        assert start(site) == 1
        said = capsys.readouterr().err
        assert "got none in 1 files, 1 files have one" in said
        assert "--assume-utc" in said
        assert not (site / "out").exists()
    assert start(site, *([] if zone else ["--assume-utc"])) == 0
    # A zone is how a moment is written, not which moment it is.
    assert read_training_set(site / "out").request_time.tolist() == [round(at(h).timestamp()) * 1_000_000 for h in (5, 6)]


def test_a_space_that_does_not_exist_names_those_that_do(site, capsys):
    assert start(site, vectors=("--space", "moon_v9")) == 1
    assert "expected one of ['moon_v1'], got 'moon_v9'" in capsys.readouterr().err
    assert start(site, vectors=("--spec", "moon_v9_n4_l50_drop")) == 1
    assert "moon_v1_n4_l50_drop" in capsys.readouterr().err


def test_two_spaces_in_one_log_are_refused(site, capsys):
    log = next((site / "offline").glob("item_embedding/space=moon_v1/*/*.parquet"))
    table = pq.read_table(log)
    other = table
    for name, value in (("space", "moon_v2"), ("source_version", 2)):
        place = table.column_names.index(name)
        other = other.set_column(place, table.schema.field(name), pa.array([value]))
    pq.write_table(pa.concat_tables([table, other]).replace_schema_metadata(table.schema.metadata), log)
    assert start(site) == 1
    assert "expected rows of space moon_v1, got ['moon_v2']" in capsys.readouterr().err
    assert not (site / "out").exists()


def test_a_space_without_vectors_says_what_to_run(site, capsys):
    (site / "spaces.toml").write_text('[[space]]\nname = "moon"\nversion = 3\ndim = 3\n')
    for flags in ([], ["--dry-run"]):
        assert start(site, *flags, vectors=("--space", "moon_v3")) == 1
        assert "backfill_embeddings" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_label_named_as_a_column_of_the_set_is_refused(site, capsys, flags):
    table = pq.read_table(site / "labels.parquet")
    pq.write_table(table.append_column("sales_ever", table["label"]), site / "labels.parquet")
    assert start(site, "--labels", "sales_ever", *flags) == 1
    assert "['sales_ever'] again; rename the labels" in capsys.readouterr().err


def test_bad_rows_are_counted_and_listed_and_no_other_label_is_lost(site, capsys):
    rows = [
        ("u", "a", 5, 1.0),
        ("u u", "a", 5, 1.0),
        ("u", None, 5, 1.0),
        ("u", "a", 5, None),
        ("u", "a", 5, float("nan")),
        ("u", "b", 6, 0.0),
    ]
    table = labels_table(rows)
    odd = table.slice(0, 2).set_column(
        2, "event_timestamp", pa.array([None, datetime(2400, 1, 1, tzinfo=UTC)], schemas.TIMESTAMP)
    )
    pq.write_table(pa.concat_tables([table, odd]), site / "labels.parquet")
    pq.write_table(behaviours_table([("u", "a", 1), ("", "a", 1)]), site / "behaviours.parquet")
    assert start(site, "--dry-run") == 3
    assert not (site / "out").exists()
    assert "would join 2 labels" in capsys.readouterr().out
    assert start(site) == 3
    got = read_training_set(site / "out")
    assert got.label_row.tolist() == [0, 5]
    assert got.card["rejected"] == {"bad_label": 2, "invalid_id": 4, "no_event_time": 1}
    rejects = pq.read_table(site / "rejects" / "training_set.parquet")
    assert rejects["row"].to_pylist() == [1, 1, 2, 3, 4, 6, 7]
    assert str(site / "behaviours.parquet") in rejects["source"].to_pylist()


def test_labels_that_all_lie_before_the_vectors_are_joined_and_warned_of(site, capsys):
    vector = Embeddings.from_float(SPACE, np.eye(3)[:1], ids=["b"])
    late = embedding_rows(vector, source_version=1, event_timestamp=0, encoded_at=0, content_known_at=1 << 55)
    OfflineTables(site / "offline").append(embedding_view(SPACE), late, writer="late")
    for item, said in (("b", "--history"), ("c", "no row of their items")):
        pq.write_table(labels_table([("u", item, 5, 1.0)]), site / "labels.parquet")
        pq.write_table(behaviours_table([]), site / "behaviours.parquet")
        assert start(site) == 0
        assert said in capsys.readouterr().err
        assert read_training_set(site / "out").vector.tolist() == [-1]


def test_vectors_of_items_without_a_label_are_not_those_that_came_late(site, capsys):
    pq.write_table(labels_table([("u", "c", 5, 1.0), ("no id", "a", 5, 1.0)]), site / "labels.parquet")
    assert start(site) == 3
    said = capsys.readouterr().err
    assert "moon_v1 has no row of their items" in said
    assert "--history" not in said


def test_without_behaviours_every_history_is_empty(site):
    flags = ["--impressions", str(site / "labels.parquet"), "--out", str(site / "out"), "--space", "moon_v1"]
    assert main(["--home", str(site), *flags]) == 0
    got = read_training_set(site / "out")
    assert (got.known.tolist(), got.vector.tolist(), got.history_offsets.tolist()) == ([0], [0, -1], [0, 0])


@pytest.mark.parametrize("empty", ["labels", "behaviours", "both"])
def test_nothing_to_join_is_a_training_set_too(site, empty):
    if empty != "behaviours":
        pq.write_table(labels_table([]), site / "labels.parquet")
    if empty != "labels":
        pq.write_table(behaviours_table([]), site / "behaviours.parquet")
    assert start(site) == 0
    got = read_training_set(site / "out")
    assert len(got) == (2 if empty == "behaviours" else 0)
    assert got.card["rows"] == len(got)
    assert got.card["coverage"]["impressions"] == (0.5 if len(got) else None)


def test_an_empty_file_and_an_empty_row_group_among_others_change_nothing(site):
    folder = site / "labels.parquet"
    folder.unlink()
    folder.mkdir()
    whole = labels_table([("u", "a", 5, 1.0), ("u", "b", 6, 0.0), ("u", "b", 7, 0.0)])
    pq.write_table(whole.slice(0, 0), folder / "0.parquet")
    with pq.ParquetWriter(folder / "1.parquet", whole.schema) as out:
        for part in (whole.slice(0, 1), whole.slice(0, 0), whole.slice(1)):
            out.write_table(part)
    pq.write_table(whole.slice(0, 0), folder / "2.parquet")
    assert start(site) == 0
    assert read_training_set(site / "out").label_row.tolist() == [0, 1, 2]


def test_a_user_with_many_behaviours_keeps_the_last(site):
    count = 200_000
    time = pa.array(np.arange(count) * 1_000_000, pa.int64()).cast(schemas.TIMESTAMP)
    texts = [pa.array([value]).take(pa.array(np.zeros(count, np.int64))) for value in ("u", "a", "buy")]
    pq.write_table(pa.table([*texts, time], schema=schemas.BEHAVIOURS), site / "behaviours.parquet")
    assert start(site, "--length", "3") == 0
    got = read_training_set(site / "out")
    assert got.known.tolist() == [count]
    assert got.history_times.tolist() == [(count - 3 + n) * 1_000_000 for n in range(3)]


def test_what_is_no_training_set_is_not_written_over_unless_asked_to(site, capsys):
    (site / "out").mkdir()
    (site / "out" / "thesis.txt").write_text("mine")
    assert start(site) == 1
    assert "name another folder" in capsys.readouterr().err
    assert (site / "out" / "thesis.txt").read_text() == "mine"
    assert start(site, "--overwrite") == 0
    assert start(site) == 0
    assert not (site / "out" / "thesis.txt").exists()


def test_a_run_that_fails_leaves_the_training_set_that_was_there(site, capsys):
    assert start(site) == 0
    before = json.loads((site / "out" / layout.CARD).read_text())
    (site / "labels.parquet").write_bytes(b"no parquet")
    assert start(site) == 1
    assert "expected Parquet" in capsys.readouterr().err
    assert json.loads((site / "out" / layout.CARD).read_text()) == before
    assert sorted(p.name for p in site.iterdir() if p.name.startswith(".")) == []


def test_a_link_to_a_folder_stays_and_the_set_is_put_where_it_points(site):
    (site / "real").mkdir()
    (site / "out").symlink_to(site / "real")
    for _ in range(2):
        assert start(site) == 0
        assert (site / "out").is_symlink()
        assert len(read_training_set(site / "real")) == 2
    assert [p.name for p in site.iterdir() if p.name.startswith(".")] == []


def test_a_file_is_never_replaced_and_what_stands_in_the_way_beside_the_folder_goes(site, capsys):
    (site / "out").write_text("mine")
    for flags in ([], ["--overwrite"], ["--overwrite", "--dry-run"]):
        assert start(site, *flags) == 1
        assert "expected a folder, got a file; name another folder" in capsys.readouterr().err
    assert (site / "out").read_text() == "mine"
    (site / "out").unlink()
    (site / ".out.old").symlink_to(site)
    (site / ".out.part").write_text("")
    assert start(site) == 0
    assert start(site) == 0
    assert [p.name for p in site.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--negatives", "-1"], "expected 0 to 10000, got -1"),
        (["--seed", "-1"], "got -1"),
        (["--window-days", "1000000000"], "expected 1 to 36500, got 1000000000"),
        (["--window-days", "0"], "got 0"),
        (["--seed", "x"], "invalid integer value: 'x'"),
    ],
)
def test_numbers_beyond_their_range_are_wrong_use(tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as stopped:
        main(["--purchases", str(tmp_path), "--no-vectors", "--out", str(tmp_path / "out"), *flags])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_rejects_file_that_is_a_folder_is_wrong_use_before_anything_is_written(site, capsys):
    with pytest.raises(SystemExit) as stopped:
        start(site, "--rejects", str(site))
    assert stopped.value.code == 2
    assert "expected a file to write, got a folder" in capsys.readouterr().err
    assert not (site / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--spec", "moon_v1_n4_l50_drop", "--length", "5"],
        ["--space", "moon_v1", "--seed", "3"],
        ["--space", "moon_v1", "--engine", "single", "--master", "local[1]"],
        [],
    ],
)
def test_flags_that_contradict_each_other_are_wrong_use(site, capsys, flags):
    with pytest.raises(SystemExit) as stopped:
        start(site, *flags, vectors=())
    assert stopped.value.code == 2


def test_a_spec_names_length_and_tiers_and_without_vectors_there_are_none(site, capsys):
    assert start(site, vectors=("--spec", "moon_v1_n4_l50_drop")) == 0
    got = read_training_set(site / "out")
    assert got.counts.shape == (2, 4)
    assert got.card["spec"]["spec_id"] == "moon_v1_n4_l50_drop"
    assert "50.0 % with a vector" in capsys.readouterr().out
    assert start(site, vectors=("--no-vectors",)) == 0
    assert "no vectors asked for, 0 input rows rejected" in capsys.readouterr().out
    got = read_training_set(site / "out")
    assert (got.vectors, got.counts.shape) == (None, (2, 0))


@pytest.mark.parametrize("spoilt", ["lost", "doubled", "swapped"])
def test_a_label_that_is_lost_or_there_twice_fails_the_job(site, capsys, monkeypatch, spoilt):
    chosen = {"lost": [0], "doubled": [0, 0, 1], "swapped": [1, 0]}[spoilt]

    def spoil(*args):
        for made in build_unit(*args):
            yield made._replace(impressions=made.impressions.take(chosen) if made.impressions.num_rows else made.impressions)

    monkeypatch.setattr(training_set, "build_unit", spoil)
    assert start(site) == 1
    assert "training set: expected" in capsys.readouterr().err
    assert not (site / "out").exists()


def test_purchases_with_drawn_negatives_are_the_set_that_is_made_in_memory(tmp_path, capsys):
    write_shop(tmp_path / "shop", seed=3, baskets=120)
    flags = ["--variant", "all", "--negatives", "2", "--window-days", "20", "--seed", "5", "--length", "4"]
    (tmp_path / "spaces.toml").write_text("")
    code = main(
        ["--home", str(tmp_path), "--purchases", str(tmp_path / "shop"), "--no-vectors", "--out", str(tmp_path / "out"), *flags]
    )
    assert code == 0
    got = read_training_set(tmp_path / "out")
    made = read_purchases(tmp_path / "shop")
    said = capsys.readouterr().out
    assert all(f"{reason} {count:,}" in said for reason, count in made.left_out.items() if count)
    assert f"; purchases not labelled: first_days {got.card['input']['positives_left_out']['first_days']:,}" in said
    impressions = make_impressions(made, variant="all", seed=5, ratio=2, window=20 * DAY)
    left_out = got.card["input"]["positives_left_out"]
    assert left_out == impressions.left_out
    assert got.label.sum() + sum(left_out.values()) - left_out["negative_not_found"] == len(made)
    assert "negative_not_found" not in said
    expected = from_purchases(made, impressions, 4, None)
    assert len(got) == len(expected) > 100
    assert [got.item_ids[i] for i in got.item] == [expected.item_ids[i] for i in expected.item]
    assert np.array_equal(got.label, expected.label)
    asked = np.unique(expected.request)
    assert np.array_equal(got.known, expected.known[asked])
    for name, values in expected.scalars.items():
        assert np.array_equal(got.scalars[name], values), name
    assert np.array_equal(got.missing, expected.missing)
    assert np.array_equal(got.request_time, expected.request_time[asked])
    assert got.card["input"]["sampler"] == {"variant": "all", "negatives": 2, "window_days": 20, "seed": 5}
