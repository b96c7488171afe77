"""``python -m encoders.study exchange-rate | scaling | ablation | ...``: studies are resumable; results go to --out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from encoders.config import load_config
from encoders.evaluation.output import write_json
from encoders.study import ablation, exchange, scaling
from encoders.study.encode import encode_catalog
from encoders.study.flags import parser
from encoders.study.programs import Programs, Training
from encoders.study.reproduce import measures_in, read_spread, spread_json, spread_of, table, worse
from encoders.study.runs import Run, execute
from encoders.study.shorten import shorten
from moontide.errors import MoontideError

SEED = 5


def main(
    argv: Sequence[str] | None = None, *, programs: Programs | None = None, clock: Callable[[], float] = time.monotonic
) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = parser(__doc__).parse_args(argv)
    commands = {"exchange-rate": _exchange, "scaling": _scaling, "ablation": _ablation}
    try:
        if arguments.command == "encode":
            encode_catalog(arguments.artifact, arguments.data, arguments.out, dim=arguments.dim, say=_say)
            return 0
        if arguments.command == "shorten":
            shorten(arguments.data, arguments.words, arguments.out)
            return 0
        if arguments.command == "reproduce":
            return _reproduce(arguments)
        if arguments.command == "seeds":
            runs = [measures_in(artifact) for artifact in arguments.artifacts]
            write_json(arguments.out, spread_json(spread_of(runs), len(runs)))
            return 0
        run = _Runner(arguments.out, dry=arguments.dry_run, clock=clock)
        commands[arguments.command](arguments, programs or Programs(), run)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


class _Runner:
    """Runs below one study's folder."""

    def __init__(self, out: Path, *, dry: bool, clock: Callable[[], float]) -> None:
        self.out, self.root = out, out / "runs"
        self._dry, self._clock = dry, clock

    def __call__(self, runs: Sequence[Run]) -> bool:
        return execute(runs, self.root, say=_say, clock=self._clock, dry=self._dry)

    def write(self, name: str, body: dict[str, Any], table: str) -> None:
        """``NAME.json`` and ``NAME.md``; the table is printed too."""
        write_json(self.out / f"{name}.json", body)
        (self.out / f"{name}.md").write_text(table, encoding="utf-8")
        print(table)  # noqa: T201


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _exchange(arguments: argparse.Namespace, programs: Programs, run: _Runner) -> None:
    subjects = exchange.subjects_of(arguments.artifacts)
    ranking = _ranking(arguments)
    made = exchange.plan(subjects, ranking, programs, queries=arguments.queries)
    if not run(made.runs):
        return
    body, _ = exchange.summary(made, subjects, run.root, measure=arguments.measure, seed=SEED)
    from encoders.study.plots import draw_exchange

    run.write("exchange_rate", body, exchange.table(body))
    draw_exchange(body, run.out / f"exchange_rate.{arguments.plot}")


def _scaling(arguments: argparse.Namespace, programs: Programs, run: _Runner) -> None:
    axes = [scaling.parse_axis(text) for text in arguments.axis]
    seeds = range(arguments.seeds)
    points = {}
    for axis in axes:
        if axis.needs_artifact:
            points[axis] = scaling.plan_artifact(axis, _ranking(arguments), arguments.artifact, programs)
        else:
            points[axis] = scaling.plan_training(axis, _training(arguments), seeds, programs)
    if not run([each for runs in points.values() for each in runs.values()]):
        return
    curves = [scaling.curve_of(axis, runs, run.root, measure=arguments.measure, seed=SEED) for axis, runs in points.items()]
    from encoders.study.plots import draw_scaling

    run.write("scaling", scaling.summary(curves), scaling.table(curves))
    draw_scaling(curves, run.out / f"scaling.{arguments.plot}")


def _ablation(arguments: argparse.Namespace, programs: Programs, run: _Runner) -> None:
    training = _training(arguments)
    made = ablation.plan(training, range(arguments.seeds), arguments.switches, programs)
    if not run([each for runs in made.values() for each in runs.values()]):
        return
    config = load_config(training.config, overrides=training.settings)
    switched_on = {name: bool(getattr(config.switches, name)) for name in arguments.switches}
    found = ablation.collect(made, run.root)
    run.write("ablation", ablation.summary(found, switched_on), ablation.table(found, switched_on, arguments.measures))


def _reproduce(arguments: argparse.Namespace) -> int:
    """1 where a measure is worse than the spread over seeds explains."""
    spread, rebuilt = read_spread(arguments.spread), measures_in(arguments.artifact)
    print(table(rebuilt, measures_in(arguments.shipped), spread))  # noqa: T201
    below = worse(rebuilt, spread)
    for name in below:
        _say(f"{name}: expected {spread[name].least:.3f} or more, got {rebuilt.get(name)}")
    return 1 if below else 0


def _ranking(arguments: argparse.Namespace) -> exchange.Ranking:
    data = arguments.ranking_data or arguments.data[0]
    return exchange.Ranking(
        data, arguments.seeds, arguments.variant, arguments.length, arguments.tiers, arguments.train_impressions
    )  # fmt: skip


def _training(arguments: argparse.Namespace) -> Training:
    return Training(
        arguments.config, tuple(arguments.data), tuple(arguments.measure_on or arguments.data), tuple(arguments.set),
        cache=arguments.features_cache or arguments.out / "features", cutoff=arguments.cutoff, minutes=arguments.minutes,
        queries=arguments.queries,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
