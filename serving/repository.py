"""From a Feast feature repository to the store and services it names; Feast itself is not on the read path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from feast.errors import FeastError
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.repo_config import FeastConfigError, load_repo_config

from moontide.errors import Misconfigured
from moontide.live import LiveSpaces, load_spaces
from moontide.settings import Settings, load_settings
from moontide.stores.base import OnlineStore
from moontide.stores.feast_plugin import PackedFeastStore
from moontide.stores.feast_views import spaces_file


def open_repo(repo: Path) -> tuple[OnlineStore, LiveSpaces]:
    """The packed online store and the live spaces of the repository at `repo`.

    Raises:
        Misconfigured: as `repo_settings`, no live spaces, or a SimTier spec longer than the sequences kept.
    """
    config, plugin, settings = _read(repo)
    live = load_spaces(spaces_file(settings, repo))
    live.require_length(settings.sequence_length)
    return plugin.packed(config), live


def repo_settings(repo: Path) -> Settings:
    """What the online store of the repository at `repo` is opened with. Opens nothing.

    Raises:
        Misconfigured: no ``feature_store.yaml``, one Feast refuses, an online store that is not moontide's, or another one than
            ``MOONTIDE_ONLINE`` names.
    """
    return _read(repo)[2]


def _read(repo: Path) -> tuple[Any, PackedFeastStore, Settings]:
    file = repo / "feature_store.yaml"
    if not file.is_file():
        raise Misconfigured(f"feature repository: expected {file}, got no such file; pass the folder that holds it")
    try:
        config = load_repo_config(repo.resolve(), file.resolve())
        plugin = get_online_store_from_config(config.online_store)
    except (FeastError, FeastConfigError, yaml.YAMLError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise Misconfigured(f"{file}: expected a Feast configuration, got one that Feast refuses: {said}") from error
    if not isinstance(plugin, PackedFeastStore):
        raise Misconfigured(
            f"{file}: expected online_store type moontide.stores.feast_plugin.LmdbOnlineStore or RedisOnlineStore, "
            f"got {type(plugin).__name__}; ranking reads need packed records"
        )
    settings = plugin.settings(config)
    _require_agreement(file, plugin, settings)
    return config, plugin, settings


def _require_agreement(file: Path, plugin: PackedFeastStore, settings: Settings) -> None:
    """The jobs write where the environment says: reading elsewhere would serve zeros without a word."""
    site = load_settings()
    if "online" in site.model_fields_set and site.online != settings.online:
        raise Misconfigured(
            f"online store: expected one, got MOONTIDE_ONLINE={site.online} and {file} with {type(plugin).__name__} "
            f"({settings.online}); set MOONTIDE_ONLINE={settings.online}, or change online_store.type in that file"
        )
