"""A site for one shop's log of sales: ``python examples/retail_site.py --data DIR --artifact DIR --home HOME``.

Writes ``HOME/catalog.parquet`` (ids and titles of the products in ``items.csv``, known from the day before the first sale on) and
``HOME/spaces.toml`` with the artifact's space. Then ``jobs.backfill_embeddings --history`` encodes the catalog and
``jobs.training_set --purchases DIR`` joins it with the sales; ``make ranking`` does all of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from encoders.artifact import Artifact, load_artifact
from encoders.purchases import read_catalog, read_purchases
from moontide.errors import MoontideError
from moontide.pit.purchases import DAY

SPACES = """\
[[space]]
name = "{name}"
version = {version}
dim = {dim}
encoder_digest = "{digest}"
artifact = "{artifact}"

[[simtier]]
space = "{id}"
tiers = 40
length = 50
self_match = "drop_same_id"

[[service]]
name = "retail"
space = "{id}"
simtier = "{id}_n40_l50_drop"
item_fields = []
"""


def write_site(data: Path, artifact: Path, home: Path) -> int:
    """Write catalog and spaces; returns how many items the catalog has."""
    loaded = load_artifact(artifact)
    sold = read_purchases(data)
    # Without prices: the models of docs/results.md read titles and sales alone.
    catalog = read_catalog(data, known=int(sold.time[0]) - DAY).select(["item_id", "title", "source_version", "event_timestamp"])
    home.mkdir(parents=True, exist_ok=True)
    pq.write_table(catalog, home / "catalog.parquet")
    (home / "spaces.toml").write_text(_spaces(loaded, artifact), encoding="utf-8")
    return catalog.num_rows


def _spaces(loaded: Artifact, artifact: Path) -> str:
    space = loaded.manifest.space
    return SPACES.format(
        name=space.name, version=space.version, dim=space.dim, digest=space.encoder_digest, id=space.id,
        artifact=artifact.resolve(),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with items.csv and transactions.parquet")
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True, help="becomes MOONTIDE_HOME")
    arguments = parser.parse_args(argv)
    try:
        count = write_site(arguments.data, arguments.artifact, arguments.home)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{arguments.home}: {count} items")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
