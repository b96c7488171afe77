"""Which precision computes: the faster of those that agree with fp32, by a measurement on this machine at start-up.

``python -m encoders.variants ARTIFACT [--threads N]`` prints the measurement.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from encoders.artifact import LAYOUT, Agreement, Artifact, load_artifact
from encoders.onnx_parts import join
from encoders.sample_inputs import cosines, smooth_pictures
from encoders.sessions import open_session
from moontide.errors import Misconfigured, MoontideError

Precision = Literal["fp32", "int8", "bf16"]
Wanted = Literal["auto", "fp32", "int8", "bf16"]

#: What `auto` asks of a variant's `Agreement`: its vectors go into one space with those of fp32.
MIN_COSINE: Final = 0.95
MEAN_COSINE: Final = 0.99
RECALL_LOSS: Final = 0.5
#: A variant takes over only where it saves this share of the time: less is noise.
GAIN: Final = 0.05
SECONDS: Final = 1.0
_PROBE: Final = 8
_ROUNDS: Final = 7

Sessions = Mapping[str, ort.InferenceSession]


@dataclass(frozen=True, slots=True)
class Variant:
    """Another way to compute the same model.

    Args:
        files: variant file by the model it replaces.
        options: session entries of onnxruntime.
        machines: processors that have it; empty: all.
        lacks: why other processors do not.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    machines: tuple[str, ...] = ()
    lacks: str = ""


VARIANTS: Final[Mapping[Precision, Variant]] = {
    "fp32": Variant(),
    "int8": Variant({LAYOUT.image_model: LAYOUT.image_int8, LAYOUT.text_model: LAYOUT.text_int8}),
    "bf16": Variant(
        options={"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"},
        machines=("aarch64", "arm64"),
        lacks="onnxruntime's CPU provider has bfloat16 products on arm64 only, and no bfloat16 convolution",
    ),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision an encoder computes in, and why.

    Attributes:
        name: the precision.
        milliseconds: median time of the probe batch by precision; empty where nothing was measured.
        left_out: reason by precision that was not considered.
    """

    name: Precision
    milliseconds: Mapping[Precision, float] = field(default_factory=dict)
    left_out: Mapping[Precision, str] = field(default_factory=dict)

    def __str__(self) -> str:
        times = [f"{name} {value:.1f} ms" for name, value in self.milliseconds.items()]
        return "; ".join([self.name, *times, *(f"{name} left out: {why}" for name, why in self.left_out.items())])


_chosen: dict[tuple[str, int], Choice] = {}
_choosing = threading.Lock()


def open_models(artifact: Artifact, wanted: Wanted, *, threads: int) -> tuple[Sessions, Choice]:
    """Sessions by `Layout` name of the models the artifact has, and the precision they compute in.

    Args:
        artifact: of any format.
        wanted: a precision, or ``auto``: the fastest here among fp32 and the variants that the manifest says agree with
            it. Measured once a process.
        threads: of one call.

    Raises:
        Misconfigured: no such precision, or it cannot run here.
    """
    require_precision(artifact, wanted)
    if wanted != "auto":
        return _sessions(artifact, wanted, threads), Choice(wanted)
    key = (artifact.manifest.space.encoder_digest, threads)
    with _choosing:
        if key not in _chosen:
            _chosen[key] = choose(artifact, threads=threads)
    return _sessions(artifact, _chosen[key].name, threads), _chosen[key]


def require_precision(artifact: Artifact, wanted: Wanted) -> None:
    """Refuse what this machine, or this artifact, does not have.

    Raises:
        Misconfigured: no such precision, or it cannot run here.
    """
    if wanted not in get_args(Wanted):
        raise Misconfigured(f"precision: expected one of {get_args(Wanted)}, got {wanted!r}; correct MOONTIDE_ENCODER_PRECISION")
    reason = "" if wanted == "auto" else _unable(artifact, wanted)
    if reason:
        raise Misconfigured(f"precision {wanted}: {reason}; set MOONTIDE_ENCODER_PRECISION to fp32 or auto")


def choose(artifact: Artifact, *, threads: int, clock: Callable[[], float] = time.perf_counter) -> Choice:
    """Measure fp32 and each eligible variant, in turns, for about `SECONDS`."""
    left_out: dict[Precision, str] = {}
    runs: dict[Precision, Callable[[], NDArray[np.float32]]] = {}
    for name in VARIANTS:
        reason = _unable(artifact, name) or _disagrees(artifact.manifest.variants.get(name), name)
        if not reason:
            try:
                runs[name] = _probe(artifact, _sessions(artifact, name, threads))
            except Misconfigured as error:
                reason = str(error)
        if reason:
            left_out[name] = reason
    if len(runs) == 1:
        return Choice("fp32", {}, left_out)
    expected = runs["fp32"]()
    for name in [name for name in runs if name != "fp32"]:
        # Kernels differ from processor to processor: what agreed where the artifact was made need not agree here.
        least = float(cosines(expected, runs[name]()).min())
        if not least >= MIN_COSINE:
            left_out[name] = f"on this machine: expected a cosine with fp32 of {MIN_COSINE}, got {least:.3f}"
            del runs[name]
    times = _measure(runs, clock)
    best = min(times, key=lambda name: times[name])
    if times[best] > (1.0 - GAIN) * times["fp32"]:
        best = "fp32"
    return Choice(best, times, left_out)


def _measure(runs: Mapping[Precision, Callable[[], object]], clock: Callable[[], float]) -> dict[Precision, float]:
    """Median milliseconds of each, in turns; stops after `SECONDS`, and never before one whole turn."""
    taken: dict[Precision, list[float]] = {name: [] for name in runs}
    begun = clock()
    for turn in range(_ROUNDS):
        if turn and clock() - begun > SECONDS:
            break
        for name, run in runs.items():
            start = clock()
            run()
            taken[name].append((clock() - start) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def _probe(artifact: Artifact, sessions: Sessions) -> Callable[[], NDArray[np.float32]]:
    """Run every tower that a variant may replace on one batch; rows of both, one below the other."""
    size = artifact.preprocessing
    square = smooth_pictures(_PROBE, max(size.height, size.width))[:, : size.height, : size.width]
    made = {name: _feeds(sessions[name], square) for name in (LAYOUT.image_model, LAYOUT.text_model) if name in sessions}

    def run() -> NDArray[np.float32]:
        return np.concatenate([sessions[name].run(None, feeds)[0] for name, feeds in made.items()])

    return run


def _feeds(session: ort.InferenceSession, pictures: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Pictures for a picture tower; for a text tower 24 features a row, ids below 100, of kind 1 and weight 1."""
    ids = np.random.default_rng(0).integers(1, 100, (_PROBE, 24)).astype(np.int32)
    known: dict[str, NDArray[Any]] = {"pixels": np.ascontiguousarray(pictures), "ids": ids, "kinds": np.ones(ids.shape, np.uint8),
             "weights": np.ones(ids.shape, np.float32)}  # fmt: skip
    return {value.name: known[value.name] for value in session.get_inputs()}


def _sessions(artifact: Artifact, name: Precision, threads: int) -> Sessions:
    variant = VARIANTS[name]
    made = {}
    for model in LAYOUT.models:
        if model not in artifact.files:
            continue
        other, data = variant.files.get(model, ""), artifact.files[model]
        if other in artifact.files:
            data = join(artifact.files[other], data, name=other)
        made[model] = open_session(
            data, threads=threads, name=other if other in artifact.files else model, options=variant.options
        )
    return made


def _unable(artifact: Artifact, name: Precision) -> str:
    """Why this machine, or this artifact, has no such variant; empty: it has."""
    variant = VARIANTS[name]
    if variant.machines and platform.machine() not in variant.machines:
        return variant.lacks
    if variant.files and not set(variant.files.values()) & artifact.files.keys():
        return f"the artifact has none of {sorted(variant.files.values())}"
    return ""


def _disagrees(agreement: Agreement | None, name: Precision) -> str:
    """Why `auto` must not take a variant; empty: it may."""
    if name == "fp32":
        return ""
    if agreement is None:
        return "the artifact's manifest does not say how far it agrees with fp32"
    if agreement.min_cosine < MIN_COSINE or agreement.mean_cosine < MEAN_COSINE or agreement.recall_loss > RECALL_LOSS:
        return (
            f"expected cosines with fp32 of {MIN_COSINE} (least) and {MEAN_COSINE} (mean), at most {RECALL_LOSS} points of "
            f"recall lost, got {agreement.min_cosine:.4f}, {agreement.mean_cosine:.4f} and {agreement.recall_loss:.2f}"
        )
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m encoders.variants", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", help="folder of an encoder")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="as the encoder will have")
    arguments = parser.parse_args(argv)
    try:
        print(choose(load_artifact(arguments.artifact), threads=max(arguments.threads, 1)))  # noqa: T201
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
