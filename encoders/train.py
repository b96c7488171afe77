"""Train a MOON encoder and write its artifact: ``python -m encoders.train --data DIR ... --out artifacts/moon_v2``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from encoders.arguments import day, family, make_place, positive, require_own_names
from encoders.artifact import require_replaceable
from encoders.config import EncoderConfig, load_config
from encoders.data import SPLIT_SHARES, read_data_set
from encoders.training.checkpoint import CheckpointFolder
from encoders.training.inputs import data_digest, notes_on
from encoders.training.publish import Metrics, Publisher, table
from encoders.training.session import Drive, Outcome, Recipe, train
from moontide.errors import Misconfigured, MoontideError
from moontide.spaces import EmbeddingSpace

Say = Callable[[str], None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.train", description=__doc__)
    add = parser.add_argument
    add("--config", default="small", help="a size in encoders/configs, or a .toml file")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="other settings, e.g. switches.experts=false pretrain.steps=50 seed=3",
    )
    add("--data", nargs="+", type=Path, required=True, help="folders as in docs/reference/training-data.md")
    add("--pairs", type=Path, help="pairs that jobs/training_pairs.py wrote; without them, baskets of the data are used")
    add("--pairs-fraction", type=_share, default=1.0, metavar="F", help="train on this share of all pairs")
    add("--out", type=Path, help="artifact directory; an older artifact there is replaced")
    add("--no-artifact", action="store_true", help="train and measure only; --out is not needed")
    add("--space", type=family, default="moon", help="family of the space")
    add("--version", type=positive, default=1, help="version of the space; a new model needs a new one")
    add("--cutoff", type=day, metavar="YYYY-MM-DD", help="no transaction of this day or later is used, nor items first sold then")
    add(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="checkpoints, history.jsonl and curves.png; without it a stopped run is lost",
    )
    add("--resume", action="store_true", help="go on with the run in --checkpoints")
    add("--features-cache", type=Path, metavar="DIR", help="where features of a frozen backbone are kept between runs")
    add("--minutes", type=_minutes, help="stop after this time, wherever training is; such a run does not repeat")
    add("--threads", type=positive, default=1)
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--metrics-json", type=Path, metavar="FILE", help="write figures, speed and settings there")
    add("--dry-run", action="store_true", help="read the data, say what would be trained, write nothing")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 1, got {text}")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed or stopped by a signal, 2 wrong use."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.out is None and not arguments.no_artifact:
        parser.error("--out is required, unless --no-artifact")
    if arguments.resume and arguments.checkpoints is None:
        parser.error("--resume needs --checkpoints")
    torch.set_num_threads(arguments.threads)
    # Some products of a GPU repeat only under a setting of its library: there it warns where it would stop.
    torch.use_deterministic_algorithms(True, warn_only=arguments.device != "cpu")
    try:
        return _run(arguments, lambda text: print(text, flush=True))  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(arguments: argparse.Namespace, say: Say) -> int:
    config = load_config(arguments.config, overrides=arguments.set)
    _check(arguments)
    require_own_names(arguments.data)
    data_sets = [read_data_set(folder, cutoff=arguments.cutoff) for folder in arguments.data]
    for data in data_sets:
        say(f"{data.name}: " + ", ".join(f"{len(data.rows(name))} {name}" for name, _ in SPLIT_SHARES))
    notes = list(notes_on(data_sets, batch=max(config.pretrain.photos, config.pretrain.illustrated, config.pretrain.titles)))
    for note in notes:
        say(f"note: {note}")
    if arguments.dry_run:
        say(f"config {config.name} ({config.digest}): {config.pretrain.steps} + {config.post.steps} steps; nothing is written")
        return 0
    data_id = data_digest([*arguments.data, *filter(None, [arguments.pairs])], arguments.cutoff, arguments.pairs_fraction)
    digests = {"config": config.digest, "data": data_id}
    folder = arguments.checkpoints
    checkpoints = None if folder is None else CheckpointFolder(folder, digests, resume=arguments.resume)
    # Here and not above: stages need weights and packages that reading data and refusing wrong use do not.
    from encoders.training.stages import Inputs, build

    torch.manual_seed(config.seed)
    inputs = Inputs(
        data_sets, arguments.pairs, arguments.features_cache, arguments.pairs_fraction, arguments.cutoff, arguments.device
    )
    recipe = build(config, inputs, say=say)
    drive = Drive(config.seed, arguments.device, arguments.minutes)
    outcome = train(recipe, drive, checkpoints=checkpoints, clock=time.monotonic, say=say)
    if outcome.stopped is not None and outcome.stopped.startswith("SIG"):
        hint = "lost: no --checkpoints" if folder is None else "go on with --resume"
        say(f"stopped by {outcome.stopped}, no artifact was written; {hint}")
        return 1
    _finish(arguments, config, recipe, {**_facts(arguments, config, digests, outcome), "notes": notes}, say)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would fail only after hours of training."""
    if arguments.out is not None:
        require_replaceable(arguments.out)
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise Misconfigured(f"--device {arguments.device}: expected a CUDA device, got none on this machine; use --device cpu")
    if arguments.metrics_json is not None and arguments.metrics_json.is_dir():
        raise Misconfigured(f"--metrics-json {arguments.metrics_json}: expected a file or nothing, got a folder")
    if arguments.dry_run:
        return
    for flag, path in (("--out", arguments.out), ("--metrics-json", arguments.metrics_json)):
        if path is not None:
            make_place(f"{flag} {path}", path.absolute().parent)
    for flag, path in (("--checkpoints", arguments.checkpoints), ("--features-cache", arguments.features_cache)):
        if path is not None:
            make_place(f"{flag} {path}", path)


def _facts(arguments: argparse.Namespace, config: EncoderConfig, digests: dict[str, str], outcome: Outcome) -> dict[str, Any]:
    """How the model came to be; no path of this machine."""
    return {
        "config": asdict(config), "digests": digests, "seed": config.seed, "seconds": round(outcome.seconds),
        "speed": outcome.speeds, "threads": arguments.threads, "device": arguments.device, "stopped": outcome.stopped,
        "pairs_fraction": arguments.pairs_fraction, "torch": torch.__version__,
    }  # fmt: skip


def _finish(arguments: argparse.Namespace, config: EncoderConfig, recipe: Recipe, facts: dict[str, Any], say: Say) -> None:
    space = EmbeddingSpace(arguments.space, arguments.version, config.model.dim)
    publisher = Publisher(recipe, space, threads=arguments.threads)
    held_out = [read_data_set(folder, cutoff=None) for folder in arguments.data]
    files = {"trained": publisher.export(recipe.model, held_out, say)}
    if not arguments.no_artifact:
        # Studies compare runs with each other; a manifest says what training was worth.
        files["untrained"] = publisher.export(recipe.untrained_model(), [], say)
    metrics = publisher.measure(files, held_out, say)
    if not arguments.no_artifact:
        provenance = {
            "data": [*(data.source for data in held_out), *recipe.sources],
            "train": facts,
            "split_shares": dict(SPLIT_SHARES),
        }
        publisher.save(files["trained"], arguments.out, training_cutoff=arguments.cutoff, metrics=metrics, provenance=provenance)
        publisher.compare(arguments.out, held_out, say)
        say(f"artifact: {arguments.out}")
    if arguments.metrics_json is not None:
        _write_json(arguments.metrics_json, metrics, facts)
    say(table(metrics))
    if facts["stopped"] is not None:
        say(f"note: stopped after {facts['stopped']}: this run does not repeat")


def _write_json(path: Path, metrics: Metrics, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metrics": metrics, "train": facts}, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
