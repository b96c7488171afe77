"""Build ``dist/moontide.zip``: the packages that executors import, for ``spark-submit --py-files``."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jobs._cli import Exit, run, say
from moontide.errors import Misconfigured

PACKAGES: Final = ("moontide", "encoders", "jobs", "serving")
_SUFFIXES: Final = frozenset({".py", ".typed", ".json", ".toml", ".css", ".html", ".lua"})
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    root = Path(__file__).resolve().parents[1]
    made = argparse.ArgumentParser(prog="python -m jobs.package", description=__doc__)
    made.add_argument(
        "--out", type=Path, default=root / "dist" / "moontide.zip", metavar="FILE", help="default dist/moontide.zip"
    )
    args = made.parse_args(argv)
    return run(lambda: _run(root, args.out))


def _run(root: Path, out: Path) -> Exit:
    say(f"{out}: {build(root, out):,} files")
    return Exit.DONE


def build(root: Path, out: Path) -> int:
    """Write the zip, whole or not at all; the same sources give the same bytes. Returns how many files are in it.

    Raises:
        Misconfigured: a package is missing below `root`.
    """
    missing = [name for name in PACKAGES if not (root / name / "__init__.py").is_file()]
    if missing:
        raise Misconfigured(f"{root}: expected the packages {list(PACKAGES)}, got no {missing}; run this from a checkout")
    files = sorted(f for name in PACKAGES for f in (root / name).rglob("*") if f.is_file() and f.suffix in _SUFFIXES)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(str(file.relative_to(root)), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    part.replace(out)
    return len(files)


if __name__ == "__main__":
    raise SystemExit(main())
