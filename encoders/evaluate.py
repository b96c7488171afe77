"""Measure an artifact on any folder: ``python -m encoders.evaluate ARTIFACT --data DIR ...``; no torch is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encoders.artifact import Manifest
from encoders.data import DataSet
from encoders.evaluation.measured import MeasuredData, Say, measure
from encoders.evaluation.measures import CONFIDENCE, DRAWS, SEED, run
from encoders.evaluation.methods import baselines, own_methods
from encoders.evaluation.output import as_json, as_table, write_json
from encoders.evaluation.tasks import Task
from encoders.evaluation.tasks_build import SPLITS, Built, build, build_folder
from encoders.evaluation.untrained import UNTRAINED, with_untrained
from encoders.evaluation.vectors import ByCodes, Vectors
from encoders.runtime import Encoder
from moontide.errors import MoontideError


def evaluate(
    encoder: Encoder, data_sets: Sequence[DataSet], *, split: str = "test", queries: int | None = None, values: bool = False
) -> dict[str, dict[str, float]]:
    """Means by ``<data set>/<task>``, and its number of queries: what training shows and a manifest holds.

    `queries` caps each task; `values` adds classification and attribute prediction, which encode the train split too.
    """
    tasks = [task for data in data_sets for task in build(data, split=split, queries=queries, values=values).tasks]
    return evaluate_tasks(encoder, tasks)


def evaluate_tasks(encoder: Encoder, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """As `evaluate`, of tasks that were built before: whoever measures again and again checks the pictures once."""
    method = ByCodes("codes", Vectors(encoder))
    return {task.name: {**run(task, method), "queries": float(len(task.queries))} for task in tasks}


def split_for(folder: Path, asked: str, manifest: Manifest) -> str:
    """`asked`; for ``auto`` ``test`` where the encoder was trained on a data set of this name, else ``all``."""
    if asked != "auto":
        return asked
    trained = {str(entry.get("name")) for entry in manifest.provenance.get("data", ())}
    name = folder.absolute().name if folder.is_dir() else folder.absolute().parent.name
    return "test" if name in trained else "all"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.evaluate", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders as in docs/reference/evaluation.md")
    parser.add_argument("--split", choices=SPLITS, default="auto", help="auto: test for what it was trained on, else all")
    parser.add_argument("--json", type=Path, help="write the measurement to this file")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write report.html into this folder")
    parser.add_argument("--queries", type=_positive, help="at most so many queries per task, drawn under a fixed seed")
    parser.add_argument("--dims", type=_numbers, default=(), help="prefixes to measure too, e.g. 32,64,128")
    parser.add_argument("--baselines", default="none", help="none, all, or names divided by commas; NAME=DIR is another artifact")
    parser.add_argument("--threads", type=_positive, default=None)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(",") if part)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments, lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(arguments: argparse.Namespace, say: Say) -> int:
    encoder = Encoder.load(arguments.artifact, threads=arguments.threads)
    vectors = Vectors(encoder)
    own = own_methods(vectors, arguments.dims)
    methods = [*own, *baselines(arguments.baselines, threads=arguments.threads, say=say)]
    found: list[MeasuredData] = []
    for folder in arguments.data:
        split = split_for(folder, arguments.split, encoder.artifact.manifest)
        built = build_folder(folder, split=split, queries=arguments.queries)
        _say_what_is_missing(built, say)
        found.append(with_untrained(measure(built, vectors, methods, say=say), encoder.artifact.manifest.metrics))
    listed = [method.name for method in methods]
    names = tuple(dict.fromkeys([*listed[: len(own)], UNTRAINED, *listed[len(own) :]]))
    print(as_table(found, names))  # noqa: T201
    if arguments.json:
        write_json(arguments.json, as_json(encoder, found, _settings(arguments)))
    if arguments.report:
        # Heat maps and pictures are only needed by who asks for a page.
        from encoders.evaluation.report import Subject, write_report

        say(f"report: {write_report(arguments.report, found, Subject(vectors, names))}")
    return 0


def _say_what_is_missing(built: Built, say: Say) -> None:
    if not built.tasks:
        say(f"{built.name} [{built.split}]: nothing to measure in {len(built.examples)} items; "
            "expected labels, several photos, titles with pictures, or titles that match")  # fmt: skip


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    bootstrap = {"draws": DRAWS, "confidence": CONFIDENCE, "seed": SEED}
    return {"split": arguments.split, "queries": arguments.queries, "dims": list(arguments.dims),
            "baselines": arguments.baselines, "bootstrap": bootstrap}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
