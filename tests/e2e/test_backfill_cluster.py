"""spark-submit of the zip on a cluster of executor processes that know nothing of the driver's home or settings."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest

from jobs import package
from moontide import views
from moontide.live import load_spaces
from moontide.order import WriteOrder
from moontide.settings import Settings
from moontide.stores import online_store, vector_index

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
ROWS = 400
SPACES = """
[[space]]
name = "moon"
version = 2
dim = 256
encoder_digest = "{digest}"
artifact = "artifact"

[[simtier]]
space = "moon_v2"
length = 5
"""


@pytest.fixture
def milvus(tmp_path):
    """URI of a milvus-lite server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(tmp_path / "served.db")]
    server = subprocess.Popen(
        [sys.executable, "-m", "milvus_lite", "server", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


def submit(program, flags, *, env, cwd, archive):
    """Executors get wrong settings and no home: what they use must have come with the job."""
    lies = {"MOONTIDE_HOME": "/nonexistent/home", "MOONTIDE_REDIS_URL": "redis://127.0.0.1:1/0", "MOONTIDE_ONLINE": "lmdb"}
    conf = [part for name, value in lies.items() for part in ("--conf", f"spark.executorEnv.{name}={value}")]
    conf += ["--conf", "spark.ui.enabled=false", "--conf", "spark.driver.host=127.0.0.1"]
    home = Path(pyspark.__file__).parent
    command = [str(home / "bin" / "spark-submit"), "--master", "local-cluster[2,1,1024]", "--py-files", str(archive), *conf]
    environment = {**os.environ, **env, "SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable}
    return subprocess.run(
        [*command, str(ROOT / "jobs" / f"{program}.py"), *flags],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=400,
    )


def test_the_zip_on_a_cluster_fills_redis_and_a_milvus_server(tmp_path, redis_url, milvus):
    archive = tmp_path / "moontide.zip"
    package.build(ROOT, archive)
    driver, shared, elsewhere = (tmp_path / name for name in ("driver", "shared", "elsewhere"))
    for folder in (driver, shared, elsewhere):
        folder.mkdir()
    # Only the driver can see the artifact: it travels with the job.
    shutil.copytree(ROOT / "artifacts" / "moon_v2", driver / "artifact")
    digest = load_digest(driver / "artifact")
    (driver / "spaces.toml").write_text(SPACES.format(digest=digest))
    env = {
        "MOONTIDE_HOME": str(driver),
        "MOONTIDE_PROJECT": "cluster",
        "MOONTIDE_ONLINE": "redis",
        "MOONTIDE_REDIS_URL": redis_url,
        "MOONTIDE_INDEX_URI": milvus,
        "MOONTIDE_OFFLINE": str(shared / "offline"),
    }
    titles = [f"red wool scarf number {n}" for n in range(ROWS)]
    catalog = pa.table(
        {"item_id": [f"i{n:04d}" for n in range(ROWS)] + [None], "title": [*titles, "x"], "price": [2.0] * (ROWS + 1)}
    )
    pq.write_table(catalog, shared / "catalog.parquet", row_group_size=100)
    flags = [
        "--catalog",
        str(shared / "catalog.parquet"),
        "--space",
        "moon_v2",
        "--snapshot-time",
        "2026-01-01T00:00:00Z",
        "--partitions",
        "4",
    ]

    done = submit("backfill_embeddings", flags, env=env, cwd=elsewhere, archive=archive)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"encode {ROWS}" in done.stdout
    assert "Traceback" not in done.stderr
    settings = Settings(
        home=driver, project="cluster", online="redis", redis_url=redis_url, index_uri=milvus, offline=str(shared / "offline")
    )
    space = load_spaces(settings.spaces_path).space("moon_v2")
    ids = [f"i{n:04d}" for n in range(ROWS)]
    with closing(online_store(settings)) as store, closing(vector_index(settings)) as index:
        assert store.read_embeddings(space, ids).present.all()
        assert store.read_columns(views.item_features(), ids, ["price"])["price"].to_pylist() == [2.0] * ROWS
        versions = [None if t is None else WriteOrder.unpack(t).source_version for t in index.tokens(space, ids)]
        assert set(versions) == {1_767_225_600_000_000}

    pairs = pa.table({"user_id": [f"u{n % 7}" for n in range(50)], "item_id": ids[:50]})
    pq.write_table(pairs, shared / "pairs.parquet")
    spec = "moon_v2_n20_l5_drop"
    tiers = submit(
        "simtier_backfill",
        ["--spec", spec, "--pairs", str(shared / "pairs.parquet"), "--partitions", "2"],
        env=env,
        cwd=elsewhere,
        archive=archive,
    )
    assert tiers.returncode == 0, tiers.stdout + tiers.stderr
    assert "50 pairs stored" in tiers.stdout
    assert list(elsewhere.iterdir()) == []


def test_an_embedded_store_with_a_cluster_is_one_error_before_spark_does_anything(tmp_path):
    archive = tmp_path / "moontide.zip"
    package.build(ROOT, archive)
    (tmp_path / "spaces.toml").write_text('[[space]]\nname = "stub"\nversion = 1\ndim = 8\n')
    pq.write_table(pa.table({"item_id": ["a"], "title": ["t"]}), tmp_path / "c.parquet")
    before = sorted(tmp_path.iterdir())
    flags = [
        "--catalog",
        str(tmp_path / "c.parquet"),
        "--space",
        "stub_v1",
        "--encoder",
        "stub:8",
        "--snapshot-time",
        "2026-01-01T00:00:00Z",
    ]
    done = submit("backfill_embeddings", flags, env={"MOONTIDE_HOME": str(tmp_path)}, cwd=tmp_path, archive=archive)
    assert done.returncode == 1
    # spark-submit sends the driver's stderr to its own stdout.
    assert "error: Spark master local-cluster[2,1,1024]: expected stores every machine reaches" in done.stdout
    assert sorted(tmp_path.iterdir()) == before


def load_digest(folder):
    from encoders.artifact import load_artifact

    return load_artifact(folder).manifest.space.encoder_digest
