"""A part of the example data, encoded and served with a console: for its test and its picture in the docs."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from encoders import Encoder, ImageLoader, Item
from moontide import schemas, views
from moontide.live import LiveSpaces, load_spaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import OnlineStore
from tests.serving_site import ServingSite

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "data"
USER = "u:12362"
#: Of whom no item has a vector but those that others bought too.
OTHER_USER = "u:12347"
EVIL = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script> Hero Hoodie & 'quotes'"
EVIL_ROW = {"item_id": "evil-1", "title": EVIL, "description": None, "category": "<b onclick='window.pwned=1'>bold</b>"}
_BATCH = 32


class ConsoleSite(ServingSite):
    """A server on a part of the example data: what `USER` bought last, hoodies, and an item with a hostile title.

    Args:
        folder: gets everything.
        token: the server's one token.
        prefixes: ids of further items begin with one of these.
        hostile: one item has a title that would do harm as markup.
    """

    def __init__(self, folder: Path, *, token: str, prefixes: Sequence[str] = ("lu:MH0",), hostile: bool = True) -> None:
        spaces = (ROOT / "feature_repo" / "spaces.toml").read_text(encoding="utf-8")
        spaces = re.sub(r'^artifact = "', f'artifact = "{ROOT / "feature_repo"}/', spaces, flags=re.MULTILINE)
        self.catalog = folder / "data" / "catalog.parquet"
        super().__init__(folder, spaces, settings={"serving_catalog": self.catalog, "serving_tokens": token})
        self.live: LiveSpaces = load_spaces(self.repo / "spaces.toml")
        self.store: OnlineStore = online_store(Settings(home=self.home))
        self._fill(prefixes, [EVIL_ROW] if hostile else [])

    @property
    def address(self) -> str:
        """Of the server, once it is started."""
        return f"http://127.0.0.1:{self.port}"

    def _fill(self, prefixes: Sequence[str], more: Sequence[dict[str, Any]]) -> None:
        histories = {user: _history(user) for user in (USER, OTHER_USER)}
        wanted = {item for item, _, _ in histories[USER]}
        rows = pq.read_table(DATA / "catalog.parquet").to_pylist()
        chosen = [row for row in rows if row["item_id"] in wanted or row["item_id"].startswith(tuple(prefixes))]
        chosen += [{**dict.fromkeys(rows[0]), **row} for row in more]
        self._write_catalog(chosen)
        self._write_vectors(chosen)
        for user, behaviours in histories.items():
            self._write_sequence(user, behaviours)

    def _write_catalog(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["image"]:
                (self.catalog.parent / row["image"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(DATA / row["image"], self.catalog.parent / row["image"])
        self.catalog.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(DATA / "catalog.parquet")), self.catalog)

    def _write_vectors(self, rows: list[dict[str, Any]]) -> None:
        live = self.live.spaces[0]
        assert live.artifact is not None
        encoder = Encoder.load(live.artifact, images=ImageLoader(self.catalog.parent))
        now = time.time_ns() // 1_000
        for start in range(0, len(rows), _BATCH):
            items = [_item(row) for row in rows[start : start + _BATCH]]
            times = {"event_timestamp": now, "encoded_at": now, "content_known_at": now}
            self.store.write_rows(
                views.embedding_view(live.space), embedding_rows(encoder.encode(items), source_version=1, **times)
            )

    def _write_sequence(self, user: str, behaviours: list[tuple[str, str, int]]) -> None:
        items, actions, times = (list(column) for column in zip(*behaviours, strict=True))
        stamp = pa.array([times[-1]], schemas.TIMESTAMP)
        columns = {
            "user_id": [user], "event_timestamp": stamp, "created": stamp, "item_ids": [items], "actions": [actions],
            "times": [times], "sequence_version": [0],
        }  # fmt: skip
        table = pa.table([columns[f.name] for f in schemas.USER_SEQUENCE], schema=schemas.USER_SEQUENCE)
        self.store.write_rows(views.user_sequence(), table)


def _item(row: dict[str, Any]) -> Item:
    if row["item_id"] == EVIL_ROW["item_id"]:
        # Near those whose neighbours are looked at.
        return Item(row["item_id"], "Hero Hoodie")
    return Item(row["item_id"], row["title"], row["description"], row["attributes"], row["image"])


def _history(user: str) -> list[tuple[str, str, int]]:
    """(item, action, time) of the last 60 behaviours of a user in the example data."""
    rows = pq.read_table(DATA / "behaviours.parquet", filters=pc.field("user_id") == user).sort_by("event_timestamp")
    columns = (rows["item_id"], rows["action"], rows["event_timestamp"].cast(pa.int64()))
    return list(zip(*(column.to_pylist() for column in columns), strict=True))[-60:]
