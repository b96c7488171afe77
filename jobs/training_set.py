"""Labels -> a training set: the last L behaviours before each, the vectors valid then, SimTier counts, scalars, a data card."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jobs._cli import (
    MOST_DAYS,
    Exit,
    add_rejects_flag,
    add_spark_flags,
    between,
    complain,
    moment,
    now_us,
    parser,
    positive,
    run,
    say,
    site,
)
from jobs._output import OutputFolder
from jobs._progress import Progress
from jobs._rejects import RejectFile
from jobs._training_finish import LabelRejects, finish
from jobs._training_inputs import Inputs, Sampler, count_rejects, encoder_cutoff, from_files, from_purchases
from jobs._training_set import Sink, TrainingJob, build_unit
from jobs._training_sources import Spec, gather, require_sources, why_no_vector
from moontide.live import LiveSpaces
from moontide.pit import layout
from moontide.pit.build import Sources
from moontide.pit.card import shown
from moontide.pit.fuxictr import Flat, write_fuxictr
from moontide.pit.impressions import RATIO, VARIANTS
from moontide.simtier import SimTierSpec
from moontide.stores.offline import OfflineTables

LENGTH: Final = 50
TIERS: Final = 20
#: From so many labels on `--engine auto` takes Spark.
MANY: Final = 20_000_000
_MOST_NEGATIVES: Final = 10_000
_MOST_SEED: Final = (1 << 63) - 1
_WORK: Final = "work"
_SAMPLER: Final = {"variant": VARIANTS[0], "negatives": RATIO, "window_days": 30, "seed": 0}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    made = _parser()
    args = made.parse_args(argv)
    if args.spec is not None and (args.length is not None or args.tiers is not None):
        made.error("expected --spec, or --space with --length and --tiers: a spec names both")
    if args.impressions is not None and any(v is not None for v in (args.variant, args.negatives, args.window_days, args.seed)):
        made.error("expected --variant, --negatives, --window-days and --seed with --purchases only")
    if args.purchases is not None and args.labels:
        made.error("expected --labels with --impressions only")
    if args.engine == "single" and args.master is not None:
        made.error("expected --master with --engine spark or auto")
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, live = site(args.home)
    spec = _spec(args, live)
    length = (spec[0].length if spec else args.length) or LENGTH
    flat = None if args.fuxictr is None else _flat(args.fuxictr, length)
    out = OutputFolder(args.out, layout.CARD)
    out.require_ours(overwrite=args.overwrite)
    tables = OfflineTables(settings.offline_root)
    require_sources(tables, None if spec is None else spec[1], tuple(args.labels))
    rejects = RejectFile(args.rejects or settings.home / "rejects" / "training_set.parquet", at_us=now_us())
    if args.dry_run:
        return _dry_run(args, spec)
    out.open()
    try:
        inputs = _inputs(args, out.part / _WORK)
        job = TrainingJob(inputs.labels, tuple(args.labels), out.part / _WORK / "sources", out.part, now_us())
        sources = gather(job, inputs, rejects, tables, spec=spec, length=length)
        encoder = _encoder(spec, live)
        counted = _join(job, sources, rejects, args, encoder[1])
        if sources.vectors is not None and counted["coverage"]["impressions"] == 0:
            complain(f"warning: no label has a vector: {why_no_vector(job, sources.items, sources.vectors[0])}")
        said = None if spec is None else _said(encoder[0], counted)
        _write_card(job, inputs, sources, {**counted, "encoder": said}, rejects)
        shutil.rmtree(out.part / _WORK)
        if flat is not None:
            write_fuxictr(out.part, flat, will_be=out.path)
        out.replace()
    finally:
        rejected = rejects.close()
        shutil.rmtree(out.part, ignore_errors=True)
    _report(counted, inputs, rejected, out.path, vectors=spec is not None)
    return Exit.REJECTED if rejected else Exit.DONE


def _spec(args: argparse.Namespace, live: LiveSpaces) -> Spec | None:
    if args.no_vectors:
        return None
    if args.spec is not None:
        spec = live.simtier(args.spec)
        return spec, live.space(spec.space_id)
    space = live.space(args.space)
    return SimTierSpec(space.id, tiers=args.tiers or TIERS, length=args.length or LENGTH), space


def _inputs(args: argparse.Namespace, work: Path) -> Inputs:
    if args.purchases is None:
        return from_files(args.impressions, args.behaviours, args.labels, assume_utc=args.assume_utc)
    chosen = {name: getattr(args, name) for name in ("variant", "negatives", "window_days", "seed")}
    sampler = Sampler(**{name: _SAMPLER[name] if value is None else value for name, value in chosen.items()})
    return from_purchases(args.purchases, args.behaviours, work, sampler, assume_utc=args.assume_utc)


def _join(
    job: TrainingJob, sources: Sources, rejects: RejectFile, args: argparse.Namespace, cutoff: int | None
) -> dict[str, Any]:
    """Write the parts, by Spark or in this process, then check and count them."""
    turned_away = LabelRejects(job, rejects)
    on_spark = args.engine == "spark" or (args.engine == "auto" and (args.master is not None or job.table.rows >= MANY))
    if on_spark:
        from jobs._training_spark import build_on_spark

        build_on_spark(job, turned_away.add, master=args.master, partitions=args.partitions)
    else:
        done = 0
        with Progress("labels", job.table.rows, lambda: done), Sink(job, sources, "part") as sink:
            for number in range(len(job.table.units)):
                for made in build_unit(job, sources, number):
                    sink.add(made)
                    turned_away.add(made.rejects)
                    done += made.labels
    return finish(job, sources, turned_away, cutoff)


def _encoder(spec: Spec | None, live: LiveSpaces) -> tuple[str | None, int | None]:
    return (None, None) if spec is None else encoder_cutoff(live.live(spec[1].id).artifact)


def _said(cutoff: str | None, counted: dict[str, Any]) -> dict[str, Any]:
    """What the card says of the encoder's training."""
    before, rows = counted["impressions_before_encoder_cutoff"], counted["rows"]
    warning = None
    if before:
        warning = (
            f"{before:,} of {rows:,} labels lie before {cutoff}, up to when the encoder was trained: its vectors may hold what "
            "happened after those labels; judge models on later ones"
        )
        complain(f"warning: {warning}")
    elif cutoff is None:
        warning = "the encoder does not state up to when it was trained"
    return {"training_cutoff": cutoff, "impressions_before_cutoff": before, "warning": warning}


def _write_card(job: TrainingJob, inputs: Inputs, sources: Sources, counted: dict[str, Any], rejects: RejectFile) -> None:
    del counted["impressions_before_encoder_cutoff"]
    log, spec = sources.vectors or (None, None)
    columns = sources.columns(job.labels)
    said = {
        "made_at": shown(job.now_us),
        **counted,
        "space": None if log is None else layout.space_record(log.space),
        "spec": None if spec is None else {"spec_id": spec.spec_id, **asdict(spec)},
        "length": sources.length,
        "scalars": list(columns.scalars),
        "input": {"labels": job.table.rows, **inputs.facts},
        "rejected": dict(sorted(rejects.reasons.items())),
    }
    layout.write_card(job.out, said)


def _dry_run(args: argparse.Namespace, spec: Spec | None) -> Exit:
    with tempfile.TemporaryDirectory() as folder:
        inputs = _inputs(args, Path(folder))
        labels, behaviours = count_rejects(inputs, now_us())
        what = "no vectors" if spec is None else spec[0].spec_id
        good = inputs.labels.rows - labels
        turned_away = f"{labels + behaviours:,} input rows would be rejected{_left_out(inputs.facts)}"
        say(f"training set: would join {good:,} labels with {what}; {turned_away}")
        return Exit.REJECTED if labels + behaviours else Exit.DONE


def _report(counted: dict[str, Any], inputs: Inputs, rejected: int, path: Path, *, vectors: bool) -> None:
    coverage = counted["coverage"]["impressions"]
    known = "" if coverage is None else f", {100 * coverage:.1f} % with a vector"
    known = known if vectors else ", no vectors asked for"
    said = f"{counted['rows']:,} labels of {counted['requests']:,} requests{known}, {rejected:,} input rows rejected"
    say(f"training set: {said}{_left_out(inputs.facts)}: {path}")


def _left_out(facts: Mapping[str, Any]) -> str:
    """Sales not read, purchases that became no label, negatives that were not drawn; nothing where there are none."""
    purchases = dict(facts.get("positives_left_out", {}))
    negatives = {"not found": purchases.pop("negative_not_found", 0)}
    said = ""
    sales = facts.get("sales_left_out", {})
    for what, kind in (("sales not read", sales), ("purchases not labelled", purchases), ("negatives", negatives)):
        counts = ", ".join(f"{reason} {count:,}" for reason, count in kind.items() if count)
        said += f"; {what}: {counts}" if counts else ""
    return said


def _flat(days: Sequence[int], length: int) -> Flat:
    return Flat(days[0], days[1], length=length)


def _parser() -> argparse.ArgumentParser:
    made = parser("training_set", __doc__.split("\n", 1)[0])
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--impressions", metavar="PATH", help="Parquet of user_id, item_id, event_timestamp, label [, request_id]"
    )
    source.add_argument("--purchases", type=Path, metavar="DIR", help="items.csv and transactions.parquet; negatives are drawn")
    made.add_argument("--labels", nargs="+", default=[], metavar="COLUMN", help="further label columns of --impressions")
    made.add_argument("--behaviours", metavar="PATH", help="Parquet of behaviours (default with --purchases: the purchases)")
    vectors = made.add_mutually_exclusive_group(required=True)
    vectors.add_argument("--space", metavar="ID", help="the space of the vectors, e.g. moon_v2 (see spaces.toml)")
    vectors.add_argument("--spec", metavar="ID", help="a SimTier spec of spaces.toml: names space, tiers, length, self-match")
    vectors.add_argument("--no-vectors", action="store_true", help="ids and scalars only")
    made.add_argument("--length", type=positive, metavar="L", help=f"behaviours of a history (default {LENGTH})")
    made.add_argument("--tiers", type=positive, metavar="N", help=f"tiers, even (default {TIERS})")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the training set; replaced whole")
    made.add_argument("--overwrite", action="store_true", help="replace --out even if it is a folder with other content")
    made.add_argument("--variant", choices=VARIANTS, help="of --purchases: new, items new to the user (default), or all")
    made.add_argument(
        "--negatives", type=between(0, _MOST_NEGATIVES), metavar="N", help=f"of --purchases: drawn per positive (default {RATIO})"
    )
    made.add_argument(
        "--window-days", type=between(1, MOST_DAYS), metavar="D", help="of --purchases: sales the draw follows (default 30)"
    )
    made.add_argument("--seed", type=between(0, _MOST_SEED), metavar="N", help="of --purchases: of the draw (default 0)")
    made.add_argument("--assume-utc", action="store_true", help="times without a zone are UTC")
    made.add_argument("--fuxictr", nargs=2, type=moment, metavar=("VALID", "TEST"),
                      help="write fuxictr/ too; validation and test begin at these times (ISO 8601 with a zone)")  # fmt: skip
    made.add_argument(
        "--engine", choices=("auto", "single", "spark"), default="auto", help="auto: Spark with --master, or from 20 M labels on"
    )
    add_rejects_flag(made)
    add_spark_flags(made)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
