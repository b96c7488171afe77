"""Where Feast keeps its registry file: below the site's home, wherever the definitions were checked out."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from moontide.errors import Misconfigured, Transient
from moontide.settings import load_settings
from moontide.stores.offline_files import write_whole


class HomeRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """Feast's file registry, its relative path taken from ``MOONTIDE_HOME``. A reader sees a whole registry or none.

    .. code-block:: yaml

        registry:
            registry_store_type: moontide.stores.feast_registry.HomeRegistryStore
            path: registry.db
    """

    def __init__(self, registry_config: Any, repo_path: Path) -> None:  # noqa: ARG002
        super().__init__(registry_config, load_settings().home)

    def get_registry_proto(self) -> Registry:
        """The registry as it was last written.

        Raises:
            FileNotFoundError: none was written yet.
            Misconfigured: a file that is no registry, such as one that was cut short.
        """
        content = self._filepath.read_bytes()
        registry = Registry()
        try:
            registry.ParseFromString(content)
        except DecodeError as error:
            raise self._none_of_feast(content) from error
        # Every write sets it, and no bytes at all are a message of protobuf too.
        if not registry.version_id:
            raise self._none_of_feast(content)
        return registry

    def update_registry_proto(self, registry_proto: Registry) -> None:
        """Write the registry, whole or not at all, and durably; makes the home folder where there is none.

        Raises:
            Transient: it could not be written; the registry is what it was.
        """
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.GetCurrentTime()
        try:
            self._filepath.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._filepath.resolve(), registry_proto.SerializeToString())
        except OSError as error:
            raise Transient(
                f"{self._filepath}: expected to write Feast's registry, got: {error}; see to the disk, then run feast apply again"
            ) from error

    def _none_of_feast(self, content: bytes) -> Misconfigured:
        return Misconfigured(
            f"{self._filepath}: expected Feast's registry, got {len(content)} bytes that are none; remove it and run feast apply"
        )
