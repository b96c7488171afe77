"""A trained ranker as a folder that `ranking.served.RankingModel` loads: ONNX, the ids it knows, and what it must be served.

``python -m ranking.export --config FILE --data SET --model NAME --weights FILE.safetensors --out DIR``
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from encoders.arguments import positive
from encoders.artifact_folder import dump_object, replace_folder, require_folder
from encoders.export import OPSET
from moontide.errors import Misconfigured, MoontideError
from moontide.simtier import SimTierSpec
from ranking.batch import Batch
from ranking.config import ModelConfig, RankingConfig, load_config
from ranking.contract import FILES, MAX_ITEMS, Contract, digest_of, manifest_of
from ranking.examples import Examples
from ranking.fingerprint import ids_digest
from ranking.fit import Fitted, Trial, lengths
from ranking.groups import groups_of
from ranking.models.base import Ranker, VectorTable
from ranking.models.din import IdEmbedding
from ranking.models.make import MultimodalDin
from ranking.onnx_graph import export_graph
from ranking.prepare import prepare, read_data
from ranking.stages import new_model, parts_of
from ranking.weights import read_weights

#: Candidates of a group, and groups of a batch, that are compared with torch.
COMPARED: Final = (16, 8)


def export(model: Ranker, trial: Trial, chosen: ModelConfig, out: Path, *, name: str, service: str) -> dict[str, Any]:
    """Write the folder; returns its manifest.

    Args:
        model: trained on the trial's examples.
        trial: its training set has vectors, whose space the folder is bound to.
        chosen: what the model was built from.
        out: a new folder, or one of an earlier export, which is replaced.
        name: of the model, for the manifest.
        service: feature service that will serve it.

    Raises:
        Misconfigured: no vectors, shuffled ones, more than `MAX_ITEMS` items, logits that differ from torch's, or `out` is
            another kind of folder.
    """
    require_folder(out, mark=FILES.manifest, keys=("format_version", "model", "digest"))
    examples = trial.examples
    contract = _contract(examples, chosen, name, service)
    table = _table(model)
    made = export_graph(model, _compared(examples), table, dim=contract.space.dim)
    files = {FILES.model: made.model, FILES.vocabulary: _vocabulary(model, examples)}
    body = manifest_of(contract, opset=OPSET, difference=made.difference)
    body["digest"] = digest_of(body, files)
    replace_folder(out, {**files, FILES.manifest: dump_object(body)})
    return body


def _contract(examples: Examples, chosen: ModelConfig, name: str, service: str) -> Contract:
    data, items = examples.data, examples.shapes.items
    if data.vectors is None or chosen.shuffle:
        raise Misconfigured("export: expected a model of a training set with its vectors, got one without, or with shuffled ones")
    if items > MAX_ITEMS:
        raise Misconfigured(f"export: expected at most {MAX_ITEMS} items, got {items}; train on fewer, or serve ids hashed")
    space, tiers = data.vectors.space, examples.shapes.tiers
    simtier = SimTierSpec(space.id, tiers=tiers, length=examples.length).spec_id if tiers else ""
    return Contract(name, service, space, simtier, tiers, examples.length, examples.names, items)


def _table(model: Ranker) -> VectorTable | None:
    return next((part for part in model.modules() if isinstance(part, VectorTable)), None)


def _compared(examples: Examples) -> list[Batch]:
    """Test groups with the longest and with the shortest histories."""
    groups = groups_of(examples.data.request, examples.split.test, COMPARED[0])
    ranked = groups[np.argsort(-lengths(examples, groups), kind="stable")]
    chosen = [examples.batch(ranked[: COMPARED[1]]), examples.batch(ranked[-COMPARED[1] :])]
    if chosen[0].item.shape[0] < 2 or chosen[0].history.shape[1] < 4:
        raise Misconfigured(
            "export: expected test requests with 4 behaviours or more, got none; export on the set of the training"
        )
    return chosen


def _vocabulary(model: Ranker, examples: Examples) -> bytes:
    """Ids that training has seen, with their rows."""
    seen = np.zeros(examples.shapes.items, bool)
    for part in model.modules():
        if isinstance(part, IdEmbedding):
            seen |= part.row.numpy() > 0
    rows = np.flatnonzero(seen)
    ids = pa.array(examples.data.item_ids, pa.string()).take(pa.array(rows - 1))
    sink = io.BytesIO()
    pq.write_table(pa.table({"item_id": ids, "row": pa.array(rows.astype(np.int32))}), sink, compression="zstd")
    return sink.getvalue()


def restore(
    config: RankingConfig, name: str, data: Path, weights: Path, *, vectors: Path | None, length: int
) -> tuple[Ranker, Trial]:
    """The model that ``ranking.train --save`` wrote, and the examples of `data`: those it was trained on, or of the same items.

    Raises:
        Misconfigured: another model, configuration, space or split than the weights were trained with, or other items: the
            rows of the embedding would stand for other ids.
    """
    chosen = config.model(name)
    read = read_data(data, config, chosen, vectors=vectors, length=length)
    trial = Trial(prepare(read, config, chosen, length=length), 0, lambda text: None)
    made = Fitted(MultimodalDin(parts_of(trial, config, chosen)), ()) if "make" in chosen.sides else None
    model = new_model(trial, config, chosen, made)
    note = read_weights(weights, model)
    examples, space = trial.examples, None if read.vectors is None else read.vectors.space
    wanted = {
        "digest": config.run_digest(chosen, length), "scalars": list(examples.names), "split": list(examples.split.times),
        "train_rows": len(examples.split.train),
        "space": {"id": space.id, "digest": space.encoder_digest} if space and chosen.reads_vectors else None,
    }  # fmt: skip
    # Weights that were saved without a digest of the items are taken by their split and number alone.
    if "items" in note:
        wanted["items"] = ids_digest(read.item_ids)
    got = {key: note.get(key) for key in wanted}
    if got != wanted:
        raise Misconfigured(
            f"weights {weights}: expected a run of {wanted}, got {got}; give the data, config and length of the training"
        )
    return model, trial


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ranking.export", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="served", help="a .toml file, or a name of ranking/configs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as in the training")
    parser.add_argument("--data", type=Path, required=True, help="the training set")
    parser.add_argument("--vectors", type=Path, help="as in the training")
    parser.add_argument("--model", required=True, help="a model of the configuration")
    parser.add_argument("--length", type=positive, default=50, help="as in the training")
    parser.add_argument("--weights", type=Path, required=True, help=".safetensors of ranking.train --save")
    parser.add_argument("--service", default="ctr_v1", help="feature service that will serve it")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(1)
    try:
        config = load_config(arguments.config, overrides=arguments.set)
        model, trial = restore(
            config, arguments.model, arguments.data, arguments.weights, vectors=arguments.vectors, length=arguments.length
        )
        chosen = config.model(arguments.model)
        body = export(model, trial, chosen, arguments.out, name=arguments.model, service=arguments.service)
        print(f"{arguments.out}: {body['digest']}, within {body['largest_difference_from_torch']:.1e} of torch")  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
