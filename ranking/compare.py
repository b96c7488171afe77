"""Train the models of a configuration under several seeds and compare them: ``python -m ranking.compare --data DIR --out OUT``.

Every model is trained by a command of its own, several at a time; what is done in OUT is not run again unless its settings
or its data changed, wherever they lie now. Changed code is not seen: ``--no-resume`` trains all anew, MAKE's models too. OUT gets
``table.json``, ``table.md`` and plots.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from encoders.arguments import not_negative, positive
from encoders.study.runs import execute
from moontide.errors import Misconfigured, MoontideError
from moontide.pit.impressions import VARIANTS
from ranking.config import RankingConfig
from ranking.plan import SET, TRAIN, Point, TrainingRun, Wanted, check_set, data_digest, points_of, run_of
from ranking.resampling import DRAWS
from ranking.results import as_markdown
from ranking.run_file import write_json
from ranking.stages import forget_make
from ranking.summary import FORMAT_VERSION, summarise

Clock = Callable[[], float]


def run(arguments: argparse.Namespace, command: str, clock: Clock, program: str = TRAIN) -> dict[str, Any] | None:
    """Run what is not done and write the comparison; the body of ``table.json``, or None after a dry run.

    Raises:
        Misconfigured: configuration, data or vectors cannot be used, a run failed, or there is nothing to compare.
    """
    wanted = wanted_of(arguments)
    config = wanted.loaded()
    if not arguments.collect:
        check_set(wanted, config)
    out, root = arguments.out, arguments.out / "runs"
    runs = {
        point: run_of(point, wanted, config, cache=out / "cache", program=program) for point in points_of(wanted, config)
    }  # fmt: skip
    if not arguments.collect and not _execute(arguments, list(runs.values()), clock):
        return None
    body = _body(runs, root, config, wanted, arguments.draws)
    body = {**body, "command": command}
    write_json(out / "table.json", body)
    (out / "table.md").write_text(as_markdown(body), encoding="utf-8")
    from ranking.plots import draw_all

    for path in draw_all(body, out, ending=arguments.plot):
        _say(f"{path}")
    return body


def _execute(arguments: argparse.Namespace, runs: Sequence[TrainingRun], clock: Clock) -> bool:
    """What `execute` says; without ``--resume`` nothing counts as done, and only a dry run leaves it there."""
    out, root = arguments.out, arguments.out / "runs"
    if not arguments.resume and not arguments.dry_run:
        for each in runs:
            (each.folder(root) / "run.json").unlink(missing_ok=True)
        forget_make(out / "cache")
    elif not arguments.resume:
        runs = [replace(each, again=True) for each in runs]
    return execute(runs, root, say=_say, clock=clock, dry=arguments.dry_run, jobs=arguments.jobs)


def wanted_of(arguments: argparse.Namespace) -> Wanted:
    """What the command line asks for.

    Raises:
        Misconfigured: a space that is neither ``NAME=FILE.npz`` nor ``NAME=set``.
    """
    spaces: dict[str, Path | None] = {}
    for text in arguments.spaces:
        name, found, path = text.partition("=")
        if not found or not name.replace("_", "").isalnum():
            raise Misconfigured(f"--spaces {text!r}: expected NAME=FILE.npz or NAME=set with a name of letters, digits and _")
        spaces[name] = None if path == SET else Path(path)
    return Wanted(
        arguments.config, arguments.data, spaces, tuple(arguments.set), tuple(arguments.variants), tuple(arguments.lengths),
        tuple(arguments.models), arguments.seeds, arguments.curve_epochs,
    )  # fmt: skip


def _body(runs: dict[Point, TrainingRun], root: Path, config: RankingConfig, wanted: Wanted, draws: int) -> dict[str, Any]:
    done = [point for point, each in runs.items() if each.done(root)]
    if not done:
        raise Misconfigured(f"--out {root.parent}: expected runs that are done, got none of {len(runs)}; run without --collect")
    if len(done) < len(runs):
        _say(f"{len(runs) - len(done)} of {len(runs)} runs are not done: left out of the table")
    found = summarise(done, root, config, draws=draws, say=_say)
    return {
        "format_version": FORMAT_VERSION, "config": config.name, "data_digest": data_digest(wanted.data),
        "spaces": list(wanted.spaces), **found,
    }  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ranking.compare", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="online_retail", help="a .toml file, or a name of ranking/configs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="another value than the file's")
    parser.add_argument("--data", type=Path, required=True, help="a training set, or items.csv with transactions.parquet")
    parser.add_argument("--out", type=Path, default=Path("build/ranking"))
    parser.add_argument("--spaces", nargs="+", default=[], metavar="NAME=FILE.npz", help="NAME=set, and default: the set's own")
    parser.add_argument("--models", nargs="+", default=[], help="the base is always there; default: the configuration's")
    parser.add_argument("--lengths", nargs="+", type=positive, default=[], help="of histories; default: the configuration's")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[], help="of purchases; default: the configuration's")
    parser.add_argument("--seeds", type=positive, help="how many, from 0; default: the configuration's")
    parser.add_argument(
        "--curve-epochs", type=not_negative, default=0, help="also train the base and MAKE so long, for their curves"
    )
    parser.add_argument("--jobs", type=positive, default=2, help="runs at a time, one thread each")
    parser.add_argument("--draws", type=positive, default=DRAWS, help="of the bootstrap")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="keep runs that are done, and MAKE's models"
    )
    parser.add_argument("--collect", action="store_true", help="run nothing; compare what is done")
    parser.add_argument("--dry-run", action="store_true", help="list the runs")
    parser.add_argument("--plot", choices=("png", "svg"), default="png")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None, *, program: str = TRAIN, clock: Clock = time.monotonic) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(given)
    try:
        body = run(arguments, "python -m ranking.compare " + shlex.join(given), clock, program)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if body is not None:
        print(as_markdown(body))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
