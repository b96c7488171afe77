"""ONNX Runtime sessions over model bytes that were checked before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnxruntime as ort

from moontide.errors import Misconfigured

_STATE: Final = ort.capi.onnxruntime_pybind11_state
_REFUSED: Final = (_STATE.Fail, _STATE.InvalidGraph, _STATE.InvalidArgument, _STATE.InvalidProtobuf, _STATE.NotImplemented,
                   _STATE.NoSuchFile, _STATE.RuntimeException)  # fmt: skip

#: What `InferenceSession.run` raises where the model cannot compute on its inputs.
RUN_ERRORS: Final = (_STATE.RuntimeException, _STATE.InvalidArgument, _STATE.Fail, _STATE.NotImplemented)


def open_session(model: bytes, *, threads: int, name: str, options: Mapping[str, str] | None = None) -> ort.InferenceSession:
    """A session of `threads` threads that sleep when there is nothing to do.

    Args:
        model: ONNX bytes.
        threads: of one call.
        name: of the file, for errors.
        options: session configuration entries of onnxruntime.

    Raises:
        Misconfigured: onnxruntime cannot run it.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # Spinning workers would take the cores that decoding, Kafka or the ranker need.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (options or {}).items():
        settings.add_session_config_entry(key, value)
    settings.log_severity_level = 4
    try:
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except _REFUSED as error:
        raise Misconfigured(f"{name}: onnxruntime cannot run it ({str(error)[:200]}); export it again") from error
