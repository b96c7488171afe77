"""Train and test one ranking model under one seed: ``python -m ranking.train --data DIR --model simtier --json OUT``.

It is trained on the days before the validation days, its epoch is chosen on those, and it is tested on the days after. All
that two models of a comparison share (impressions, split, order of training) follows from data, configuration and seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoders.arguments import not_negative, positive
from encoders.training.checkpoint import CheckpointFolder
from moontide.errors import MoontideError
from ranking.config import ModelConfig, RankingConfig, load_config
from ranking.data_card import card_of
from ranking.evaluation import evaluate, slices_of
from ranking.fingerprint import fingerprint, ids_digest
from ranking.fit import Fitted, Say, Trial, fit, score
from ranking.prepare import prepare, read_data
from ranking.recalibration import recalibrated
from ranking.run_file import TestRows, write_run
from ranking.splits import said
from ranking.stages import make_stage, new_model
from ranking.weights import write_weights


def run(arguments: argparse.Namespace, say: Say, clock: Callable[[], float]) -> None:
    """Train, test, write.

    Raises:
        Misconfigured: configuration, data or checkpoints cannot be used.
    """
    started = clock()
    config = load_config(arguments.config, overrides=arguments.set)
    chosen = config.model(arguments.model)
    data = read_data(arguments.data, config, chosen, vectors=arguments.vectors, length=arguments.length)
    trial = Trial(prepare(data, config, chosen, length=arguments.length), arguments.seed, say)
    say(f"{arguments.model}: {said(data, trial.examples.split)}")
    checkpoints = _checkpoints(arguments, config, chosen, trial)
    made = make_stage(trial, config, chosen, cache=arguments.cache)
    fitted = fit(new_model(trial, config, chosen, made), trial, config.fit, checkpoints=checkpoints)
    rows, logits = _test_rows(trial), score(fitted.model, trial.examples, trial.examples.split.test)
    body = {
        "settings": _settings(arguments, config, chosen, trial), "card": card_of(trial.examples), "curve": list(fitted.curve),
        "make_curve": list(made.curve) if made is not None else [],
        "test": evaluate(rows.label, logits, rows.user, rows.slices), "recalibrated": _recalibrated(trial, fitted, rows, logits),
        "seconds": clock() - started,
    }  # fmt: skip
    write_run(arguments.json, body, rows, logits)
    if arguments.save is not None:
        items = {"items": ids_digest(trial.examples.data.item_ids)}
        write_weights(arguments.save, fitted.model, {**_settings(arguments, config, chosen, trial), **items})


def _test_rows(trial: Trial) -> TestRows:
    examples = trial.examples
    data, test, train = examples.data, examples.split.test, examples.split.train
    known = data.known[data.request[test]]
    slices = slices_of(data.item[test], known, data.item[train], data.label[train])
    return TestRows(examples.users(test), data.item[test], data.label[test], slices)


def _recalibrated(trial: Trial, fitted: Fitted, rows: TestRows, logits: NDArray[np.float32]) -> dict[str, Any] | None:
    days = trial.examples.split.validation
    known = trial.examples.data.label[days], score(fitted.model, trial.examples, days)
    return recalibrated(known, (rows.label, logits), rows.slices)


def _settings(arguments: argparse.Namespace, config: RankingConfig, chosen: ModelConfig, trial: Trial) -> dict[str, Any]:
    vectors = trial.examples.data.vectors if chosen.reads_vectors else None
    return {
        "config": config.name, "model": arguments.model, "length": arguments.length, "seed": trial.seed,
        "variant": config.data.variant, "digest": config.run_digest(chosen, arguments.length),
        "space": None if vectors is None else {"id": vectors.space.id, "digest": vectors.space.encoder_digest},
        "vectors": None if vectors is None else (str(arguments.vectors.name) if arguments.vectors else "training set"),
        "scalars": list(trial.examples.names), "split": list(trial.examples.split.times),
        "train_rows": len(trial.examples.split.train),
    }  # fmt: skip


def _checkpoints(
    arguments: argparse.Namespace, config: RankingConfig, chosen: ModelConfig, trial: Trial
) -> CheckpointFolder | None:
    if arguments.checkpoints is None:
        return None
    data = fingerprint(trial.examples, vectors=chosen.reads_vectors)
    digests = {"config": config.run_digest(chosen, arguments.length), "seed": str(arguments.seed), "data": data}
    return CheckpointFolder(arguments.checkpoints, digests, resume=arguments.resume)


def _run_path(text: str) -> Path:
    # The logits lie beside under the name without its ending: another ending would be cut off, or is theirs.
    if Path(text).suffix != ".json":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .json, got {text!r}")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ranking.train", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="online_retail", help="a .toml file, or a name of ranking/configs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="another value than the file's")
    parser.add_argument("--data", type=Path, required=True, help="a training set, or items.csv with transactions.parquet")
    parser.add_argument("--vectors", type=Path, help=".npz of another space (encoders.study encode); default: the set's")
    parser.add_argument("--model", required=True, help="a model of the configuration")
    parser.add_argument("--length", type=positive, default=50, help="L, behaviours of a history")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--cache", type=Path, help="folder where multimodal models wait for the next run that needs them")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints, one after each epoch")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints, of the same data and settings")
    parser.add_argument("--save", type=Path, metavar="FILE", help=".safetensors of the trained model, for ranking.export")
    parser.add_argument(
        "--json", type=_run_path, required=True, help="the run file, NAME.json; its logits go beside it, NAME.npz"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        run(arguments, lambda text: print(text, file=sys.stderr, flush=True), time.monotonic)  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
