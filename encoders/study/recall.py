"""Recall of an artifact through `python -m encoders.evaluate`, and the measures in what it writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from encoders.study.runs import HERE, RESULT, python
from moontide.errors import Misconfigured

EVALUATE: Final = "encoders.evaluate"
DEFAULT_MEASURE: Final = "online_retail/title_damaged recall_at_10"


def evaluate_command(
    artifact: object, data: Sequence[Path], *, dim: int | None = None, queries: int | None = None, program: str = EVALUATE
) -> tuple[str, ...]:
    """The command that leaves ``{run}/result.json``, of the test split: ``auto`` would differ from encoder to encoder."""
    extra = [*(["--dims", dim] if dim else []), *(["--queries", queries] if queries else [])]
    return python(program, artifact, "--data", *data, "--split", "test", "--json", f"{HERE}/{RESULT}", "--threads", 1, *extra)


def measures_of(body: Any, *, dim: int | None = None) -> dict[str, float]:
    """``"<data set>/<task> <measure>"`` to its value in 0..1, of the whole vector or of the prefix `dim`.

    Raises:
        Misconfigured: not the JSON of `encoders.evaluate`.
    """
    try:
        method = f"d{dim}" if dim else body["artifact"]["space"]
        return {
            f"{task['name']} {name}": float(by[method]["value"])
            for data in body["data"] for task in data["tasks"] for name, by in task["measures"].items() if method in by
        }  # fmt: skip
    except (KeyError, TypeError) as error:
        raise Misconfigured(f"measurement: expected the JSON of encoders.evaluate, got none with {error}") from error


def measure_of(body: Any, name: str, *, dim: int | None = None) -> float:
    """One measure.

    Raises:
        Misconfigured: it is not there; the message names those that are.
    """
    found = measures_of(body, dim=dim)
    if name not in found:
        raise Misconfigured(f"--measure: expected one of {sorted(found)}, got {name!r}")
    return found[name]


def identity_of(artifact: Path) -> dict[str, Any]:
    """``digest`` and ``training_cutoff`` in an artifact's manifest: its path may hold another encoder tomorrow.

    Raises:
        Misconfigured: no artifact there.
    """
    path = artifact / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        return {"digest": str(manifest["digest"]), "training_cutoff": manifest.get("training_cutoff")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path}: expected an artifact's manifest; {type(error).__name__} {error}") from error
