"""A text-only MOON artifact in half a minute: ``python -m encoders.lexical --data DIR --cutoff DAY --out OUT``.

The text tower of the recipe with two blocks of dims: the leading directions of the catalog's weighted terms, and a map from
terms to what is bought by one customer (`encoders.training.purchase_factors`). Both are linear in terms, so the artifact is a
plain text tower. For catalogs without pictures, and for features of ranking models rather than for search. Memory: 20 bytes for
each pair of items.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from encoders.arguments import day, family, make_place, not_negative, positive
from encoders.artifact import LAYOUT, Manifest, Preprocessing, require_replaceable, save_artifact
from encoders.data import DataSet, read_data_set
from encoders.export import OPSET, TextPart, export_parts
from encoders.hf_model import MeanFusion
from encoders.purchases import USER_COLUMNS, read_purchases
from encoders.sample_inputs import ITEMS
from encoders.tables import read_table
from encoders.terms import WeightConfig
from encoders.tokenizer import Tokenizer, TokenizerConfig
from encoders.towers import TextTower
from encoders.training.frequencies import SOURCE as FREQUENCIES
from encoders.training.frequencies import build_term_table
from encoders.training.purchase_factors import Fit, bytes_needed, fit_map, purchase_factors, term_directions
from encoders.transactions import Baskets
from moontide.errors import Misconfigured, MoontideError
from moontide.spaces import EmbeddingSpace

BUCKETS: Final = 16_384
DIM: Final = 256
#: Dims of the block that learnt from sales, and its share beside the terms' block, chosen on validation days of a CTR model.
BOUGHT_DIM: Final = 128
BOUGHT_SHARE: Final = 0.7


def machine_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(data: DataSet) -> None:
    """Refuse a catalog whose tables of items x items this machine cannot hold.

    Raises:
        Misconfigured: it needs more memory than there is.
    """
    count, memory = len(data.examples), machine_memory()
    needed = bytes_needed(count, BUCKETS)
    if needed > memory:
        raise Misconfigured(
            f"{data.folder}: expected a catalog whose tables of items x items fit in {memory / 1e9:.1f} GB, got {count:,} items, "
            f"which need {needed / 1e9:.1f} GB; leave out items that are hardly sold, or take a machine with more memory"
        )


def build_tower(
    data: DataSet, together: Baskets | None, tokenizer: Tokenizer, *, share: float, seed: int
) -> tuple[TextTower, Fit]:
    """The tower, and how its second block was fitted: on `together`, what was bought by one.

    Raises:
        Misconfigured: no log of sales, or one too short.
    """
    if together is None:
        raise Misconfigured(f"{data.folder}: expected transactions.parquet, got none; the map is fitted on sales")
    items = [example.item for example in data.examples]
    tokens = tokenizer(items)
    factors, counts = purchase_factors(together, len(items), BOUGHT_DIM, seed=seed)
    fit = fit_map(tokens, factors, counts, BUCKETS, seed=seed)
    terms = term_directions(tokens, BUCKETS, DIM - BOUGHT_DIM, seed=seed)
    tower = TextTower(DIM, BUCKETS)
    with torch.no_grad():
        table = np.concatenate([np.sqrt(1 - share) * terms, np.sqrt(share) * fit.table], axis=1)
        tower.table.copy_(torch.from_numpy(table.astype(np.float32)))
    return tower.eval(), fit


def bought_by_one(data: DataSet, cutoff: str) -> Baskets | None:
    """What each customer bought before the day, each item once; the baskets where the log knows no customers.

    By customer, because the next order is what a ranking model is asked about, not the rest of this one.
    """
    path = data.folder / "transactions.parquet"
    if not path.is_file() or not set(USER_COLUMNS) & set(read_table(path).columns):
        return data.baskets
    sales = read_purchases(data.folder)
    rows = {example.item.item_id: row for row, example in enumerate(data.examples)}
    row_of = np.array([rows.get(item, -1) for item in sales.item_ids], np.int64)[sales.item]
    used = (sales.time < np.datetime64(cutoff, "us").astype(np.int64)) & (row_of >= 0)
    pairs = np.unique(sales.user[used] * len(rows) + row_of[used])
    sizes = np.unique(pairs // max(len(rows), 1), return_counts=True)[1]
    return Baskets(pairs % max(len(rows), 1), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


def save(tower: TextTower, tokenizer: Tokenizer, out: Path, space: EmbeddingSpace, provenance: dict[str, Any]) -> EmbeddingSpace:
    """Export, compare with torch, and write the artifact."""
    texts = tokenizer(ITEMS).inputs(np.arange(len(ITEMS)))
    random = np.random.default_rng(0)
    towers = random.standard_normal((2, 6, DIM)).astype(np.float32)
    present = np.array([[1, 0], [0, 1], [1, 1]] * 2, np.float32)
    made = export_parts(
        {
            LAYOUT.text_model: (TextPart(tower), texts),
            LAYOUT.fusion_model: (MeanFusion(), {"image": towers[0], "text": towers[1], "present": present}),
        }
    )
    files = dict(made.models)
    if tokenizer.terms is not None:
        files[LAYOUT.terms] = tokenizer.terms.to_bytes()
    return save_artifact(
        out, files, tokenizer=tokenizer.config, preprocessing=Preprocessing(),
        manifest=Manifest(space, OPSET, training_cutoff=provenance["training_cutoff"], provenance=provenance),
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> tuple[EmbeddingSpace, Fit]:
    """Read, fit, export.

    Raises:
        Misconfigured: the data cannot be used or needs too much memory, no such space can be, or `out` holds something else or
            cannot be written.
    """
    space = EmbeddingSpace(arguments.space, arguments.version, DIM)
    require_replaceable(arguments.out)
    make_place(f"--out {arguments.out}", arguments.out.absolute().parent)
    data = read_data_set(arguments.data, cutoff=arguments.cutoff)
    require_memory(data)
    tokenizer = Tokenizer(TokenizerConfig(buckets=BUCKETS, weights=WeightConfig()), build_term_table())
    # One thread: sums in another order are another artifact, and so another space.
    with threadpool_limits(1):
        baskets = bought_by_one(data, arguments.cutoff)
        tower, fit = build_tower(data, baskets, tokenizer, share=arguments.share, seed=arguments.seed)
    provenance = {
        "trained_here": True, "recipe": "encoders.lexical", "seed": arguments.seed, "share": arguments.share,
        "training_cutoff": arguments.cutoff, "data": [data.source], "sources": [FREQUENCIES],
        "items": fit.items, "penalty": fit.penalty, "held_out_cosine": fit.held_out_cosine,
    }  # fmt: skip
    return save(tower, tokenizer, arguments.out, space, provenance), fit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.lexical", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with items.csv, transactions.parquet and dataset.json")
    parser.add_argument(
        "--cutoff", type=day, required=True, metavar="DAY", help="no sale of this day or later, nor items first sold then"
    )
    parser.add_argument("--space", type=family, default="moontext", help="name of the space")
    parser.add_argument("--version", type=positive, default=1)
    parser.add_argument("--share", type=_share, default=BOUGHT_SHARE, help=f"of what is bought together, default {BOUGHT_SHARE}")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--out", type=Path, required=True, help="artifact directory; an older artifact there is replaced")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        space, fit = run(arguments)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(  # noqa: T201
        f"{arguments.out}: space {space.id}, {space.dim} dims, {space.encoder_digest}; map fitted on {fit.items} items, penalty "
        f"{fit.penalty}, cosine with the factors of items held out {fit.held_out_cosine:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
