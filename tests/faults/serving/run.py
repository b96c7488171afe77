"""Runs the serving faults and writes their section: ``python -m tests.faults.serving.run --out docs/fault-report.md``."""

import argparse
import tempfile
from pathlib import Path

from tests.faults.serving import report
from tests.faults.serving.catalogue import SCENARIOS, run
from tests.faults.serving.sites import Sites


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="of each scenario (default 1)")
    parser.add_argument("--size", type=float, default=1.0, help="factor of everything (default 1, about ten minutes)")
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), metavar="NAME", help="may be repeated")
    parser.add_argument("--out", help="report whose serving section is replaced (Markdown)")
    args = parser.parse_args(argv)
    folder, done = Path(tempfile.mkdtemp(prefix="moontide-serving-faults-")), []
    for turn in range(args.runs):
        sites = Sites(folder / str(turn))
        try:
            for name in args.only or SCENARIOS:
                figures = run(SCENARIOS[name], sites, args.size)
                done.append(figures)
                print(report.line(figures), *figures.findings[:5], sep="\n    ", flush=True)
        finally:
            sites.close()
    text = report.section(done, SCENARIOS)
    print(text)
    if args.out:
        page = Path(args.out)
        page.write_text(report.put(page.read_text(), text))
    return 1 if any(f.findings for f in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
