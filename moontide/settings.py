"""Everything a site changes, in one object: the only reader of the environment (``MOONTIDE_*``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from moontide.errors import Misconfigured

DEFAULT_HOME: Final = Path.home() / ".moontide"


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
