"""A trained encoder on disk: one directory, every byte of it that decides a vector under one digest."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from encoders.artifact_folder import dump_object, parse_object, read_file, replace_folder, require_folder
from encoders.artifact_layout import LAYOUT, Agreement, Layout, Preprocessing
from encoders.onnx_guard import check_model
from encoders.tokenizer import TokenizerConfig
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from encoders.hf_tokenizer import HuggingFaceTokenizerConfig

FORMAT_VERSION: Final = 2
#: Version 1 knew no optional file, no variants and no kinds of tokenizer; its digest is the same sum.
FORMATS_READ: Final = (1, FORMAT_VERSION)
HUGGING_FACE: Final = "huggingface"

__all__ = ["LAYOUT", "Agreement", "Artifact", "Layout", "Manifest", "Preprocessing", "digest_of", "load_artifact",
           "record_variants", "require_replaceable", "save_artifact"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    Args:
        space: name, version, dim and digest of the vectors.
        opset: ONNX opset of every model file.
        training_cutoff: ISO date; no dated training example is from this day or later; None: nothing was dated.
        metrics: measured on held-out groups, beside an untrained copy.
        provenance: data sets with licences and attribution, training settings, seed.
        variants: `Agreement` of each precision that was compared with fp32.
    """

    space: EmbeddingSpace
    opset: int
    training_cutoff: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Agreement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A loaded artifact whose digest was checked. `files` holds the bytes of those of `Layout.digested` it has."""

    manifest: Manifest
    tokenizer: TokenizerConfig | HuggingFaceTokenizerConfig
    preprocessing: Preprocessing
    files: Mapping[str, bytes]


def digest_of(files: Mapping[str, bytes], order: Sequence[str] = LAYOUT.digested) -> str:
    """``sha256:<hex>`` over name, length and bytes of each of `order` that is there, in that order."""
    total = hashlib.sha256()
    for name in (name for name in order if name in files):
        total.update(f"{name}\0{len(files[name])}\0".encode())
        total.update(files[name])
    return f"sha256:{total.hexdigest()}"


def load_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read a directory, check its digest, and refuse models that reach outside their file.

    Raises:
        Misconfigured: a file is missing or malformed, the digest differs, or a model is refused.
    """
    folder = Path(path)
    body = parse_object(read_file(folder / LAYOUT.manifest, expected=(*LAYOUT.digested[:5], LAYOUT.manifest)), LAYOUT.manifest)
    manifest, listed = _manifest(body, folder)
    files = {name: read_file(folder / name, expected=(*listed, LAYOUT.manifest)) for name in listed}
    got = digest_of(files)
    if got != manifest.space.encoder_digest:
        raise Misconfigured(
            f"encoder {folder}: expected digest {manifest.space.encoder_digest}, got {got}; "
            "the files are not those of the manifest: copy the whole artifact again, or give a new one a new version"
        )
    _check_files(files, str(folder))
    try:
        tokenizer = _tokenizer(parse_object(files[LAYOUT.tokenizer], LAYOUT.tokenizer))
        preprocessing = Preprocessing(**parse_object(files[LAYOUT.preprocessing], LAYOUT.preprocessing))
    except TypeError as error:
        raise Misconfigured(f"encoder {folder}: unknown setting ({error}); use a newer moontide") from error
    return Artifact(manifest, tokenizer, preprocessing, files)


def save_artifact(
    path: str | os.PathLike[str],
    models: Mapping[str, bytes],
    *,
    tokenizer: TokenizerConfig | HuggingFaceTokenizerConfig,
    preprocessing: Preprocessing,
    manifest: Manifest,
) -> EmbeddingSpace:
    """Write an artifact so that `path` is never half of one; returns its space with the digest filled in.

    Args:
        path: the folder; an older artifact there is replaced.
        models: bytes by `Layout` name: the ONNX files, and vocabulary, terms and variants where there are any.
        tokenizer, preprocessing, manifest: the rest.

    Raises:
        Misconfigured: a model that `load_artifact` would refuse, or `path` holds something else than an artifact.
    """
    require_replaceable(path)
    kind = {} if isinstance(tokenizer, TokenizerConfig) else {"kind": HUGGING_FACE}
    files = dict(models)
    files[LAYOUT.tokenizer] = dump_object(kind | _settings(tokenizer))
    files[LAYOUT.preprocessing] = dump_object(_settings(preprocessing))
    _check_files(files, "artifact")
    old = manifest.space
    space = EmbeddingSpace(old.name, old.version, old.dim, digest_of(files))
    body = {
        "format_version": FORMAT_VERSION,
        "space": {"name": space.name, "version": space.version, "dim": space.dim},
        "digest": space.encoder_digest,
        "digest_order": [name for name in LAYOUT.digested if name in files],
        "opset": manifest.opset,
        "training_cutoff": manifest.training_cutoff,
        "metrics": dict(manifest.metrics),
        "provenance": dict(manifest.provenance),
        "variants": {name: asdict(agreement) for name, agreement in manifest.variants.items()},
    }
    files[LAYOUT.manifest] = dump_object(body)
    replace_folder(Path(path), files)
    return space


def record_variants(path: str | os.PathLike[str], variants: Mapping[str, Agreement]) -> None:
    """Write how near each precision is to fp32 into an artifact's manifest; no digested byte changes."""
    artifact = load_artifact(path)
    manifest = dataclasses.replace(artifact.manifest, variants=dict(variants))
    models = {n: data for n, data in artifact.files.items() if n not in (LAYOUT.tokenizer, LAYOUT.preprocessing)}
    save_artifact(path, models, tokenizer=artifact.tokenizer, preprocessing=artifact.preprocessing, manifest=manifest)


def require_replaceable(path: str | os.PathLike[str]) -> None:
    """Refuse a place where `save_artifact` would delete something that is not an artifact.

    Raises:
        Misconfigured: `path` is a file, a link, or a folder with content and no manifest of an artifact.
    """
    require_folder(path, mark=LAYOUT.manifest, keys=("format_version", "space", "digest"))


def _manifest(body: dict[str, Any], folder: Path) -> tuple[Manifest, list[str]]:
    """The manifest, and the names of the files that belong to the artifact, in the digest's order."""
    version = body.get("format_version")
    if "kind" in body:
        raise Misconfigured(
            f"encoder {folder}: expected an encoder of images and texts, got kind {body['kind']!r}; name the artifact of one"
        )
    if version not in FORMATS_READ:
        raise Misconfigured(
            f"encoder {folder}: expected format_version {FORMATS_READ}, got {version!r}; use the moontide version that wrote it"
        )
    try:
        space = EmbeddingSpace(**body["space"], encoder_digest=body["digest"])
        opset = int(body["opset"])
        listed = list(LAYOUT.digested[:5]) if version == 1 else [str(name) for name in body["digest_order"]]
        variants = {str(name): Agreement(**found) for name, found in body.get("variants", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Misconfigured(f"encoder {folder}: manifest.json lacks or misstates {error}; export it again") from error
    if not space.encoder_digest:
        raise Misconfigured(f"encoder {folder}: expected a digest in manifest.json, got none; export it again")
    if listed != [name for name in LAYOUT.digested if name in listed]:
        raise Misconfigured(f"encoder {folder}: expected files among {LAYOUT.digested}, got {listed}; use a newer moontide")
    cutoff = body.get("training_cutoff")
    return Manifest(space, opset, cutoff, body.get("metrics", {}), body.get("provenance", {}), variants), listed


def _check_files(files: Mapping[str, bytes], where: str) -> None:
    missing = [name for name in LAYOUT.required if name not in files]
    if missing or not {LAYOUT.image_model, LAYOUT.text_model} & files.keys():
        raise Misconfigured(f"{where}: expected {LAYOUT.required} and a tower, got {sorted(files)}; export it again")
    for name, data in files.items():
        if name.endswith(".onnx"):
            check_model(data, name=f"{where}/{name}")


def _tokenizer(body: dict[str, Any]) -> TokenizerConfig | HuggingFaceTokenizerConfig:
    kind = body.pop("kind", None)
    if kind is None:
        return TokenizerConfig(**body)
    if kind != HUGGING_FACE:
        raise Misconfigured(f"{LAYOUT.tokenizer}: expected kind {HUGGING_FACE!r} or none, got {kind!r}; use a newer moontide")
    from encoders.hf_tokenizer import HuggingFaceTokenizerConfig

    return HuggingFaceTokenizerConfig(**body)


def _settings(config: Any) -> dict[str, Any]:
    """Fields of a dataclass; what came after version 1 is left out at its default, or saving anew would change old digests."""
    late = {
        f.name
        for f in dataclasses.fields(config)
        if getattr(config, f.name) == f.default and (f.default is None or f.metadata.get("since"))
    }
    return {name: value for name, value in asdict(config).items() if name not in late}
