"""An item tower on disk: one ONNX file, what its inputs are, vocabularies, and a manifest with a digest over all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from encoders.artifact import FORMAT_VERSION, Manifest, digest_of, require_replaceable
from encoders.artifact_folder import dump_object, parse_object, read_file, replace_folder
from encoders.artifact_layout import LAYOUT
from encoders.onnx_guard import check_model
from encoders.toml_config import build
from encoders.tower_inputs import Column, Input, TowerInputs, read_vocabulary
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

#: `kind` in the manifest; a MOON encoder's has none.
KIND: Final = "item_tower"
MODEL: Final = "tower.onnx"
INPUTS: Final = "inputs.json"


@dataclass(frozen=True, slots=True)
class TowerArtifact:
    """A loaded item tower whose digest was checked."""

    manifest: Manifest
    inputs: TowerInputs
    model: bytes


def is_tower(path: str | os.PathLike[str]) -> bool:
    """Whether a folder's manifest says that it is an item tower; false where there is no manifest to read."""
    try:
        return _manifest(Path(path)).get("kind") == KIND
    except Misconfigured:
        return False


def load_tower(path: str | os.PathLike[str]) -> TowerArtifact:
    """Read a directory, check its digest, and refuse a model that reaches outside its file.

    Raises:
        Misconfigured: a file is missing or malformed, the digest differs, or the model is refused.
    """
    folder = Path(path)
    body = _manifest(folder)
    if body.get("kind") != KIND or body.get("format_version") != FORMAT_VERSION:
        raise Misconfigured(
            f"item tower {folder}: expected kind {KIND!r} of format_version {FORMAT_VERSION}, "
            f"got {body.get('kind')!r} of {body.get('format_version')!r}; use the moontide version that wrote it"
        )
    try:
        listed = [str(name) for name in body["digest_order"]]
        space = EmbeddingSpace(**body["space"], encoder_digest=body["digest"])
        manifest = Manifest(space, int(body["opset"]), body.get("training_cutoff"), {}, body.get("provenance", {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Misconfigured(f"item tower {folder}: manifest.json lacks or misstates {error}; make it again") from error
    if listed[:2] != [MODEL, INPUTS] or not all(name == Path(name).name for name in listed):
        raise Misconfigured(f"item tower {folder}: expected {[MODEL, INPUTS]} and vocabularies, got {listed}; make it again")
    files = {name: read_file(folder / name, expected=(*listed, LAYOUT.manifest)) for name in listed}
    got = digest_of(files, tuple(listed))
    if got != space.encoder_digest:
        raise Misconfigured(
            f"item tower {folder}: expected digest {space.encoder_digest or 'in manifest.json'}, got {got}; the files are not "
            "those of the manifest: copy the whole artifact again, or give a new one a new version"
        )
    check_model(files[MODEL], name=f"{folder}/{MODEL}")
    return TowerArtifact(manifest, _parsed(files), files[MODEL])


def save_tower(path: str | os.PathLike[str], model: bytes, inputs: TowerInputs, manifest: Manifest) -> EmbeddingSpace:
    """Write an item tower so that `path` is never half of one; returns its space with the digest filled in.

    Raises:
        Misconfigured: a model that `load_tower` would refuse, or `path` holds something else than an artifact.
    """
    require_replaceable(path)
    check_model(model, name=MODEL)
    words = {f"vocabulary_{n}.txt": name for n, name in enumerate(sorted(inputs.vocabularies))}
    names = {old: new for new, old in words.items()}
    files = {MODEL: model, INPUTS: dump_object(_described(inputs, names))}
    files |= {new: ("\n".join(inputs.vocabularies[old]) + "\n").encode() for new, old in words.items()}
    order = tuple(files)
    old = manifest.space
    space = EmbeddingSpace(old.name, old.version, old.dim, digest_of(files, order))
    body = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "space": {"name": space.name, "version": space.version, "dim": space.dim},
        "digest": space.encoder_digest,
        "digest_order": list(order),
        "opset": manifest.opset,
        "training_cutoff": manifest.training_cutoff,
        "provenance": dict(manifest.provenance),
    }
    replace_folder(Path(path), {**files, LAYOUT.manifest: dump_object(body)})
    return space


def inputs_from(body: Mapping[str, Any], vocabularies: Mapping[str, bytes]) -> TowerInputs:
    """The description that ``inputs.toml`` or ``inputs.json`` holds, parsed.

    Raises:
        Misconfigured: an unknown key, a value of another kind, or a description that cannot be.
    """
    unknown = sorted(set(body) - {"output", "input"})
    entries = body.get("input", [])
    if unknown or not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise Misconfigured(f"inputs: expected output and [[input]] tables, got {unknown or type(entries).__name__}")
    output = body.get("output", "")
    if not isinstance(output, str):
        raise Misconfigured(f"inputs: output: expected the name of an output, got {output!r}")
    inputs = tuple(_input(each, at) for at, each in enumerate(entries))
    return TowerInputs(inputs, {name: read_vocabulary(data, name) for name, data in vocabularies.items()}, output)


def _input(body: Mapping[str, Any], at: int) -> Input:
    columns = body.get("columns")
    if set(body) != {"name", "columns"} or not isinstance(columns, list) or not isinstance(body["name"], str):
        raise Misconfigured(f"input {at + 1}: expected name and columns, a list, got {sorted(body)}")
    where = f"input {body['name']}"
    for column in columns:
        if not isinstance(column, dict) or "field" not in column:
            raise Misconfigured(f'{where}: expected columns like {{ field = "price" }}, got {column!r}')
    return Input(body["name"], tuple(_column(column, where) for column in columns))


def _column(body: Mapping[str, Any], where: str) -> Column:
    missing = body.get("missing")
    if missing is not None and (isinstance(missing, bool) or not isinstance(missing, int | float)):
        raise Misconfigured(f"{where}: missing: expected a number, got {missing!r}")
    made = build(_Plain, {name: value for name, value in body.items() if name != "missing"}, where)
    return Column(**asdict(made), missing=None if missing is None else float(missing))


@dataclass(frozen=True, slots=True)
class _Plain:
    """`Column` less `missing`, whose type is a union."""

    field: str
    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0
    vocabulary: str = ""
    first: int = 1
    unknown: int = 0


def _described(inputs: TowerInputs, names: Mapping[str, str]) -> dict[str, Any]:
    """The body of `INPUTS`: every key that is not at its default."""
    defaults = {f.name: f.default for f in fields(Column)}

    def column(each: Column) -> dict[str, Any]:
        kept = {name: value for name, value in asdict(each).items() if value != defaults[name]}
        return kept | ({"vocabulary": names[each.vocabulary]} if each.vocabulary else {})

    described = [{"name": each.name, "columns": [column(c) for c in each.columns]} for each in inputs.inputs]
    return {"input": described} | ({"output": inputs.output} if inputs.output else {})


def _parsed(files: Mapping[str, bytes]) -> TowerInputs:
    words = {name: data for name, data in files.items() if name not in (MODEL, INPUTS)}
    return inputs_from(parse_object(files[INPUTS], INPUTS), words)


def _manifest(folder: Path) -> dict[str, Any]:
    return parse_object(read_file(folder / LAYOUT.manifest, expected=(LAYOUT.manifest,)), LAYOUT.manifest)
