"""An item tower from an ONNX file: ``python -m encoders.tower --onnx FILE --inputs FILE --name pre --version 1 --out DIR``.

``inputs.toml`` says which item fields the model reads (`encoders.tower_inputs`). The model is run before it is believed: on any
number of rows, each row alone as among others, on items of which nothing is known, and on every end of each vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.arguments import day, positive
from encoders.artifact import Manifest, require_replaceable
from encoders.item import Item
from encoders.item_tower import TowerModel
from encoders.onnx_guard import check_model, opset_of
from encoders.sessions import RUN_ERRORS
from encoders.toml_config import read_toml
from encoders.tower_artifact import MODEL, inputs_from, save_tower
from encoders.tower_inputs import Column, TowerInputs
from moontide.errors import Misconfigured, MoontideError
from moontide.spaces import MAX_DIM, EmbeddingSpace

#: Raw numbers a probe takes in turns; None: the item has none.
PROBED: Final = (None, 0.0, 1.0, 9.99, 250.0, 1e6)
ROWS: Final = 32
#: Least agreement of a row alone with the same row among others, relative to its largest number: above float noise, far
#: below a step of the codes, which is 1 / 127.
AGREEMENT: Final = 1e-3


def make_tower(
    model: bytes, inputs: TowerInputs, space: tuple[str, int], *, training_cutoff: str | None = None, provenance: str = ""
) -> Manifest:
    """The manifest of a tower that was run and found sound; its space has the model's dim, and no digest yet.

    Args:
        model: ONNX bytes.
        inputs: what it reads.
        space: name and version.
        training_cutoff: ISO date; the tower has seen nothing from this day or later; None: unknown.
        provenance: where the model is from, for people.

    Raises:
        Misconfigured: the model is refused, does not fit the description, or gives no usable vectors.
    """
    check_model(model, name=MODEL)
    dim = probe(TowerModel(model, inputs, threads=1), inputs)
    told = {"source": provenance} if provenance else {}
    return Manifest(EmbeddingSpace(*space, dim), opset_of(model), training_cutoff, provenance=told)


def probe(run: TowerModel, inputs: TowerInputs) -> int:
    """Run a tower on made-up items and return the dim of its vectors.

    Raises:
        Misconfigured: it fails; a vector is not finite or zero; all are the same; or a row depends on the others of its batch.
    """
    arrays = _probe_rows(inputs)
    try:
        whole = run(arrays)
        again = run(arrays)
        alone = [run({name: values[row : row + 1] for name, values in arrays.items()}) for row in range(ROWS)]
    except RUN_ERRORS as error:
        raise _failed(error) from error
    if whole.ndim != 2 or len(whole) != ROWS or not 1 <= whole.shape[1] <= MAX_DIM:
        raise Misconfigured(f"{MODEL}: expected {ROWS} vectors of 1 to {MAX_DIM} numbers for {ROWS} items, got {whole.shape}")
    wild = ~np.isfinite(whole).all(axis=1)
    if np.any(wild):
        raise Misconfigured(f"{MODEL}: expected finite numbers, got NaN or infinity {_seen(arrays, np.asarray(wild))}")
    zero = np.asarray(~whole.any(axis=1))
    if zero.any():
        raise Misconfigured(
            f"{MODEL}: expected a direction, got a vector of zeros {_seen(arrays, zero)}; no such item could be served: "
            "give the last layer a bias, or the column another value for missing"
        )
    if ROWS > 1 and (whole == whole[0]).all():
        raise Misconfigured(f"{MODEL}: expected different vectors for different items, got one for all {ROWS}")
    single = np.concatenate(alone) if all(each.shape == (1, whole.shape[1]) for each in alone) else np.full_like(whole, np.nan)
    scale = np.abs(whole).max(axis=1, keepdims=True)
    for other, what in ((single, "on the other rows of its batch"), (again, "on chance")):
        apart = ~(np.abs(other - whole) <= AGREEMENT * scale).all(axis=1)
        if apart.any():
            raise Misconfigured(
                f"{MODEL}: expected a row's vector to depend on its own item, got one that depends {what}; "
                "export the model for inference (no dropout, no normalisation over the batch)"
            )
    return int(whole.shape[1])


def read_inputs(path: Path) -> TowerInputs:
    """What ``inputs.toml`` says; its vocabularies lie beside it.

    Raises:
        Misconfigured: the file, or a vocabulary, is missing or malformed.
    """
    _, body = read_toml(str(path) if path.suffix == ".toml" else f"{path}.toml", path.parent)
    named = sorted(
        {
            str(column["vocabulary"])
            for each in body.get("input", [])
            if isinstance(each, dict) and isinstance(each.get("columns"), list)
            for column in each["columns"]
            if isinstance(column, dict) and column.get("vocabulary")
        }
    )
    vocabularies = {}
    for name in named:
        try:
            vocabularies[name] = (path.parent / name).read_bytes()
        except OSError as error:
            raise Misconfigured(f"vocabulary {name}: expected a file beside {path}, got {type(error).__name__}") from error
    return inputs_from(body, vocabularies)


def _probe_rows(inputs: TowerInputs) -> dict[str, NDArray[Any]]:
    """`ROWS` rows by input: an item of which nothing is known but its title, then values of every column in turns."""
    arrays = inputs.arrays([Item("probe", title="moontide probe")] * ROWS)
    turn = 0
    for each in inputs.inputs:
        for at, column in enumerate(each.columns):
            values = _column_values(column, inputs)
            rows = np.arange(1, ROWS)
            # Another step for each column, so that they do not rise together.
            arrays[each.name][1:, at] = np.array(values)[(rows // (1 + turn % 3) + turn) % len(values)]
            turn += 1
    return arrays


def _column_values(column: Column, inputs: TowerInputs) -> list[float]:
    if not column.vocabulary:
        numbers = (0.0, 1.0) if column.field.startswith("has_") else PROBED
        return [column.standardised(value) for value in numbers]
    words = inputs.vocabularies[column.vocabulary]
    known = {word: line for line, word in enumerate(words)}
    ends = [column.id_of(word, known) for word in (words[0], words[-1], *islice(words, ROWS // 4))]
    return [float(each) for each in (*ends, column.unknown, column.id_of(None, known))]


def _failed(error: Exception) -> Misconfigured:
    return Misconfigured(
        f"{MODEL}: expected it to run on made-up items, got {str(error)[:300]}; "
        "does every vocabulary fit its embedding table, and is the batch of any size?"
    )


def _seen(arrays: dict[str, NDArray[Any]], rows: NDArray[np.bool_]) -> str:
    row = int(np.flatnonzero(rows)[0])
    return f"where the inputs are { {name: values[row].tolist() for name, values in arrays.items()} }"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.tower", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the model; weights inside the file")
    parser.add_argument("--inputs", type=Path, required=True, metavar="FILE", help="TOML: which item fields it reads, and how")
    parser.add_argument("--name", required=True, help="name of the space, [a-z][a-z0-9]*")
    parser.add_argument("--version", type=positive, required=True, help="of the space; rises with every change")
    parser.add_argument("--training-cutoff", type=day, metavar="DAY", help="no training example is from this day or later")
    parser.add_argument("--source", default="", help="where the model is from; kept in the manifest")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="artifact folder; an older artifact is replaced")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        require_replaceable(arguments.out)
        inputs = read_inputs(arguments.inputs)
        try:
            model = arguments.onnx.read_bytes()
        except OSError as error:
            raise Misconfigured(f"--onnx {arguments.onnx}: expected an ONNX file, got {type(error).__name__}") from error
        manifest = make_tower(
            model, inputs, (arguments.name, arguments.version),
            training_cutoff=arguments.training_cutoff, provenance=arguments.source,
        )  # fmt: skip
        space = save_tower(arguments.out, model, inputs, manifest)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(  # noqa: T201
        f'[[space]]\nname = "{space.name}"\nversion = {space.version}\ndim = {space.dim}\n'
        f'encoder_digest = "{space.encoder_digest}"\nartifact = "{arguments.out.absolute()}"'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
