"""Training sets by Spark and in one process are the same; bad inputs end in the right rows or in a clear error."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import training_set
from jobs._rejects import RejectFile
from jobs._spark import spark_session
from jobs._training_inputs import from_files
from jobs._training_set import TrainingJob
from jobs._training_sources import gather
from jobs._training_spark import BuildUnits
from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.errors import Misconfigured
from moontide.pit import layout
from moontide.pit.training_set import read_training_set
from moontide.records import embedding_rows
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SPACE = EmbeddingSpace("moon", 1, 4)
START = int(datetime(2021, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
HOUR = 3_600_000_000
SPACES = """
[[space]]
name = "moon"
version = 1
dim = 4
[[space]]
name = "other"
version = 1
dim = 4
"""


@pytest.fixture(scope="module")
def spark():
    with spark_session("tests", "local[2]") as session:
        yield session


def times(hours, kind=schemas.TIMESTAMP):
    return pa.array([START + int(h * HOUR) for h in hours], pa.int64()).cast(schemas.TIMESTAMP).cast(kind)


def write_labels(path, rows, *, kind=schemas.TIMESTAMP, row_group_size=100):
    """Rows (user, item, hour, label)."""
    users, items, hours, labels = list(zip(*rows, strict=True)) or [()] * 4
    columns = [pa.array(users, pa.string()), pa.array(items, pa.string()), times(hours, kind), pa.array(labels, pa.float32())]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table(columns, names=["user_id", "item_id", "event_timestamp", "label"]), path, row_group_size=row_group_size
    )


def write_behaviours(path, rows):
    """Rows (user, item, hour)."""
    users, items, hours = list(zip(*rows, strict=True)) or [()] * 3
    columns = [pa.array(users, pa.string()), pa.array(items, pa.string()), pa.array(["buy"] * len(rows)), times(hours)]
    pq.write_table(pa.table(columns, schema=schemas.BEHAVIOURS), path)


def log_rows(space, items, hour, *, version=1, known=None, deleted=False):
    rng = np.random.default_rng(version)
    vectors = Embeddings.from_float(space, rng.normal(size=(len(items), 4)), ids=items)
    gone = Embeddings.absent(space, len(items), ids=items)
    return embedding_rows(
        gone if deleted else vectors, source_version=version, event_timestamp=START + hour * HOUR,
        encoded_at=START + 1_000 * HOUR, content_known_at=START + (hour if known is None else known) * HOUR,
        deleted=np.full(len(items), deleted),
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    """A site whose log has changed, late, and deleted vectors."""
    made = tmp_path / "home"
    made.mkdir()
    (made / "spaces.toml").write_text(SPACES)
    tables, view = OfflineTables(made / "offline"), embedding_view(SPACE)
    items = [f"i{n}" for n in range(12)]
    tables.append(view, log_rows(SPACE, items[:10], 0), writer="one")
    tables.append(view, log_rows(SPACE, items[:4], 20, version=2), writer="two")
    tables.append(view, log_rows(SPACE, items[2:6], 25, version=3, known=60), writer="three")
    tables.append(view, log_rows(SPACE, items[8:9], 40, version=4, deleted=True), writer="four")
    return made


def make(home, folder, labels, behaviours, *flags):
    command = ["--home", str(home), "--impressions", str(labels), "--space", "moon_v1", "--length", "6", "--tiers", "10"]
    command += ["--behaviours", str(behaviours)] if behaviours else []
    return training_set.main([*command, "--rejects", str(folder) + ".rejects.parquet", "--out", str(folder), *flags])


def tables_of(folder):
    """Everything in a training set but the time it was made at."""
    found = {name: pq.read_table(folder / f"{name}.parquet") for name in ("items", "vectors")}
    for name in (layout.REQUESTS, layout.IMPRESSIONS):
        found[name] = pa.concat_tables([pq.read_table(p) for p in layout.part_files(folder / name)]).combine_chunks()
    card = json.loads((folder / layout.CARD).read_text())
    return found, {key: value for key, value in card.items() if key != "made_at"}


def hostile(folder):
    """Labels in four files, one without rows; a user with 30,000 behaviours in no order, one with none, ties, and bad rows."""
    rng = np.random.default_rng(5)
    users, items = ["whale", "whale", "u1", "u2", "nobody"], [f"i{n}" for n in range(14)]
    rows = []
    for _ in range(150):
        rows += [(str(rng.choice(users)), str(rng.choice(items)), int(rng.integers(0, 90)), 1.0)] * int(rng.integers(1, 3))
    bad = [("it's", "i1", 5, 1.0), (None, "i1", 5, 1.0), ("u1", "i2", 5, float("nan")), ("u1", "i2", 10_000_000, 0.0)]
    for at in (3, 60, 61, 200):
        rows.insert(at, bad.pop())
    for number, (start, stop) in enumerate([(0, 70), (70, 70), (70, 75), (75, len(rows))]):
        write_labels(folder / "labels" / f"{number}.parquet", rows[start:stop], row_group_size=(7, 9, 2, 40)[number])
    acts = [("whale", str(i), int(h)) for i, h in zip(rng.choice(items, 30_000), rng.integers(0, 100, 30_000), strict=True)]
    acts += [("u1", "i3", 50), ("u1", "i3", 50), ("u1", "i4", 50), ("u2", "i13", 0), ("other", "i1", 3)]
    write_behaviours(folder / "behaviours.parquet", acts)
    return folder / "labels", folder / "behaviours.parquet", len(rows)


def test_spark_gives_what_one_process_gives(spark, home, tmp_path):
    labels, behaviours, count = hostile(tmp_path)
    assert make(home, tmp_path / "single", labels, behaviours, "--engine", "single") == 3
    expected, card = tables_of(tmp_path / "single")
    rejects = pq.read_table(f"{tmp_path / 'single'}.rejects.parquet").drop_columns(["rejected_at"])
    assert (expected["impressions"].num_rows, rejects.num_rows) == (count - 4, 4)
    for partitions in ("2", "1000"):
        out = tmp_path / f"spark{partitions}"
        assert make(home, out, labels, behaviours, "--engine", "spark", "--partitions", partitions) == 3
        found, said = tables_of(out)
        assert said == card
        for name, table in expected.items():
            assert found[name].equals(table), name
            assert found[name].schema.equals(table.schema, check_metadata=True), name
        assert pq.read_table(f"{out}.rejects.parquet").drop_columns(["rejected_at"]).equals(rejects)
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "single").iterdir())
    assert max(read_training_set(tmp_path / "single").known) > 1_000


def test_labels_without_a_row_and_partitions_without_a_unit(spark, home, tmp_path):
    write_labels(tmp_path / "labels.parquet", [])
    assert make(home, tmp_path / "out", tmp_path / "labels.parquet", None, "--engine", "spark") == 0
    assert len(read_training_set(tmp_path / "out")) == 0


class Told:
    """Stands for Spark's accumulator."""

    value = 0

    def add(self, more):
        self.value += more


def test_a_task_may_run_twice_and_one_without_units_writes_nothing(home, tmp_path):
    write_labels(tmp_path / "labels.parquet", [("u1", f"i{n}", n, 1.0) for n in range(6)], row_group_size=2)
    inputs = from_files(str(tmp_path / "labels.parquet"), None, (), assume_utc=False)
    job = TrainingJob(inputs.labels, (), tmp_path / "sources", tmp_path / "out", START * 2)
    rejects = RejectFile(tmp_path / "rejects.parquet", at_us=START)
    gather(job, inputs, rejects, OfflineTables(home / "offline"), spec=None, length=6)
    build = BuildUnits(job, Told())
    assert list(build(iter([]))) == [] and not job.out.exists()
    units = pa.RecordBatch.from_arrays([pa.array([1, 2])], names=["id"])
    seen = []
    for _ in range(2):
        assert [b.to_pylist()[-1]["labels"] for b in build(iter([units]))] == [4]
        seen.append([(p.name, p.read_bytes()) for p in (job.out / layout.IMPRESSIONS).iterdir()])
    assert seen[0] == seen[1] and [name for name, _ in seen[0]] == ["part-00000001-00000.parquet"]


def test_an_executor_that_does_not_see_the_sources_says_so(home, tmp_path):
    write_labels(tmp_path / "labels.parquet", [("u1", "i1", 1, 1.0)])
    inputs = from_files(str(tmp_path / "labels.parquet"), None, (), assume_utc=False)
    job = TrainingJob(inputs.labels, (), tmp_path / "elsewhere", tmp_path / "out", START * 2)
    with pytest.raises(Misconfigured, match="every machine"):
        list(BuildUnits(job, Told())(iter([pa.RecordBatch.from_arrays([pa.array([0])], names=["id"])])))


LABELS = [("u1", "i1", 2, 1.0), ("u1", "i2", 5, 0.0)]


def test_times_without_a_zone_are_refused_by_the_program(home, tmp_path):
    write_labels(tmp_path / "labels.parquet", LABELS, kind=pa.timestamp("us"))
    command = [sys.executable, "-m", "jobs.training_set", "--home", str(home), "--impressions", str(tmp_path / "labels.parquet")]
    done = subprocess.run(
        [*command, "--space", "moon_v1", "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "--assume-utc" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_times_with_and_without_a_zone_in_one_input(home, tmp_path, capfd):
    write_labels(tmp_path / "labels" / "0.parquet", LABELS)
    write_labels(tmp_path / "labels" / "1.parquet", LABELS, kind=pa.timestamp("us"))
    assert make(home, tmp_path / "out", tmp_path / "labels", None, "--engine", "single") == 1
    assert "1 files have one" in capfd.readouterr().err
    assert make(home, tmp_path / "out", tmp_path / "labels", None, "--engine", "single", "--assume-utc") == 0
    assert read_training_set(tmp_path / "out").request_time.tolist() == [START + h * HOUR for h in (2, 5, 2, 5)]


def test_behaviours_without_a_zone(home, tmp_path, capfd):
    write_labels(tmp_path / "labels.parquet", LABELS)
    write_behaviours(tmp_path / "b.parquet", [("u1", "i1", 1)])
    naive = pq.read_table(tmp_path / "b.parquet")
    at = naive.schema.get_field_index("event_timestamp")
    pq.write_table(
        naive.set_column(at, "event_timestamp", naive["event_timestamp"].cast(pa.timestamp("ms"))), tmp_path / "b.parquet"
    )
    assert make(home, tmp_path / "out", tmp_path / "labels.parquet", tmp_path / "b.parquet") == 1
    assert "behaviours" in capfd.readouterr().err


def test_zones_and_units_that_differ_are_the_same_instants(home, tmp_path):
    for number, kind in enumerate([schemas.TIMESTAMP, pa.timestamp("ns", "Asia/Kolkata"), pa.timestamp("s", "America/New_York")]):
        write_labels(tmp_path / "labels" / f"{number}.parquet", LABELS, kind=kind)
    write_behaviours(tmp_path / "b.parquet", [("u1", "i3", 1), ("u1", "i4", 4)])
    assert make(home, tmp_path / "out", tmp_path / "labels", tmp_path / "b.parquet", "--engine", "single") == 0
    got = read_training_set(tmp_path / "out")
    assert got.request_time.tolist() == [START + h * HOUR for h in (2, 5)] * 3 and got.known.tolist() == [1, 2] * 3


def test_a_time_outside_the_calendar_is_a_rejected_row(home, tmp_path):
    write_labels(tmp_path / "labels.parquet", LABELS)
    table = pq.read_table(tmp_path / "labels.parquet")
    beyond = pa.array([2**60, START // 1_000]).cast(pa.timestamp("ms", "UTC"))
    at = table.schema.get_field_index("event_timestamp")
    pq.write_table(table.set_column(at, "event_timestamp", beyond), tmp_path / "labels.parquet")
    assert make(home, tmp_path / "out", tmp_path / "labels.parquet", None, "--engine", "single") == 3
    rejected = pq.read_table(f"{tmp_path / 'out'}.rejects.parquet").to_pylist()
    assert [(r["row"], r["reason"]) for r in rejected] == [(0, "event_time_out_of_range")]
    assert read_training_set(tmp_path / "out").label_row.tolist() == [1]


@pytest.mark.parametrize(
    ("space", "said"), [("moon_v7", "expected one of ['moon_v1', 'other_v1']"), ("other_v1", "jobs.backfill_embeddings")]
)
def test_a_space_that_does_not_exist_or_has_no_vector(home, tmp_path, capfd, space, said):
    write_labels(tmp_path / "labels.parquet", LABELS)
    assert make(home, tmp_path / "out", tmp_path / "labels.parquet", None, "--engine", "single", "--space", space) == 1
    assert said in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_vectors_of_two_spaces_in_one_log(home, tmp_path, capfd):
    write_labels(tmp_path / "labels.parquet", LABELS)
    other = EmbeddingSpace("other", 1, 4)
    stray = OfflineTables(home / "offline").path(embedding_view(SPACE)) + "/date=2021-03-01/part-stray.parquet"
    pq.write_table(log_rows(other, ["i1"], 0, version=9), stray)
    assert make(home, tmp_path / "out", tmp_path / "labels.parquet", None, "--engine", "single") == 1
    told = capfd.readouterr().err
    assert "moon_v1" in told and "other_v1" in told and not (tmp_path / "out").exists()


def test_labels_before_any_behaviour_and_at_the_very_time_of_one(home, tmp_path):
    write_labels(tmp_path / "labels.parquet", [("u1", "i1", -1, 1.0), ("u1", "i1", 20, 1.0), ("u1", "i1", 21, 1.0)])
    write_behaviours(tmp_path / "b.parquet", [("u1", "i2", 20), ("u1", "i2", 20), ("u1", "i3", 20)])
    assert make(home, tmp_path / "out", tmp_path / "labels.parquet", tmp_path / "b.parquet", "--engine", "single") == 0
    got = read_training_set(tmp_path / "out")
    assert got.known.tolist() == [0, 0, 2] and got.missing.tolist() == [0, 0, 0] and got.counts.sum(axis=1).tolist() == [0, 0, 2]
    versions = [None if row < 0 else got.vectors.codes[row].tolist() for row in got.vector]
    changed = log_rows(SPACE, [f"i{n}" for n in range(4)], 20, version=2)
    # A vector that becomes valid at the time of the label is valid; before the first there is none.
    assert versions[0] is None and versions[1] == versions[2] == np.frombuffer(changed["codes"][1].as_py(), np.int8).tolist()
