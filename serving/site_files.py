"""The site behind a feature repository, found once by Feast and opened as often as needed without it.

Importing Feast takes seconds and hundreds of megabytes, of which answering needs nothing.
"""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from moontide.errors import Misconfigured, MoontideError, Transient
from moontide.live import LiveSpaces, load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import OnlineStore
from serving.supervisor import start_apart


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
    """The site of the Feast repository at `repo`, read in a process that ends with this call, however it ends.

    Raises:
        Misconfigured: as `serving.repository.repo_settings`, or that process crashed.
        Transient: the system has no room for a process.
    """
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_tell, args=(repo, sending), name="site", daemon=True)
    try:
        start_apart(process, signal.SIGTERM)
        sending.close()
        found: SiteFiles | MoontideError = receiving.recv()
    except EOFError:
        raise Misconfigured(f"feature repository: expected one that Feast can read in {repo}, got a crash") from None
    except OSError as error:
        raise Transient(f"feature repository: expected room for a process that reads it, got {error.strerror}") from error
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        receiving.close()
    if isinstance(found, MoontideError):
        raise found
    return found


def _tell(repo: Path, sending: Connection) -> None:
    try:
        sending.send(_find(repo))
    except MoontideError as error:
        sending.send(error)


def _find(repo: Path) -> SiteFiles:
    from moontide.stores.feast_views import spaces_file
    from serving.repository import repo_settings

    settings = repo_settings(repo)
    return SiteFiles(settings, spaces_file(settings, repo).absolute())
