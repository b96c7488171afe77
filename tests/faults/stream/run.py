"""Runs the fault scenarios and writes the report: ``python tests/faults/stream/run.py --seeds 3 --out docs/fault-report.md``."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from tests.faults.serving.report import kept  # noqa: E402
from tests.faults.stream import report  # noqa: E402
from tests.faults.stream.catalogue import SCENARIOS  # noqa: E402
from tests.faults.stream.figures import Figures  # noqa: E402
from tests.faults.stream.harness import DIM  # noqa: E402
from tests.faults.stream.scenarios import Brokers  # noqa: E402
from tests.kafka_broker import LIBS  # noqa: E402


def main(argv=None):
    args = _parser().parse_args(argv)
    chosen = [SCENARIOS[name] for name in args.only] if args.only else list(SCENARIOS.values())
    if args.merge and not args.only:
        chosen = []
    folder = Path(tempfile.mkdtemp(prefix="moontide-faults-"))
    brokers, done = Brokers(folder), []
    try:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for scenario in chosen:
                figures = brokers.run(scenario, seed, args.size)
                done.append(figures)
                if args.results:
                    with Path(args.results).open("a") as file:
                        file.write(json.dumps(asdict(figures)) + "\n")
                print(report.line(figures), flush=True)
                if figures.findings:
                    print(figures.explained, flush=True)
    finally:
        brokers.close()
    for name in args.merge:
        done += [Figures(**json.loads(text)) for text in Path(name).read_text().splitlines()]
    if args.out:
        page = Path(args.out)
        others = kept(page.read_text()) if page.exists() else ""
        page.write_text(report.document(done, SCENARIOS, broker_version(), DIM) + others)
    print(f"folder of failed runs: {folder}")
    return 1 if any(f.findings for f in done) else 0


def broker_version():
    """Of the jar that runs."""
    return next(LIBS.glob("kafka_2*.jar")).stem.rpartition("-")[2]


def _parser():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each scenario (default 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="seed of the first run (default 1)")
    parser.add_argument("--size", type=float, default=1.0, help="factor of the number of events (default 1)")
    parser.add_argument(
        "--only", action="append", choices=sorted(SCENARIOS), metavar="NAME", help="only this scenario; may be repeated"
    )
    parser.add_argument("--results", metavar="FILE", help="file that each run's figures are appended to (JSON lines)")
    parser.add_argument(
        "--merge",
        action="append",
        default=[],
        metavar="FILE",
        help="report these results; runs nothing without --only; may be repeated",
    )
    parser.add_argument("--out", help="file for the report (Markdown)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
