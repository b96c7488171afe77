"""Makes `training/data` from the public data sets: ``python training/build_data.py --source DIR``.

DIR holds `clothing`, `luma` and `online_retail` as published (titles, licences and addresses: `training/README.md`).
Pictures are shrunk to at most 152 pixels a side and stored as WebP: training sees 128 x 128.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Final

from PIL import Image

from encoders.sources import SOURCES

SIDE: Final = 152
QUALITY: Final = 66
LICENCES: Final = {"clothing": ("LICENSE",), "luma": ("LICENSE.txt", "LICENSE_AFL.txt", "PROVENANCE.md"), "online_retail": ()}


def build(source: Path, out: Path) -> None:
    """Write every data set; what is already there is replaced."""
    for name, licences in LICENCES.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "images").mkdir(parents=True)
        for licence in licences:
            shutil.copyfile(source / name / licence, folder / licence)
        (folder / "dataset.json").write_text(json.dumps(SOURCES[name], indent=2) + "\n")
        if name == "online_retail":
            (folder / "images").rmdir()
            for table in ("items.csv", "transactions.parquet"):
                shutil.copyfile(source / name / table, folder / table)
        else:
            _pictures(source / name, folder)


def _pictures(source: Path, folder: Path) -> None:
    with (source / "items.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for path in sorted((source / "images").iterdir()):
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            small.save(folder / "images" / f"{path.stem}.webp", "WEBP", quality=QUALITY, method=6)
    for row in rows:
        for column in ("main_image", "all_images"):
            if row.get(column):
                row[column] = row[column].replace(".jpg", ".webp")
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("data"))
    arguments = parser.parse_args()
    build(arguments.source, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
