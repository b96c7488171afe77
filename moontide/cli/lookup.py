"""``moontide similar`` and ``moontide features``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moontide import names
from moontide.cli.console import say, spark_bars, table
from moontide.errors import Misconfigured
from moontide.live import load_spaces
from moontide.neighbours import neighbours, served_space
from moontide.settings import Settings
from moontide.views import item_features


def similar(settings: Settings, item_id: str, *, k: int, space_id: str | None, catalog: Path | None) -> int:
    """Print the k nearest neighbours of an item that has a vector.

    Raises:
        Poison: the item has no vector.
        Misconfigured, Transient: a store is not there.
    """
    from moontide.stores import online_store, vector_index

    names.require_ids([item_id])
    live = load_spaces(settings.spaces_path)
    require_written(settings)
    titles = catalog_titles(catalog) if catalog else {}
    store = online_store(settings)
    try:
        index = vector_index(settings)
        try:
            space = served_space(live, index, space_id)
            hits = neighbours(store, index, space, item_id, k)
        finally:
            index.close()
        shown = store.read_columns(item_features(), [i for i, _ in hits], ["category", "price"]).to_pylist()
    finally:
        store.close()
    say(f"{item_id}  {titles.get(item_id, '')}".rstrip() + f"   (space {space.id})")
    rows = [
        [f"{score:.3f}", found, row["category"] or "", _money(row["price"]), titles.get(found, "")]
        for (found, score), row in zip(hits, shown, strict=True)
    ]
    for line in table(rows, head=["cosine", "item", "category", "price", "title" if titles else ""], right=(0, 3)):
        say("  " + line)
    return 0


def require_written(settings: Settings) -> None:
    """Refuse to read an embedded online store that is not there: opening it would make an empty one.

    Raises:
        Misconfigured: nothing was ever written below this home.
    """
    if settings.online == "lmdb" and not (settings.lmdb_path / "data.mdb").exists():
        raise Misconfigured(
            f"online store: expected one in {settings.lmdb_path}, got nothing; run a backfill, or set MOONTIDE_HOME to its home"
        )


def features(repo: Path, user_id: str, item_ids: Sequence[str], *, service: str, as_json: bool) -> int:
    """Print what `RankingClient.features` gives: a table with the tiers drawn, or JSON lines.

    Raises:
        Misconfigured: no such repository or service, or nothing was ever written.
    """
    from serving import RankingClient
    from serving.repository import repo_settings

    require_written(repo_settings(repo))
    with RankingClient.from_repo(repo) as client:
        rows = client.features(user_id, item_ids, service=service)
    if as_json:
        for row in rows.to_pylist():
            say(json.dumps(row, default=str))
        return 0
    metadata = {k.decode(): v.decode() for k, v in (rows.schema.metadata or {}).items()}
    say(f"user {user_id}   service {service}   space {metadata.get('space')}   tiers {metadata.get('simtier')}")
    for line in feature_lines(rows):
        say("  " + line)
    return 0


def feature_lines(rows: pa.Table) -> list[str]:
    """A table of candidates: vector there or not, tiers from unlike to like, behaviours without a vector, scalars."""
    fixed = [names.ITEM_ID, "embedding_present", "counts", "missing"]
    scalars = [name for name in rows.column_names if name not in {*fixed, "embedding"}]
    body = [
        [
            row["item_id"],
            "yes" if row["embedding_present"] else "no",
            f"|{spark_bars(row['counts'])}|",
            str(sum(row["counts"])),
            str(row["missing"]),
            *("" if row[s] is None else str(round(row[s], 2) if isinstance(row[s], float) else row[s]) for s in scalars),
        ]
        for row in rows.drop_columns(["embedding"]).to_pylist()
    ]
    return table(body, head=["item", "vector", "tiers -1 .. 1", "counted", "missing", *scalars], right=(3, 4))


def catalog_titles(path: Path) -> dict[str, str]:
    """Item id -> title of the rows that have one.

    Raises:
        Misconfigured: no such file, no Parquet, or no such columns.
    """
    try:
        rows = pq.read_table(path, columns=["item_id", "title"])
    except (OSError, pa.ArrowException) as error:
        raise Misconfigured(f"{path}: expected a catalog in Parquet with item_id and title, got: {error}") from error
    return {i: t for i, t in zip(rows["item_id"].to_pylist(), rows["title"].to_pylist(), strict=True) if t}


def _money(price: float | None) -> str:
    return "" if price is None else f"{price:.2f}"
