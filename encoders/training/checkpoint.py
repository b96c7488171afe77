"""Checkpoints of training: everything the next step depends on, on disk without a pickle.

A checkpoint is a folder ``<stage>-<steps done>`` with ``stage.safetensors`` (what `Stage.state` gives: model, momentum
encoder, queues), ``optimizer.safetensors``, ``random.safetensors`` (torch's global generators; batches need none, they
follow from seed and step) and ``checkpoint.json``, which holds the rest and the checksum of every file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from encoders.artifact_folder import dump_object, replace_folder
from moontide.errors import Misconfigured, Transient
from moontide.stores.offline_files import fsync

FORMAT_VERSION: Final = 1
META: Final = "checkpoint.json"
PARTS: Final = ("stage", "optimizer", "random")
_NAME: Final = re.compile(r"([a-z][a-z0-9_]*)-(\d{8})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after `step` of `steps` steps of a stage.

    Args:
        tensors: flat name to tensor for each of `PARTS`.
        history: every record of the run so far, of earlier stages too.
        skipped: steps of this stage so far whose batch had no loss.
    """

    stage: str
    step: int
    steps: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0


class CheckpointFolder:
    """The checkpoints of one run: the last `keep` of the stage at work, the last one of every earlier stage.

    Args:
        folder: made when the first checkpoint is written.
        digests: what a checkpoint belongs to, by name, e.g. config and data; another value is refused.
        resume: False: the folder must hold no checkpoint yet.

    Raises:
        Misconfigured: `folder` is a file, or holds checkpoints and `resume` is off.
    """

    def __init__(self, folder: Path, digests: Mapping[str, str], *, resume: bool = False, keep: int = 2) -> None:
        self.folder, self.digests, self.keep = folder, dict(digests), keep
        if folder.exists() and not folder.is_dir():
            raise Misconfigured(f"checkpoints {folder}: expected a folder or nothing, got a file; choose another folder")
        found = [path.name for path in self._all()]
        if found and not resume:
            raise Misconfigured(
                f"checkpoints {folder}: expected none, got {found}; go on with them (--resume), or choose another folder"
            )

    def latest(self, stage: str) -> Checkpoint | None:
        """The newest checkpoint of a stage, checked; None: there is none, the stage starts at its beginning.

        Raises:
            Misconfigured: it belongs to another config, data or stage, or its files are not those that were written.
        """
        paths = self._all(stage)
        return self._load(paths[-1], stage) if paths else None

    def newest(self) -> Path | None:
        """The folder written last, of any stage; what a message about a failed run points at."""
        return max(self._all(), key=lambda path: path.stat().st_mtime_ns, default=None)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint so that its folder is never half of one, then drop those too old to keep.

        Raises:
            Transient: the disk took none of it; the checkpoint before is untouched.
        """
        target = self.folder / f"{checkpoint.stage}-{checkpoint.step:08d}"
        if not _NAME.fullmatch(target.name):
            raise Misconfigured(f"stage name {checkpoint.stage!r}: expected [a-z][a-z0-9_]*")
        files = {f"{part}.safetensors": _bytes_of(checkpoint.tensors[part]) for part in PARTS}
        body = {
            "format_version": FORMAT_VERSION, "stage": checkpoint.stage, "step": checkpoint.step, "steps": checkpoint.steps,
            "skipped": checkpoint.skipped, "digests": self.digests, "history": checkpoint.history,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }  # fmt: skip
        try:
            replace_folder(target, {**files, META: dump_object({"checksum": _body_checksum(body), **body})})
            fsync(self.folder)
        except OSError as error:
            raise Transient(
                f"checkpoint {target}: expected to write it, got {error}; make room, then go on (--resume)"
            ) from error
        for old in self._all(checkpoint.stage)[: -self.keep]:
            shutil.rmtree(old)
        return target

    def close_stage(self, stage: str) -> None:
        """A stage is over: only its last checkpoint is kept, which the next stage is built on."""
        for old in self._all(stage)[:-1]:
            shutil.rmtree(old)

    def _all(self, stage: str | None = None) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = ((path, _NAME.fullmatch(path.name)) for path in self.folder.iterdir())
        return sorted(path for path, name in found if name and path.is_dir() and stage in (None, name[1]))

    def _load(self, folder: Path, stage: str) -> Checkpoint:
        body = _read_meta(folder)
        for name, expected in self.digests.items():
            got = body["digests"].get(name)
            if got != expected:
                raise Misconfigured(
                    f"checkpoint {folder}: expected {name} {expected}, got {got}; go on with the {name} it was written with, "
                    "or start anew in another folder"
                )
        if body["stage"] != stage:
            raise Misconfigured(f"checkpoint {folder}: expected stage {stage}, got {body['stage']}; do not rename checkpoints")
        tensors = {part: _read_tensors(folder / f"{part}.safetensors", body["files"]) for part in PARTS}
        return Checkpoint(stage, body["step"], body["steps"], tensors, body["history"], body["skipped"])


def _bytes_of(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies: the format refuses tensors that share memory, and tied weights do.
    data: bytes = save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
    return data


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _body_checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    advice = "copy the whole folder again, or delete it: the one before it is used then"
    try:
        body = json.loads((folder / META).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Misconfigured(f"checkpoint {folder}: expected {META}, got {type(error).__name__}; {advice}") from error
    if not isinstance(body, dict) or body.get("format_version") != FORMAT_VERSION:
        got = body.get("format_version") if isinstance(body, dict) else type(body).__name__
        raise Misconfigured(f"checkpoint {folder}: expected format_version {FORMAT_VERSION}, got {got}; {advice}")
    expected = body.pop("checksum", None)
    got = _body_checksum(body)
    if got != expected:
        raise Misconfigured(f"checkpoint {folder / META}: expected checksum {expected}, got {got}; {advice}")
    return body


def _read_tensors(path: Path, files: Mapping[str, str]) -> dict[str, Tensor]:
    advice = "it is truncated or was edited: delete this checkpoint, the one before it is used then"
    try:
        got = _checksum(path)
        if got != files[path.name]:
            raise Misconfigured(f"checkpoint {path}: expected checksum {files[path.name]}, got {got}; {advice}")
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Misconfigured(f"checkpoint {path}: expected tensors, got {type(error).__name__}; {advice}") from error
    return tensors
