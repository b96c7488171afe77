"""Everything a site changes, in one object: the only reader of the environment (``MOONTIDE_*``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from moontide.errors import Misconfigured

DEFAULT_HOME: Final = Path.home() / ".moontide"
#: What Kafka's protocol has room for.
INT32: Final = (1 << 31) - 1


class Settings(BaseSettings):
    """Settings of one process, frozen after start; each field's environment variable is ``MOONTIDE_`` and its name.

    Attributes:
        home: folder of everything local: online store, index file, offline tables, registry.
        spaces_file: the live spaces (``spaces.toml``); default: ``<home>/spaces.toml``.
        online: which online store, ``lmdb`` (embedded), ``redis`` or ``memory`` (tests).
        lmdb_map_size: bytes the LMDB file may grow to; the same in every process.
        lmdb_max_readers: reader slots of the LMDB file; the same in every process.
        lmdb_sync: fsync each commit. Off, a power cut may lose the last writes, kill -9 does not.
        redis_url: ``redis://`` or ``rediss://`` URL, `redis_cluster` for a cluster.
        index_uri: Milvus: a path ending in ``.db`` for milvus-lite, or a server URI; default ``<home>/index.db``.
        offline: root of the Parquet tables, a folder or a URI (``s3://bucket/path``); default ``<home>/offline``.
        sequence_length: behaviours kept per user (L); the same in every process, fixed by the first write of a sequence table.
        image_schemes: object-store schemes images and referenced content may be read from.
        image_root: the only folder below which the consumer reads local paths that events name; none by default.
        encoder_precision: what encoders compute in: ``fp32``, ``int8``, ``bf16``, or ``auto``, the fastest by a measurement at
            start-up; the same in every process that writes one space.
        kafka_servers: bootstrap servers, ``host:port`` separated by commas.
        kafka_security_protocol, kafka_sasl_mechanism, kafka_username, kafka_password, kafka_ca_file, kafka_cert_file,
            kafka_key_file: passed to the Kafka clients.
        kafka_plaintext_hosts: hosts off loopback that may be spoken to without TLS.
        stream_group: consumer group.
        stream_instance: Kafka's ``group.instance.id`` (static membership); empty for none.
        stream_host, stream_port: where ``/healthz``, ``/readyz`` and ``/metrics`` listen; port 0 takes a free one.
        stream_checkpoint_seconds, stream_checkpoint_events: a checkpoint is due after either.
        stream_max_uncommitted: events after which the consumer pauses until a checkpoint is done.
        stream_poll_records: most records of one poll.
        stream_encode_batch: items per call of the encoder, which is what becomes readable at once.
        stream_encode_threads: threads of the encoder's child process; the other cores are for everything else.
        stream_encode_seconds, stream_encode_bytes: time per call and address space of the encoder's child process.
        stream_session_ms, stream_poll_interval_ms: Kafka's ``session.timeout.ms`` and ``max.poll.interval.ms``.
        stream_stall_seconds: the consumer restarts itself after this long without progress while there is something to do.
        stream_event_bytes: largest event.
        stream_served_actions: actions that say an item was shown: they enter no sequence, but the user's candidate set.
        stream_candidates: most items of a user's candidate set; 0 computes no tiers ahead.
        stream_audit_file: file to which each verdict is appended at a checkpoint; none by default.
        stream_restarts: how often the consumer has restarted itself; set by its watchdog.
        serving_host, serving_port: where the HTTP server listens; port 0 takes a free one.
        serving_flight_port: where Arrow Flight listens; none: not started.
        serving_workers: processes that answer, each with stores of its own.
        serving_threads, serving_queue: reads at once in one worker, and how many may wait; more are turned away.
        serving_seconds: time of one request, from its whole body to its answer.
        serving_body_seconds: time a client may take to send its headers, and again its body.
        serving_drain_seconds: time that running requests have to end after SIGTERM.
        serving_max_candidates: most candidates of one request.
        serving_max_body_bytes: largest body of one request.
        serving_max_connections: connections of one worker; more are turned away. Times the largest body, it bounds its memory.
        serving_tokens: bearer tokens, separated by commas or white space; any of them will do.
        serving_token_file: a file of them, one a line; read again when it changes.
        serving_plaintext: listen off loopback without TLS, because something in front of the server does it.
        serving_tls_cert, serving_tls_key: PEM files of the server's certificate chain and its key.
        serving_table: ``on`` reads vectors from tables in shared memory that one writer process keeps fresh.
        serving_table_rows: most rows of one table.
        serving_table_refresh_seconds: between two looks at the online store for what no stream tells; longer where it is large.
        serving_log_folder: folder or URI of the request log; none by default.
        serving_log_rate: share of the requests it takes.
        serving_catalog: Parquet file with titles and pictures of items, for the console; none by default.
    """

    model_config = SettingsConfigDict(env_prefix="MOONTIDE_", frozen=True, extra="forbid")

    home: Path = DEFAULT_HOME
    spaces_file: Path | None = None
    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = "moontide"
    online: Literal["lmdb", "redis", "memory"] = "lmdb"
    lmdb_map_size: Annotated[int, Field(ge=1 << 20)] = 16 << 30
    lmdb_max_readers: Annotated[int, Field(ge=1024)] = 1024
    lmdb_sync: bool = True
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_cluster: bool = False
    index_uri: str = ""
    index_token: SecretStr = SecretStr("")
    offline: str | None = None
    sequence_length: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    image_schemes: tuple[str, ...] = ()
    image_root: Path | None = None
    encoder_precision: Literal["auto", "fp32", "int8", "bf16"] = "fp32"

    kafka_servers: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_ca_file: Path | None = None
    kafka_cert_file: Path | None = None
    kafka_key_file: Path | None = None
    kafka_plaintext_hosts: tuple[str, ...] = ()

    stream_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,120}$")] = "moontide"
    stream_instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,120}$")] = ""
    stream_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    stream_port: Annotated[int, Field(ge=0, le=65_535)] = 9464
    stream_checkpoint_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    stream_checkpoint_events: Annotated[int, Field(ge=1)] = 10_000
    stream_max_uncommitted: Annotated[int, Field(ge=1)] = 50_000
    stream_poll_records: Annotated[int, Field(ge=1, le=10_000)] = 500
    stream_encode_batch: Annotated[int, Field(ge=1, le=1_024)] = 32
    stream_encode_threads: Annotated[int, Field(ge=1)] = 1
    stream_encode_seconds: Annotated[float, Field(gt=0, le=3_600)] = 30.0
    stream_encode_bytes: Annotated[int, Field(ge=256 << 20, le=1 << 46)] = 4 << 30
    stream_session_ms: Annotated[int, Field(ge=1_000, le=INT32)] = 45_000
    stream_poll_interval_ms: Annotated[int, Field(ge=1_000, le=INT32)] = 300_000
    stream_stall_seconds: Annotated[float, Field(ge=1)] = 120.0
    stream_event_bytes: Annotated[int, Field(ge=1_024, le=1 << 30)] = 8 << 20
    stream_served_actions: tuple[str, ...] = ("impression",)
    stream_candidates: Annotated[int, Field(ge=0, le=10_000)] = 200
    stream_audit_file: Path | None = None
    stream_restarts: Annotated[int, Field(ge=0)] = 0

    serving_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    serving_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    serving_flight_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    serving_workers: Annotated[int, Field(ge=1, le=256)] = 1
    serving_threads: Annotated[int, Field(ge=1, le=64)] = 1
    serving_queue: Annotated[int, Field(ge=0, le=10_000)] = 64
    serving_seconds: Annotated[float, Field(gt=0, le=600)] = 2.0
    serving_body_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    serving_drain_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    serving_max_candidates: Annotated[int, Field(ge=1, le=1_000_000)] = 5_000
    serving_max_body_bytes: Annotated[int, Field(ge=1_024, le=1 << 30)] = 1 << 20
    serving_max_connections: Annotated[int, Field(ge=1, le=100_000)] = 512
    serving_tokens: SecretStr = SecretStr("")
    serving_token_file: Path | None = None
    serving_plaintext: bool = False
    serving_tls_cert: Path | None = None
    serving_tls_key: Path | None = None
    serving_table: Literal["off", "on"] = "off"
    serving_table_rows: Annotated[int, Field(ge=1)] = 1_000_000
    serving_table_refresh_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    serving_log_folder: str | None = None
    serving_log_rate: Annotated[float, Field(ge=0, le=1)] = 0.001
    serving_catalog: Path | None = None

    @property
    def spaces_path(self) -> Path:
        """Where the live spaces are declared."""
        return self.spaces_file or self.home / "spaces.toml"

    @property
    def offline_root(self) -> str:
        """Root of the offline Parquet tables: a folder or a URI."""
        return self.offline or str(self.home / "offline")

    @property
    def lmdb_path(self) -> Path:
        """Folder of the LMDB environment."""
        return self.home / "online"

    @property
    def milvus_uri(self) -> str:
        """Milvus URI, or the path of the milvus-lite file."""
        return self.index_uri or str(self.home / "index.db")


def load_settings(**overrides: Any) -> Settings:
    """`Settings` of this process: `overrides` by field name, then the environment, then defaults.

    Raises:
        Misconfigured: a value does not fit; one line that names the variable and never shows a value, which may be a secret.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name, problem = ".".join(str(part) for part in first["loc"][:1]), first["msg"]
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name, problem = found[1] if found else "*", """expected JSON, as in '["s3", "gs"]', got something else"""
    raise Misconfigured(f"MOONTIDE_{name.upper()}: {problem}; see docs/reference/settings.md")
