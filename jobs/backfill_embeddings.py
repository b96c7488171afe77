"""Catalog Parquet -> embeddings and item features: offline tables, then online store, then index.

Run it again whenever it stopped: what is done is found out by comparing the catalog with each store.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from jobs._backfill import Backfill, Choices
from jobs._cli import Exit, add_rejects_flag, add_spark_flags, moment, now_us, parser, positive, run, site

_STUB: Final = "stub:"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, live = site(args.home)
    choices = Choices(
        catalog=args.catalog,
        master=args.master,
        batch_size=args.batch_size,
        partitions=args.partitions,
        snapshot_us=args.snapshot_time,
        rejects=args.rejects,
        image_root=args.image_root,
        stub_dim=args.encoder,
        index=not args.skip_index,
        history=args.history,
        dry_run=args.dry_run,
    )
    return Backfill(settings, live.live(args.space), choices, now_us=now_us()).run()


def _parser() -> argparse.ArgumentParser:
    made = parser("backfill_embeddings", __doc__.split("\n", 1)[0])
    made.add_argument("--catalog", required=True, metavar="PATH", help="Parquet file, or folder of them, or a URI (s3://, gs://)")
    made.add_argument("--space", required=True, metavar="ID", help="the space to fill, e.g. moon_v2 (see spaces.toml)")
    made.add_argument(
        "--snapshot-time",
        type=moment,
        metavar="TIME",
        help="when the catalog was true, ISO 8601 with a zone: version and time of rows of a catalog without such columns",
    )
    made.add_argument("--image-root", metavar="DIR", help="folder of image paths, on every executor; default: the catalog's")
    add_rejects_flag(made)
    made.add_argument("--batch-size", type=positive, default=256, metavar="N", help="items per encoder call (default 256)")
    made.add_argument(
        "--encoder",
        type=_stub,
        metavar="stub:DIM",
        help="load tests: hash vectors instead of the space's artifact; the space must name no encoder_digest",
    )
    made.add_argument(
        "--history", action="store_true", help="the catalog is an export of the past: known at its event times, not now"
    )
    made.add_argument("--skip-index", action="store_true", help="leave the index to a running indexer (items stay marked)")
    add_spark_flags(made)
    return made


def _stub(text: str) -> int:
    if not text.startswith(_STUB) or not text.removeprefix(_STUB).isdigit():
        raise argparse.ArgumentTypeError(f"expected stub:<dim>, e.g. stub:128, got {text!r}")
    return int(text.removeprefix(_STUB))


if __name__ == "__main__":
    raise SystemExit(main())
