"""From a Feast feature repository to the store and services it names; Feast itself is not on the read path."""

from __future__ import annotations

from pathlib import Path

from feast.errors import FeastError
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.repo_config import load_repo_config

from moontide.errors import Misconfigured
from moontide.live import LiveSpaces, load_spaces
from moontide.stores.base import OnlineStore
from moontide.stores.feast_plugin import PackedFeastStore
from moontide.stores.feast_views import spaces_file


def open_repo(repo: Path) -> tuple[OnlineStore, LiveSpaces]:
    """The packed online store and the live spaces of the repository at `repo`.

    Raises:
        Misconfigured: no ``feature_store.yaml``, one Feast refuses, an online store that is not moontide's, no live spaces, or a
            SimTier spec longer than the sequences kept.
    """
    file = repo / "feature_store.yaml"
    if not file.is_file():
        raise Misconfigured(f"feature repository: expected {file}, got no such file; pass the folder that holds it")
    try:
        config = load_repo_config(repo.resolve(), file.resolve())
    except (FeastError, ValueError) as error:
        raise Misconfigured(f"{file}: Feast refuses it: {error}") from error
    plugin = get_online_store_from_config(config.online_store)
    if not isinstance(plugin, PackedFeastStore):
        raise Misconfigured(
            f"{file}: expected online_store type moontide.stores.feast_plugin.LmdbOnlineStore or RedisOnlineStore, "
            f"got {type(plugin).__name__}; ranking reads need packed records"
        )
    settings = plugin.settings(config)
    live = load_spaces(spaces_file(settings, repo))
    live.require_length(settings.sequence_length)
    return plugin.packed(config), live
