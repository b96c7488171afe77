"""Train a MOON encoder and write its artifact: ``python -m encoders.train --data DIR ... --out artifacts/moon_v1``."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from encoders.artifact import Manifest, Preprocessing, require_replaceable, save_artifact
from encoders.batches import illustrated_of, inverse_frequencies, photos_of, titles_of
from encoders.data import SPLIT_SHARES, DataSet, read_data_set
from encoders.evaluate import evaluate
from encoders.export import OPSET, export_models
from encoders.item import Item
from encoders.runtime import Encoder
from encoders.step import LossConfig, Stepper, TrainingData
from encoders.tokenizer import Tokenizer, TokenizerConfig
from encoders.towers import Moon
from moontide import names
from moontide.errors import MoontideError
from moontide.spaces import EmbeddingSpace


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything but the data that decides the weights.

    Args:
        steps: optimiser steps; the learning rate falls to zero over them.
        sides: picture sides; training moves through them in order, each for the share of steps beside it.
    """

    dim: int = 128
    steps: int = 1000
    seed: int = 0
    learning_rate: float = 2e-3
    fusion_rate: float = 4e-4
    table_rate: float = 1e-3
    term_rate: float = 1e-2
    weight_decay: float = 5e-4
    sides: tuple[tuple[int, float], ...] = ((64, 0.6), (96, 0.4))


def train(
    data_sets: Sequence[DataSet], config: TrainConfig, losses: LossConfig, *, minutes: float, say: Callable[[str], None]
) -> Moon:
    """A trained model. Deterministic, unless `minutes` cuts the steps short: that depends on the machine."""
    tokenizer = Tokenizer(TokenizerConfig())
    model = untrained(config, tokenizer.config)
    data = TrainingData(photos_of(data_sets), illustrated_of(data_sets), titles_of(data_sets))
    say(f"photos {len(data.photos.pixels)}, illustrated items {len(data.illustrated.items)}, "
        f"titles {sum(len(t.titles) for t in data.titles)}")  # fmt: skip
    corpus = [Item("", title=title) for titles in data.titles for title in titles.titles]
    corpus += [*data.illustrated.items, *(Item("", title=name) for name in data.photos.names)]
    if corpus:
        model.text.set_term_weights(inverse_frequencies(tokenizer, corpus))
    model.image.to(memory_format=torch.channels_last)
    stepper = Stepper(model, tokenizer, data, losses, config.seed)
    optimiser = _optimiser(model, config)
    started = time.monotonic()
    model.train()
    for step in range(config.steps):
        _set_rate(optimiser, step / config.steps)
        parts = stepper.losses(_side(config, step / config.steps))
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        optimiser.step()
        spent = time.monotonic() - started
        if step % 50 == 0 or step == config.steps - 1:
            shown = " ".join(f"{name} {value.item():.3f}" for name, value in parts.items())
            left = spent / (step + 1) * (config.steps - step - 1)
            say(f"step {step + 1}/{config.steps} {shown} | {spent:.0f} s, about {left:.0f} s left")
        if spent > minutes * 60:
            say(f"stopped at step {step + 1}: {minutes} minutes are over; this run is not repeatable")
            break
    return model.eval()


def untrained(config: TrainConfig, tokenizer: TokenizerConfig) -> Moon:
    """The same model before any training: the baseline every figure stands beside."""
    torch.manual_seed(config.seed)
    return Moon(config.dim, tokenizer.buckets).eval()


def write(model: Moon, out: Path, space: EmbeddingSpace, manifest: dict[str, Any]) -> Encoder:
    """Export and save `model`, and load it again as it will be served."""
    preprocessing = Preprocessing()
    models = export_models(model, Tokenizer(TokenizerConfig()), side=preprocessing.height).models
    save_artifact(
        out, models, tokenizer=TokenizerConfig(), preprocessing=preprocessing,
        manifest=Manifest(space, OPSET, **manifest),
    )  # fmt: skip
    return Encoder.load(out, threads=1)


def _optimiser(model: Moon, config: TrainConfig) -> torch.optim.Optimizer:
    text, decay = model.text, config.weight_decay
    groups = [
        {"params": list(model.image.parameters()), "lr": config.learning_rate, "weight_decay": decay},
        {"params": list(model.fusion.parameters()), "lr": config.fusion_rate, "weight_decay": decay},
        # Decay would shrink the rows of words that training never met, and those must go on working.
        {"params": [text.table], "lr": config.table_rate, "weight_decay": 0.0},
        {"params": [text.log_term, text.log_kind, text.field], "lr": config.term_rate, "weight_decay": 0.0},
    ]
    for group in groups:
        group["peak"] = group["lr"]
    return torch.optim.AdamW(groups, fused=True)


def _set_rate(optimiser: torch.optim.Optimizer, done: float) -> None:
    """Warm up over the first twentieth, then fall along a cosine."""
    factor = min(1.0, done / 0.05 + 0.02) * 0.5 * (1.0 + math.cos(math.pi * done))
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def _side(config: TrainConfig, done: float) -> int:
    reached = 0.0
    for side, share in config.sides:
        reached += share
        if done < reached:
            return side
    return config.sides[-1][0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.train", description=__doc__)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders as in docs/reference/training-data.md")
    parser.add_argument("--out", type=Path, required=True, help="artifact directory; an older artifact there is replaced")
    parser.add_argument("--space", type=_family, default="moon", help="family of the space")
    parser.add_argument("--version", type=_positive, default=1, help="version of the space; a new model needs a new one")
    parser.add_argument(
        "--cutoff", type=_day, metavar="YYYY-MM-DD", help="no transaction of this day or later is used, nor items first sold then"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=_positive, default=TrainConfig().steps)
    parser.add_argument("--minutes", type=float, default=15.0, help="upper limit; stopping early is not repeatable")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--dry-run", action="store_true", help="read the data, say what would be trained, write nothing")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _family(text: str) -> str:
    if not names.is_space_name(text):
        raise argparse.ArgumentTypeError(f"expected [a-z][a-z0-9]* of at most 24 characters, got {text!r}")
    return text


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a day as 2024-12-31, got {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    try:
        return _run(arguments, lambda text: print(text, flush=True))  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    config, losses = TrainConfig(seed=arguments.seed, steps=arguments.steps), LossConfig()
    require_replaceable(arguments.out)
    data_sets = [read_data_set(folder, cutoff=arguments.cutoff) for folder in arguments.data]
    for data in data_sets:
        say(f"{data.name}: " + ", ".join(f"{len(data.rows(name))} {name}" for name, _ in SPLIT_SHARES))
    if arguments.dry_run:
        return 0
    space = EmbeddingSpace(arguments.space, arguments.version, config.dim)
    started = time.monotonic()
    model = train(data_sets, config, losses, minutes=arguments.minutes, say=say)
    seconds = time.monotonic() - started
    held_out = [read_data_set(folder, cutoff=None) for folder in arguments.data]
    with tempfile.TemporaryDirectory() as scratch:
        before = write(untrained(config, TokenizerConfig()), Path(scratch) / "untrained", space, {})
        after = write(model, Path(scratch) / "trained", space, {})
        # Settings are chosen on val; test is what the manifest promises.
        metrics = {
            split: {
                "trained": evaluate(after, held_out, split=split),
                "untrained": evaluate(before, held_out, split=split),
            }
            for split in ("test", "val")
        }
    provenance = {
        "data": [data.source for data in data_sets],
        "train": {**asdict(config), "losses": asdict(losses), "seconds": round(seconds), "threads": arguments.threads},
        "split_shares": dict(SPLIT_SHARES),
    }
    write(model, arguments.out, space,
          {"training_cutoff": arguments.cutoff, "metrics": metrics, "provenance": provenance})  # fmt: skip
    for split, figures in metrics.items():
        for task, trained in figures["trained"].items():
            for name, value in trained.items():
                say(f"{split} {task} {name}: {value:.3f} (untrained {figures['untrained'][task][name]:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
