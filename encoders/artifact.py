"""A trained encoder on disk: one directory, every byte of it that decides a vector under one digest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from encoders.onnx_guard import check_model
from encoders.tokenizer import TokenizerConfig
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

FORMAT_VERSION: Final = 1
MANIFEST_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """File names inside an artifact directory; `digested` is the order in which the digest reads them."""

    image_model: str = "image.onnx"
    text_model: str = "text.onnx"
    fusion_model: str = "fusion.onnx"
    tokenizer: str = "tokenizer.json"
    preprocessing: str = "preprocessing.json"
    manifest: str = "manifest.json"

    @property
    def models(self) -> tuple[str, ...]:
        """The ONNX files."""
        return (self.image_model, self.text_model, self.fusion_model)

    @property
    def digested(self) -> tuple[str, ...]:
        """Everything that decides a vector."""
        return (*self.models, self.tokenizer, self.preprocessing)


LAYOUT: Final = Layout()


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What `preprocessing.json` holds.

    Args:
        height, width: images are stretched to this size, RGB, uint8.
        title_max_chars: longer titles are rejected, not cut: they are a fault of the catalog.
        max_bytes, max_pixels: larger images are rejected before decoding.
    """

    height: int = 96
    width: int = 96
    title_max_chars: int = 10_000
    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 25_000_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    Args:
        space: name, version, dim and digest of the vectors.
        opset: ONNX opset of every model file.
        training_cutoff: ISO date; no dated training example is from this day or later; None: nothing was dated.
        metrics: measured on held-out groups, beside an untrained copy.
        provenance: data sets with licences and attribution, training settings, seed.
    """

    space: EmbeddingSpace
    opset: int
    training_cutoff: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A loaded artifact whose digest was checked. `files` holds the bytes of `Layout.digested`."""

    manifest: Manifest
    tokenizer: TokenizerConfig
    preprocessing: Preprocessing
    files: Mapping[str, bytes]


def digest_of(files: Mapping[str, bytes]) -> str:
    """``sha256:<hex>`` over name, length and bytes of each of `Layout.digested`, in that order."""
    total = hashlib.sha256()
    for name in LAYOUT.digested:
        total.update(f"{name}\0{len(files[name])}\0".encode())
        total.update(files[name])
    return f"sha256:{total.hexdigest()}"


def load_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read a directory, check its digest, and refuse models that reach outside their file.

    Raises:
        Misconfigured: a file is missing or malformed, the digest differs, or a model is refused.
    """
    folder = Path(path)
    manifest = _manifest(_json(_read(folder / LAYOUT.manifest), LAYOUT.manifest), folder)
    files = {name: _read(folder / name) for name in LAYOUT.digested}
    got = digest_of(files)
    if got != manifest.space.encoder_digest:
        raise Misconfigured(
            f"encoder {folder}: expected digest {manifest.space.encoder_digest}, got {got}; "
            "the files are not those of the manifest: copy the whole artifact again, or give a new one a new version"
        )
    for name in LAYOUT.models:
        check_model(files[name], name=str(folder / name))
    try:
        tokenizer = TokenizerConfig(**_json(files[LAYOUT.tokenizer], LAYOUT.tokenizer))
        preprocessing = Preprocessing(**_json(files[LAYOUT.preprocessing], LAYOUT.preprocessing))
    except TypeError as error:
        raise Misconfigured(f"encoder {folder}: unknown setting ({error}); use a newer moontide") from error
    return Artifact(manifest, tokenizer, preprocessing, files)


def save_artifact(
    path: str | os.PathLike[str],
    models: Mapping[str, bytes],
    *,
    tokenizer: TokenizerConfig,
    preprocessing: Preprocessing,
    manifest: Manifest,
) -> EmbeddingSpace:
    """Write an artifact so that `path` is never half of one; returns its space with the digest filled in.

    Raises:
        Misconfigured: a model that `load_artifact` would refuse, or `path` holds something else than an artifact.
    """
    require_replaceable(path)
    files = dict(models)
    files[LAYOUT.tokenizer] = _dump(asdict(tokenizer))
    files[LAYOUT.preprocessing] = _dump(asdict(preprocessing))
    for name in LAYOUT.models:
        check_model(files[name], name=name)
    old = manifest.space
    space = EmbeddingSpace(old.name, old.version, old.dim, digest_of(files))
    body = {
        "format_version": FORMAT_VERSION,
        "space": {"name": space.name, "version": space.version, "dim": space.dim},
        "digest": space.encoder_digest,
        "digest_order": list(LAYOUT.digested),
        "opset": manifest.opset,
        "training_cutoff": manifest.training_cutoff,
        "metrics": dict(manifest.metrics),
        "provenance": dict(manifest.provenance),
    }
    files[LAYOUT.manifest] = _dump(body)
    _replace_folder(Path(path), files)
    return space


def require_replaceable(path: str | os.PathLike[str]) -> None:
    """Refuse a place where `save_artifact` would delete something that is not an artifact.

    Raises:
        Misconfigured: `path` is a file, a link, or a folder with content and no manifest of an artifact.
    """
    target = Path(path)
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise Misconfigured(f"artifact {target}: expected a folder or nothing, got a file or a link; choose another --out")
    if any(target.iterdir()) and not _has_manifest(target):
        raise Misconfigured(
            f"artifact {target}: expected an artifact, an empty folder or nothing, got a folder with other content; "
            "choose another --out, writing there would delete it"
        )


def _has_manifest(folder: Path) -> bool:
    try:
        body = _json(_read(folder / LAYOUT.manifest), LAYOUT.manifest)
    except Misconfigured:
        return False
    return body.keys() >= {"format_version", "space", "digest"}


def _replace_folder(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    retired = fresh.with_name(f"{fresh.name}.old")
    try:
        for name, data in files.items():
            with (fresh / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        fresh.chmod(0o755)
        if target.exists():
            # A folder cannot be renamed over another; between the two renames there is none, never half of one.
            target.rename(retired)
        fresh.rename(target)
    finally:
        for leftover in (fresh, retired):
            if leftover.exists():
                shutil.rmtree(leftover)


def _manifest(body: dict[str, Any], folder: Path) -> Manifest:
    if body.get("format_version") != FORMAT_VERSION:
        raise Misconfigured(
            f"encoder {folder}: expected format_version {FORMAT_VERSION}, got {body.get('format_version')!r}; "
            "use the moontide version that wrote it"
        )
    try:
        space = EmbeddingSpace(**body["space"], encoder_digest=body["digest"])
        opset = int(body["opset"])
    except (KeyError, TypeError, ValueError) as error:
        raise Misconfigured(f"encoder {folder}: manifest.json lacks or misstates {error}; export it again") from error
    if not space.encoder_digest:
        raise Misconfigured(f"encoder {folder}: expected a digest in manifest.json, got none; export it again")
    cutoff = body.get("training_cutoff")
    return Manifest(space, opset, cutoff, body.get("metrics", {}), body.get("provenance", {}))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"encoder file {path}: {type(error).__name__}; expected an artifact directory with "
            f"{', '.join((*LAYOUT.digested, LAYOUT.manifest))}"
        ) from error


def _json(data: bytes, name: str) -> dict[str, Any]:
    if len(data) > MANIFEST_MAX_BYTES:
        raise Misconfigured(f"{name}: expected at most {MANIFEST_MAX_BYTES} bytes, got {len(data)}")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{name}: expected JSON, got something else ({error}); copy the artifact again") from error
    if not isinstance(body, dict):
        raise Misconfigured(f"{name}: expected a JSON object, got {type(body).__name__}")
    return body


def _dump(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()
