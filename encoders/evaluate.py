"""Measure an artifact on any folder: ``python -m encoders.evaluate ARTIFACT --data DIR ...``; no torch is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from encoders.arguments import make_place, positive, require_own_names
from encoders.artifact import Manifest
from encoders.data import DataSet
from encoders.evaluation.measured import MAJORITY, MeasuredData, Say, measure
from encoders.evaluation.measures import CONFIDENCE, DRAWS, SEED, run
from encoders.evaluation.methods import baselines, own_methods, require_columns
from encoders.evaluation.output import as_json, as_table, write_json
from encoders.evaluation.tasks import Task
from encoders.evaluation.tasks_build import SPLITS, Built, build, build_opened, open_data
from encoders.evaluation.tasks_pairs import TitlePairs
from encoders.evaluation.untrained import UNTRAINED, with_untrained
from encoders.evaluation.vectors import ByCodes, Vectors
from encoders.runtime import Encoder
from encoders.seen import key_of, share_seen
from moontide.errors import Misconfigured, MoontideError

#: A smaller share of a folder's items is chance, or a few that two shops have in common.
LEAST_SEEN: Final = 0.05


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


class Split(NamedTuple):
    """What is measured, and why."""

    split: str
    reason: str


def choose_split(data: DataSet | TitlePairs, asked: str, manifest: Manifest) -> Split:
    """`asked`; for ``auto`` ``test`` of a folder whose items the encoder was trained on, else ``all``.

    The manifest's sample of a training set of this name decides, without one the name alone. The split hangs on the name, so that
    training data under another name cannot be parted: it is measured whole, and said to be what it is.
    """
    if asked != "auto":
        return Split(asked, "asked for")
    if not isinstance(data, DataSet):
        return Split("all", "no encoder is trained on files of title pairs")
    keys = [key_of(example.item, example.label) for example in data.examples]
    other = ""
    for entry in manifest.provenance.get("data", ()):
        name, sample = str(entry.get("name")), entry.get("sample")
        share = share_seen(keys, sample) if sample else None
        if name == data.name and share is None:
            return Split("test", "the encoder was trained on a data set of this name; if this is other data, use --split all")
        seen = share is not None and share >= LEAST_SEEN
        if seen and name == data.name:
            return Split("test", f"about {100 * (share or 0.0):.0f} % of its items are the encoder's training data {name}")
        if seen:
            other = (
                f"about {100 * (share or 0.0):.0f} % of its items are the encoder's training data {name}: these figures flatter"
            )
        elif name == data.name:
            other = other or f"none of its items, or hardly any, are those of the training data {name}"
    return Split("all", other or "not the encoder's training data, as far as its manifest says")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.evaluate", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders as in docs/reference/evaluation.md")
    parser.add_argument("--split", choices=SPLITS, default="auto", help="auto: test for what it was trained on, else all")
    parser.add_argument("--json", type=Path, help="write the measurement to this file")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write report.html into this folder")
    parser.add_argument("--queries", type=positive, help="at most so many queries per task, drawn under a fixed seed")
    parser.add_argument("--dims", type=_numbers, default=(), help="prefixes to measure too, e.g. 32,64,128")
    parser.add_argument("--baselines", default="none", help="none, all, or names divided by commas; NAME=DIR is another artifact")
    parser.add_argument("--threads", type=positive, default=None)
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(",") if part)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments, lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(arguments: argparse.Namespace, say: Say) -> int:
    require_own_names(arguments.data)
    encoder = Encoder.load_moon(arguments.artifact, threads=arguments.threads)
    vectors = Vectors(encoder)
    own = own_methods(vectors, arguments.dims)
    methods = [*own, *baselines(arguments.baselines, threads=arguments.threads, say=say)]
    listed = [method.name for method in methods]
    require_columns([MAJORITY, *listed])
    _make_places(arguments)
    found: list[MeasuredData] = []
    for folder in arguments.data:
        data = open_data(folder)
        split, reason = choose_split(data, arguments.split, encoder.artifact.manifest)
        built = replace(build_opened(data, split=split, queries=arguments.queries), reason=reason)
        say(f"{built.name} [{split}]: {reason}")
        _say_what_is_missing(built, say)
        found.append(with_untrained(measure(built, vectors, methods, say=say), encoder.artifact.manifest.metrics))
    names = tuple(dict.fromkeys([*listed[: len(own)], UNTRAINED, *listed[len(own) :]]))
    print(as_table(found, names))  # noqa: T201
    if arguments.json:
        write_json(arguments.json, as_json(encoder, found, _settings(arguments)))
    if arguments.report:
        # Heat maps and pictures are only needed by who asks for a page.
        from encoders.evaluation.report import Subject, write_report

        say(f"report: {write_report(arguments.report, found, Subject(vectors, names))}")
    return 0


def _make_places(arguments: argparse.Namespace) -> None:
    """Folders of the results, before minutes are spent on them.

    Raises:
        Misconfigured: one cannot be made or written.
    """
    if arguments.json:
        make_place(f"--json {arguments.json}", arguments.json.parent)
    if arguments.report:
        make_place(f"--report {arguments.report}", arguments.report)
    if arguments.json and arguments.json.is_dir():
        raise Misconfigured(f"--json {arguments.json}: expected a file, got a folder; name a file in it")


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
