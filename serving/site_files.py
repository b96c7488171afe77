"""The site behind a feature repository, found once by Feast and opened as often as needed without it.

Importing Feast takes seconds and hundreds of megabytes, of which answering needs nothing.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from moontide.errors import Misconfigured
from moontide.live import LiveSpaces, load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import OnlineStore


@dataclass(frozen=True)
class SiteFiles:
    """What a process needs to open a site; can be sent to one.

    Attributes:
        settings: of the environment and of ``feature_store.yaml``.
        spaces: its ``spaces.toml``.
    """

    settings: Settings
    spaces: Path

    def live(self) -> LiveSpaces:
        """The spaces and services.

        Raises:
            Misconfigured: no live spaces, or a SimTier spec longer than the sequences kept.
        """
        live = load_spaces(self.spaces)
        live.require_length(self.settings.sequence_length)
        return live

    def open(self) -> tuple[OnlineStore, LiveSpaces]:
        """The online store, and `live`.

        Raises:
            Misconfigured: as `live`, or an online store that cannot be opened.
            Transient: it does not answer.
        """
        live = self.live()
        return online_store(self.settings), live


def find_site(repo: Path) -> SiteFiles:
    """The site of the Feast repository at `repo`, read in a process that ends with it.

    Raises:
        Misconfigured: as `serving.repository.repo_settings`.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        try:
            return apart.submit(_find, repo).result()
        except BrokenProcessPool:
            raise Misconfigured(f"feature repository: expected one that Feast can read in {repo}, got a crash") from None


def _find(repo: Path) -> SiteFiles:
    from moontide.stores.feast_views import spaces_file
    from serving.repository import repo_settings

    settings = repo_settings(repo)
    return SiteFiles(settings, spaces_file(settings, repo).absolute())
