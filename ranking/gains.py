"""What one space's SimTier is worth in CTR, over seeds: ``python -m ranking.gains --data DIR --embeddings F.npz --json OUT``.

The short form of `ranking.compare` that studies of encoders run: per seed and kind of features one model. Impressions are
the same for every seed and model; the seed decides initial weights and the order of training: differences are paired.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from encoders.arguments import not_negative, positive
from moontide.errors import Misconfigured, MoontideError
from moontide.pit.impressions import VARIANTS
from moontide.pit.training_set import TrainingSet
from ranking.config import ModelConfig, RankingConfig, load_config
from ranking.examples import Examples
from ranking.fit import Say, Trial, fit, score
from ranking.prepare import prepare, read_data
from ranking.report import body, seed_result
from ranking.run_file import write_json
from ranking.stages import make_stage, new_model

FEATURES: Final = ("id", "simtier")


def run(arguments: argparse.Namespace, say: Say, clock: Callable[[], float]) -> dict[str, Any]:
    """Train every kind of features under every seed; the body of the JSON file.

    Raises:
        Misconfigured: the data cannot be used, or SimTier is asked for without vectors.
    """
    if "simtier" in arguments.features and arguments.embeddings is None:
        raise Misconfigured("--features simtier: expected --embeddings FILE.npz, got none")
    config = _config(arguments)
    started, total = clock(), len(arguments.features) * len(arguments.seeds)
    models: dict[str, list[dict[str, Any]]] = {}
    examples: Examples | None = None
    for name in arguments.features:
        chosen = ModelConfig(sides=("simtier",), tiers=arguments.tiers) if name == "simtier" else ModelConfig()
        data = read_data(arguments.data, config, chosen, vectors=arguments.embeddings, length=arguments.length)
        examples = prepare(data, config, chosen, length=arguments.length)
        models[name] = []
        for seed in arguments.seeds:
            models[name].append(_one(Trial(examples, seed, lambda text, name=name: say(f"{name} {text}")), config, chosen))  # type: ignore[misc]
            done = sum(map(len, models.values()))
            say(f"{name} seed {seed}: {done}/{total}, about {(clock() - started) / done * (total - done):.0f} s left")
    if examples is None:
        raise Misconfigured(f"--features: expected some of {list(FEATURES)}, got none")
    return body(examples, models, _settings(arguments, config, examples.data))


def _one(trial: Trial, config: RankingConfig, chosen: ModelConfig) -> dict[str, Any]:
    fitted = fit(new_model(trial, config, chosen, make_stage(trial, config, chosen)), trial, config.fit)
    logits = score(fitted.model, trial.examples, trial.examples.split.test)
    curve = [record["validation"]["gauc"] for record in fitted.curve]
    return seed_result(trial.examples, logits, seed=trial.seed, curve=curve)


def _config(arguments: argparse.Namespace) -> RankingConfig:
    config = load_config(arguments.config)
    days = () if arguments.days is None else tuple(arguments.days)
    data = replace(config.data, variant=arguments.variant, days=days, train_impressions=arguments.train_impressions)
    return replace(config, data=data, fit=replace(config.fit, epochs=arguments.epochs or config.fit.epochs))


def _settings(arguments: argparse.Namespace, config: RankingConfig, data: TrainingSet) -> dict[str, Any]:
    vectors = data.vectors
    return {
        "variant": arguments.variant, "length": arguments.length, "tiers": arguments.tiers, "seeds": list(arguments.seeds),
        "train_impressions": arguments.train_impressions, "fit": asdict(config.fit), "sizes": asdict(config.sizes),
        "embeddings": None if vectors is None else {"space": vectors.space.id, "digest": vectors.space.encoder_digest,
                                                    "items": len(vectors)},
    }  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ranking.gains", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="online_retail", help="a .toml file, or a name of ranking/configs")
    parser.add_argument("--data", type=Path, required=True, help="folder with items.csv and transactions.parquet")
    parser.add_argument("--embeddings", type=Path, help=".npz of one space, written by python -m encoders.study encode")
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=["id"], help="models to train; the first is the base")
    parser.add_argument("--variant", choices=VARIANTS, default=VARIANTS[0], help="new: items the user has not bought before")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="how many, or a list such as 4,7; default 3")
    parser.add_argument("--length", type=positive, default=50, help="L, behaviours of a history")
    parser.add_argument("--tiers", type=positive, default=20, help="N, even")
    parser.add_argument("--epochs", type=positive, help="at most; stops early; default: the configuration's")
    parser.add_argument("--days", nargs=3, metavar=("VALIDATION", "TEST", "END"), help="default: Online Retail's, or quantiles")
    parser.add_argument(
        "--train-impressions",
        type=positive,
        default=0,
        help="training rows kept, whole users; default all",
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, required=True)
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    if "," not in text:
        return tuple(range(positive(text)))
    found = tuple(dict.fromkeys(not_negative(part) for part in text.split(",") if part))
    if not found:
        raise argparse.ArgumentTypeError(f"expected how many, or a list such as 4,7, got {text!r}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        write_json(arguments.json, run(arguments, lambda text: print(text, file=sys.stderr, flush=True), time.monotonic))  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
