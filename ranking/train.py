"""Train and measure CTR models on a shop's purchases: ``python -m ranking.train --data DIR --json OUT``.

Per seed and kind of features one model is trained on the days before the validation days, its epoch is chosen on those, and
it is tested on the days after. Impressions are the same for every seed and model; the seed decides initial weights and
the order of training, and is shared by the models that are compared: differences are paired by seed and by user.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from encoders.arguments import positive
from encoders.purchases import read_purchases
from encoders.study.vector_file import read_vectors
from moontide.errors import Misconfigured, MoontideError
from moontide.pit.impressions import VARIANTS, make_impressions
from moontide.pit.purchases import Purchases
from ranking.examples import Examples, make_examples, with_simtier
from ranking.fit import FitConfig, Say, fit, score
from ranking.report import body, seed_result, write_json
from ranking.splits import split

FEATURES: Final = ("id", "simtier")
TRAIN_IMPRESSIONS: Final = 300_000
#: The draw of negatives and of the users that train; not a seed of the study, or models would differ in data too.
DATA_SEED: Final = 7


def run(arguments: argparse.Namespace, say: Say, clock: Callable[[], float]) -> dict[str, Any]:
    """Train every kind of features under every seed; the body of the JSON file.

    Raises:
        Misconfigured: the data cannot be used, or SimTier is asked for without vectors.
    """
    if "simtier" in arguments.features and arguments.embeddings is None:
        raise Misconfigured("--features simtier: expected --embeddings FILE.npz, got none")
    vectors = None if arguments.embeddings is None else read_vectors(arguments.embeddings)
    purchases = read_purchases(arguments.data)
    impressions = make_impressions(purchases, variant=arguments.variant, seed=DATA_SEED)
    days = None if arguments.days is None else tuple(arguments.days)
    chosen = split(impressions, days, budget=arguments.train_impressions, seed=DATA_SEED)
    examples = make_examples(purchases, impressions, chosen, length=arguments.length)
    say(f"{len(purchases)} purchases, {len(impressions)} impressions; training on {len(chosen.train)}")
    config = FitConfig(epochs=arguments.epochs)
    started, total = clock(), len(arguments.features) * len(arguments.seeds)
    models: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.features:
        given = examples
        if name == "simtier" and vectors is not None:
            given = with_simtier(examples, purchases, vectors, tiers=arguments.tiers)
        models[name] = []
        for seed in arguments.seeds:
            models[name].append(_one(given, config, purchases, seed, lambda text, name=name: say(f"{name} {text}")))  # type: ignore[misc]
            done = sum(map(len, models.values()))
            say(f"{name} seed {seed}: {done}/{total}, about {(clock() - started) / done * (total - done):.0f} s left")
    settings = {
        "variant": arguments.variant, "length": arguments.length, "tiers": arguments.tiers, "seeds": list(arguments.seeds),
        "train_impressions": arguments.train_impressions, "data_seed": DATA_SEED, "fit": asdict(config),
        "embeddings": None if vectors is None else {"space": vectors.space.id, "digest": vectors.space.encoder_digest,
                                                    "items": len(vectors)},
    }  # fmt: skip
    return body(purchases, examples, models, settings)


def _one(examples: Examples, config: FitConfig, purchases: Purchases, seed: int, say: Say) -> dict[str, Any]:
    fitted = fit(examples, config, items=len(purchases.item_ids), seed=seed, say=say)
    rows = examples.split.test
    return seed_result(examples, score(fitted.model, examples, rows), seed=seed, curve=fitted.curve)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ranking.train", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with items.csv and transactions.parquet")
    parser.add_argument("--embeddings", type=Path, help=".npz of one space, written by python -m encoders.study encode")
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=["id"], help="models to train; the first is the base")
    parser.add_argument("--variant", choices=VARIANTS, default=VARIANTS[0], help="new: items the user has not bought before")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="how many, or a list such as 4,7; default 3")
    parser.add_argument("--length", type=positive, default=50, help="L, behaviours of a history")
    parser.add_argument("--tiers", type=positive, default=20, help="N, even")
    parser.add_argument("--epochs", type=positive, default=FitConfig().epochs, help="at most; stops early")
    parser.add_argument("--days", nargs=3, metavar=("VALIDATION", "TEST", "END"), help="default: Online Retail's, or quantiles")
    parser.add_argument(
        "--train-impressions", type=positive, default=TRAIN_IMPRESSIONS,
        help=f"training rows kept, whole users drawn under a fixed seed; default {TRAIN_IMPRESSIONS}",
    )  # fmt: skip
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, required=True)
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    if "," not in text:
        return tuple(range(positive(text)))
    return tuple(dict.fromkeys(int(part) for part in text.split(",") if part))


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
