"""Reading pretrained models of the `transformers` library, by local path or by name, from untrusted hands.

Only classes that moontide names are built, never code that comes with a model; only safetensors files are read, never
pickles; nothing is fetched unless asked; a weight that is missing is an error, where the library would fill in noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import cached_file

from moontide.errors import Misconfigured

_RESCALE: Final = 1 / 255
_BROKEN: Final = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Where a model lies.

    Args:
        name: a folder, or a name that `transformers` finds in its cache.
        download: a name may be fetched from the hub; False: nothing leaves this machine.
    """

    name: str
    download: bool = False

    @property
    def title(self) -> str:
        """The name without the folders above it: what a manifest may say."""
        return Path(self.name).resolve().name if Path(self.name).is_dir() else self.name

    def config(self) -> dict[str, Any]:
        """The model's `config.json`.

        Raises:
            Misconfigured: no such model here, or a file that says no model type.
        """
        config, _ = self.reading("config.json", transformers.PretrainedConfig.get_config_dict)
        if not isinstance(config.get("model_type"), str):
            raise Misconfigured(f"model {self.name}: expected a model_type in config.json, got none; give a transformers model")
        return dict(config)

    def network(self, class_name: str, **settings: Any) -> Any:
        """The network in float32, in eval mode, with every weight from the file.

        Raises:
            Misconfigured: no safetensors file, or one that lacks weights of this class.
        """
        build = getattr(transformers, class_name).from_pretrained
        network, report = self.reading(
            "weights", build, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **settings
        )
        missing = sorted(set(report["missing_keys"]) | {str(key) for key in report.get("mismatched_keys", ())})
        if missing:
            # transformers would fill them with noise and go on.
            raise Misconfigured(
                f"model {self.name}: expected every weight of {class_name}, {len(missing)} are missing, first {missing[:3]}; "
                "give the whole checkpoint"
            )
        return network.eval()

    def json_file(self, name: str) -> Any:
        """The content of a JSON file beside the model; None where there is none.

        Raises:
            Misconfigured: the file is not JSON.
        """
        found = self.reading(name, lambda at, **settings: cached_file(
            at, name, local_files_only=settings["local_files_only"],
            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        ))  # fmt: skip
        return None if found is None else self.reading(name, lambda *_, **__: json.loads(Path(found).read_text("utf-8")))

    def reading(self, what: str, read: Callable[..., Any], **settings: Any) -> Any:
        """`read(name, ...)` of the `transformers` library, offline unless `download`; its errors as ours."""
        try:
            return read(self.name, local_files_only=not self.download, trust_remote_code=False, **settings)
        except _BROKEN as error:
            hint = "" if self.download else "; a name that is not in the local cache needs download=True (--download)"
            raise Misconfigured(
                f"model {self.name}: cannot read {what} ({type(error).__name__}: {str(error)[:200]}); "
                f"expected a folder or name with config.json and model.safetensors{hint}"
            ) from error


@dataclass(frozen=True, slots=True)
class Picture:
    """How a model wants its pictures: `side` pixels, then ``(x - mean) / std`` of x in 0..1."""

    side: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


def picture_of(source: Pretrained) -> Picture:
    """Side, mean and deviation as the model's image processor states them.

    Raises:
        Misconfigured: no processor file, a side that is not one number, or another range than 0..1 before the mean.
    """
    body, _ = source.reading("preprocessor_config.json", ImageProcessingMixin.get_image_processor_dict)
    if body.get("do_rescale", True) and not math.isclose(body.get("rescale_factor", _RESCALE), _RESCALE, rel_tol=1e-3):
        raise Misconfigured(f"model {source.name}: expected a rescale_factor of 1/255, got {body['rescale_factor']!r}")
    normal = body.get("do_normalize", True) and "image_mean" in body
    return Picture(_side(source, body), *((tuple(body["image_mean"]), tuple(body["image_std"])) if normal else ()))


def _side(source: Pretrained, body: Mapping[str, Any]) -> int:
    if "max_num_patches" in body:
        return math.isqrt(int(body["max_num_patches"])) * int(body["patch_size"])
    cropped = body.get("do_center_crop", False) and body.get("crop_size")
    size = cropped or body.get("size")
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") if "shortest_edge" in size else {size.get("height"), size.get("width")}
        size = size.pop() if isinstance(size, set) and len(size) == 1 else size
    if type(size) is not int or size < 1:
        raise Misconfigured(
            f"model {source.name}: expected one side of square pictures in preprocessor_config.json, got {size!r}"
        )
    return size
