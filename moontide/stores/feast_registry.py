"""Where Feast keeps its registry file: below the site's home, wherever the definitions were checked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore

from moontide.settings import load_settings


class HomeRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """Feast's file registry, its relative path taken from ``MOONTIDE_HOME``.

    .. code-block:: yaml

        registry:
            registry_store_type: moontide.stores.feast_registry.HomeRegistryStore
            path: registry.db
    """

    def __init__(self, registry_config: Any, repo_path: Path) -> None:  # noqa: ARG002
        super().__init__(registry_config, load_settings().home)

    def update_registry_proto(self, registry_proto: Any) -> None:
        """Write the registry; makes the home folder where there is none."""
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        super().update_registry_proto(registry_proto)
