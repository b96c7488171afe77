"""A Spark session that is quiet, bound to this machine where it is local, and fails with moontide's own errors."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.storagelevel import StorageLevel

from jobs._cli import one_line
from moontide import errors
from moontide.errors import Misconfigured, MoontideError, Transient
from moontide.settings import Settings

_LOG4J: Final = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
# A failed task is reported once, by the program itself.
logger.executor.name = org.apache.spark.executor.Executor
logger.executor.level = off
logger.tasks.name = org.apache.spark.scheduler.TaskSetManager
logger.tasks.level = off
"""
_FEW: Final = 20_000
#: ``some.module.ErrorClass: message`` in a worker's traceback.
_WORKER_ERROR: Final = re.compile(r"^(?:[\w.]+\.)?(\w+): (.+)$", re.MULTILINE)


def is_local(master: str) -> bool:
    """Whether executors are threads of this process. ``local-cluster[...]`` is not: its executors are processes of their own."""
    return master == "local" or master.startswith("local[")


def is_embedded_index(settings: Settings) -> bool:
    """Whether the index is a milvus-lite file rather than a server."""
    return "://" not in settings.milvus_uri


def require_reachable(settings: Settings, master: str, *, index: bool) -> None:
    """Embedded stores are files of one machine: refuse them beside executors that may run on others.

    Raises:
        Misconfigured: LMDB, or milvus-lite where `index`, with a master other than ``local[...]``.
    """
    if is_local(master):
        return
    embedded = [] if settings.online == "redis" else [f"online store {settings.online}"]
    if index and is_embedded_index(settings):
        embedded.append(f"index file {settings.milvus_uri}")
    if embedded:
        raise Misconfigured(
            f"Spark master {master}: expected stores every machine reaches, got {' and '.join(embedded)}; "
            "set MOONTIDE_ONLINE=redis and MOONTIDE_INDEX_URI to a Milvus server, or use --master 'local[*]'"
        )


@contextmanager
def spark_session(app: str, master: str | None, *, conf: dict[str, str] | None = None) -> Iterator[SparkSession]:
    """A session for one program; a running one of this process is used and left running.

    Args:
        app: name in Spark's own pages.
        master: None: what spark-submit was given, else ``local[*]``.
        conf: more Spark settings; for a running session only those of Spark SQL take effect.

    Raises:
        Transient, Misconfigured, Poison: whatever failed below it, on the driver or on an executor, as one line.
    """
    running = SparkSession.getActiveSession()
    if running is not None:
        for key, value in (conf or {}).items():
            running.conf.set(key, value)
        with spark_errors():
            yield running
        return
    scratch = Path(tempfile.mkdtemp(prefix="moontide-spark-"))
    try:
        with spark_errors():
            session = _start(app, master, conf or {}, scratch)
            try:
                yield session
            finally:
                session.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def effective_master(master: str | None) -> str:
    """The master a session of this process will have."""
    if master is not None:
        return master
    running = SparkSession.getActiveSession()
    if running is not None:
        return str(running.sparkContext.master)
    start_jvm()
    return str(SparkConf().get("spark.master", "local[*]"))


def start_jvm() -> None:
    """Attach to spark-submit's JVM, or start one; call it before any store is opened.

    Starting one forks this process, and a fork beside gRPC's threads (the index client's) can kill the child.
    """
    with tempfile.TemporaryDirectory(prefix="moontide-spark-") as scratch:
        SparkContext._ensure_initialized(conf=_quiet(Path(scratch)))


def _quiet(scratch: Path) -> SparkConf:
    """Settings that must be there when the JVM starts; under spark-submit the site's own hold instead."""
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J, encoding="utf-8")
    conf = SparkConf(loadDefaults=False)
    conf.set("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={log4j.as_uri()}")
    conf.set("spark.driver.memory", "1g")
    conf.set("spark.ui.showConsoleProgress", "false")
    return conf


def _start(app: str, master: str | None, conf: dict[str, str], scratch: Path) -> SparkSession:
    start_jvm()
    chosen = effective_master(master)
    settings = {
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if chosen.startswith("local"):
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.local.dir": str(scratch)}
    effective = SparkConf()
    if "log4j2" not in effective.get("spark.driver.extraJavaOptions", ""):
        settings["spark.log.level"] = "WARN"
    for key, value in {**settings, **conf}.items():
        effective.setIfMissing(key, value)
    session = SparkSession.builder.config(conf=effective.setMaster(chosen).setAppName(app)).getOrCreate()
    context = session.sparkContext
    # PySpark's own default is whatever python3 is first on the path, which rarely has our packages.
    if context.pythonExec == "python3":
        context.pythonExec = sys.executable
    return session


@contextmanager
def spark_errors() -> Iterator[None]:
    """Turn what Spark raises into moontide's errors; a moontide error raised on an executor comes back as itself."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise from_spark(str(error)) from None


def from_spark(text: str) -> MoontideError:
    """The moontide error inside the text of a Spark failure, else a `Transient` with its innermost message."""
    found = _WORKER_ERROR.findall(text)
    for name, message in reversed(found):
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, MoontideError):
            return kind(one_line(message))
    name, message = found[-1] if found else ("Spark", text[:300])
    return Transient(f"Spark failed: {name}: {one_line(message)[:300]}; see Spark's logs, then run again")


def arrow_ddl(schema: Any) -> str:
    """Spark's schema string for an Arrow schema of plain types (what `mapInArrow` is told it returns)."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in from_arrow_schema(schema).fields)


def drain(rows: DataFrame, count: int) -> Iterator[Any]:
    """`count` cached rows: in one Spark job where they are few, else a partition at a time."""
    yield from rows.collect() if count <= _FEW else rows.toLocalIterator()


def kept(rows: DataFrame) -> DataFrame:
    """`rows`, computed once and kept on disk, where they are read more than once."""
    return rows.persist(StorageLevel.DISK_ONLY)


def numbers(spark: SparkSession, count: int) -> DataFrame:
    """0 to `count`, over a few partitions per core."""
    return spark.range(0, count, 1, numPartitions=max(1, min(count, 8 * spark.sparkContext.defaultParallelism)))


def default_partitions(rows: int, cores: int) -> int:
    """Enough for progress to move and memory to stay small, few enough for the files to stay large."""
    return max(cores, min(200, -(-rows // 2_000)), -(-rows // 50_000))
