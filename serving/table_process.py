"""The process that writes the vector tables of a site, and where they lie."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from moontide.errors import Transient
from moontide.live import LiveSpaces
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores.kv import wall_clock
from serving.shared_memory import shared_folder
from serving.site_files import SiteFiles
from serving.table_changes import ChangeSource
from serving.table_follow import TableKeeper
from serving.table_writer import TableWriter

_TURN_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


def tables_folder(settings: Settings) -> Path:
    """Where the tables of a site lie."""
    return shared_folder(settings, "tables")


def table_spaces(live: LiveSpaces) -> list[EmbeddingSpace]:
    """The spaces that get a table: each that a service reads."""
    return list(dict.fromkeys(service.space for service in live.services))


def keep_tables(files: SiteFiles) -> None:
    """Write the tables of a site's services until SIGTERM or SIGINT; run it in a process of its own, as its main thread.

    While another process of this host writes them, it waits to take over.

    Args:
        files: the site; its ``serving_table_*`` and ``kafka_*`` settings apply.

    Raises:
        Misconfigured: the folder cannot be written, the site cannot be opened, or unsafe settings of the change stream.
        SpaceMismatch: the store holds vectors of another encoder.
        Transient: the store does not answer at the start, or the file of a table was removed.
    """
    stop, settings = threading.Event(), files.settings
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        store, live = files.open()
        stack.callback(store.close)
        writers = [_taken(stack, settings, space, stop) for space in table_spaces(live)]
        tables = [writer for writer in writers if writer is not None]
        refresh = settings.serving_table_refresh_seconds
        TableKeeper(tables, store, lambda: ChangeSource(settings), wall_clock, refresh_seconds=refresh).run(stop)


def _taken(stack: ExitStack, settings: Settings, space: EmbeddingSpace, stop: threading.Event) -> TableWriter | None:
    """The writer of a space, once no other process has it; None where `stop` was set before."""
    said = False
    while not stop.is_set():
        try:
            writer = TableWriter(tables_folder(settings), space, settings.serving_table_rows, wall_clock)
        except Transient as error:
            if not said:
                _log.info("%s", error)
            said = True
            stop.wait(_TURN_SECONDS)
        else:
            stack.callback(writer.close)
            return writer
    return None
