"""From a trained model to an artifact that says how good it is: exported, measured as served, with its provenance."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from encoders.artifact import LAYOUT, Manifest, save_artifact
from encoders.compare import compare_variants
from encoders.data import DataSet
from encoders.evaluate import evaluate
from encoders.export import OPSET, export_models
from encoders.runtime import Encoder
from encoders.towers import Moon
from encoders.training.progress import Say
from encoders.training.samples import sample_items, sample_pixels
from encoders.training.session import Recipe
from moontide.spaces import EmbeddingSpace

#: Settings are chosen on val; test is what the manifest promises.
SPLITS: Final = ("test", "val")
#: Pictures of training that the int8 variant takes its ranges from, and the fewest it can.
CALIBRATION, LEAST_PICTURES = 256, 8
#: Items, and queries of each task, that precisions are compared on.
COMPARED: Final = 400

Metrics = dict[str, dict[str, Any]]


class Publisher:
    """Writes one recipe's models as artifacts of one space.

    Args:
        recipe: gives tokenizer and preprocessing.
        space: name, version and dim; its digest is filled in when it is written.
        threads: of the encoder that measures.
    """

    def __init__(self, recipe: Recipe, space: EmbeddingSpace, *, threads: int) -> None:
        self.recipe, self.space, self.threads = recipe, space, threads

    def export(self, model: Moon, data_sets: Sequence[DataSet], say: Say) -> dict[str, bytes]:
        """Files of a model, compared with it by `export_models`, with the tokenizer's table where it has one.

        Args:
            model: trained or not.
            data_sets: whose training pictures give the int8 variant its ranges; too few, or none: no such variant.
            say: told of each file.
        """
        recipe = self.recipe
        side = recipe.preprocessing.height
        pixels = sample_pixels(data_sets, side, CALIBRATION)
        made = export_models(model, recipe.tokenizer, side=side, pictures=pixels if len(pixels) >= LEAST_PICTURES else None)
        say(made.summary())
        files = dict(made.models)
        if recipe.tokenizer.terms is not None:
            files[LAYOUT.terms] = recipe.tokenizer.terms.to_bytes()
        return files

    def save(self, files: Mapping[str, bytes], out: Path, **manifest: Any) -> Encoder:
        """Write an artifact, and load it again as it will be served."""
        recipe = self.recipe
        save_artifact(
            out, files, tokenizer=recipe.tokenizer.config, preprocessing=recipe.preprocessing,
            manifest=Manifest(self.space, OPSET, **manifest),
        )  # fmt: skip
        return Encoder.load_moon(out, threads=self.threads)

    def compare(self, out: Path, held_out: Sequence[DataSet], say: Say) -> None:
        """Write into the manifest how near each precision that runs here is to fp32, on items of the validation split."""
        items = sample_items(held_out, "val", COMPARED)
        if not items:
            say("precisions: no item to compare them on, the encoder computes in fp32")
            return

        def recall(encoder: Encoder) -> dict[str, float]:
            tasks = evaluate(encoder, held_out, split="val", queries=COMPARED)
            return {
                f"{task} {name}": value for task, found in tasks.items() for name, value in found.items() if name != "queries"
            }

        compare_variants(out, items, recall=recall, threads=self.threads, say=say)

    def measure(self, files: Mapping[str, Mapping[str, bytes]], held_out: Sequence[DataSet], say: Say) -> Metrics:
        """``metrics[split][name][task][measure]`` of models by name, ``trained`` and ``untrained``."""
        found: Metrics = {split: {} for split in SPLITS}
        with tempfile.TemporaryDirectory() as scratch:
            for name, data in files.items():
                encoder = self.save(data, Path(scratch) / name)
                for split in SPLITS:
                    found[split][name] = evaluate(encoder, held_out, split=split)
                say(f"measured the {name} model on {' and '.join(SPLITS)}")
        return found


def table(metrics: Metrics) -> str:
    """A line a measure: split, task, measure, trained beside untrained."""
    lines = []
    for split, models in metrics.items():
        for task, measures in models["trained"].items():
            before: Callable[[str], float | None] = models.get("untrained", {}).get(task, {}).get
            for name, value in measures.items():
                other = before(name)
                shown = "" if other is None or name == "queries" else f" (untrained {other:.3f})"
                lines.append(f"{split:<5} {task:<48} {name:<28} {value:>9.3f}{shown}")
    return "\n".join(lines)
