"""Weights of a model in one ``.safetensors`` file, with a note in JSON. Frozen vectors stay where they come from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from moontide.errors import Misconfigured


def write_weights(path: Path, model: nn.Module, note: Mapping[str, Any]) -> None:
    """Write every parameter and buffer of the model's state; a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    tensors = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, beside, metadata={"note": json.dumps(dict(note), sort_keys=True)})
    os.replace(beside, path)


def read_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load what `write_weights` wrote into a model of the same shape; returns the note.

    Raises:
        Misconfigured: no such file, a damaged one, or one of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note: dict[str, Any] = json.loads((file.metadata() or {}).get("note", "{}"))
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Misconfigured(f"weights {path}: expected those of this model, got {said}; train it again") from error
    return note
