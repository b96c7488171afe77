"""Pretrained models as artifacts, zero-shot: ``python -m encoders.huggingface --model PATH_OR_NAME --out artifacts/NAME ...``.

A CLIP-like model gives both towers, a sentence encoder the text alone, an image network the picture alone. What comes
out is run by `encoders.Encoder`, without torch and without `transformers`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from encoders.artifact import LAYOUT, Manifest, Preprocessing, require_replaceable, save_artifact
from encoders.backbones.huggingface_text import POOLINGS
from encoders.backbones.pretrained import Pretrained
from encoders.data import read_data_set
from encoders.export import OPSET, TORCH_COSINE, export_module
from encoders.hf_model import Loaded, MeanFusion, fit_projection, load
from encoders.hf_tokenizer import build_tokenizer
from encoders.item import Item
from encoders.sample_inputs import smooth_pictures
from encoders.sessions import open_session
from encoders.tokenizer import TokenizerConfig
from moontide.errors import Misconfigured, MoontideError
from moontide.spaces import EmbeddingSpace

#: An ONNX file is one protobuf message, and those end at 2 GB; the weights pass through float32.
MAX_WEIGHTS: Final = 450_000_000
MAX_LENGTH: Final = 8192
FIT_ITEMS: Final = 2000
_HALF_FROM: Final = 1024
_SAMPLES: Final = ("Red", "Red cotton hoodie with a pocket", "Glass vase 20 cm; hand made in a small workshop " * 9)

Feeds = Mapping[str, NDArray[Any]]


def export(
    loaded: Loaded, out: Path, space: EmbeddingSpace, *, projection: Tensor | None = None, licence: str = ""
) -> EmbeddingSpace:
    """Write the artifact; returns its space with the digest. Large weights are stored in half precision.

    Args:
        loaded: the model.
        out: the folder; an older artifact there is replaced.
        space: name and version; the dim is the model's.
        projection: (D, W) of `fit_projection`; None: the model's own width.
        licence: of the weights, for the manifest.

    Raises:
        Misconfigured: too large for an ONNX file, vectors that differ from torch's, or `out` holds something else.
    """
    require_replaceable(out)
    dim = loaded.width if projection is None else len(projection)
    parts = _parts(loaded, projection, dim)
    files = {name: _file(name, module, feeds) for name, (module, feeds) in parts.items()}
    agreement = {name: _agreement(name, files[name], *part) for name, part in parts.items()}
    if loaded.text is not None:
        files[LAYOUT.vocabulary] = loaded.text.vocabulary
    side = Preprocessing().height if loaded.image is None else loaded.image.side
    provenance = {
        "pretrained": loaded.origin, "licence": licence or "not stated: see the model's own card",
        "trained_here": False, "cosine_with_torch": agreement,
    }  # fmt: skip
    return save_artifact(
        out, files,
        tokenizer=TokenizerConfig() if loaded.text is None else loaded.text.tokenizer,
        preprocessing=Preprocessing(height=side, width=side),
        manifest=Manifest(EmbeddingSpace(space.name, space.version, dim), OPSET, provenance=provenance),
    )  # fmt: skip


def _parts(loaded: Loaded, projection: Tensor | None, dim: int) -> dict[str, tuple[nn.Module, Feeds]]:
    """Modules by `Layout` name, with example inputs."""
    image, text = loaded.modules(projection)
    random = np.random.default_rng(0)
    towers = random.standard_normal((2, 3, dim)).astype(np.float32)
    present = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    parts: dict[str, tuple[nn.Module, Feeds]] = {
        LAYOUT.fusion_model: (MeanFusion(), {"image": towers[0], "text": towers[1], "present": present})
    }
    if image is not None and loaded.image is not None:
        parts[LAYOUT.image_model] = (image, {"pixels": smooth_pictures(3, loaded.image.side)})
    if text is not None and loaded.text is not None:
        tokens = build_tokenizer(loaded.text.tokenizer, loaded.text.vocabulary)([Item("", title=words) for words in _SAMPLES])
        ids, kinds = tokens.padded(np.arange(len(tokens)))
        parts[LAYOUT.text_model] = (text, {"ids": ids, "kinds": kinds})
    return parts


def _file(name: str, module: nn.Module, feeds: Feeds) -> bytes:
    weights = sum(parameter.numel() for parameter in module.parameters())
    if weights > MAX_WEIGHTS:
        raise Misconfigured(f"{name}: expected at most {MAX_WEIGHTS} weights, got {weights}; use a smaller model")
    rows, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=MAX_LENGTH)
    shapes = {key: {0: rows, 1: length} if key in ("ids", "kinds") else {0: rows} for key in feeds}
    # A text of any length will come, and the exporter takes the longest for a constant.
    examples = {key: value[:, :5] if key in ("ids", "kinds") else value for key, value in feeds.items()}
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in examples.values())
    return _halved(export_module(module, tensors, shapes, store=False))


def _halved(data: bytes) -> bytes:
    """Large float32 weights in half precision; onnxruntime widens them once, at load."""
    model = onnx.load_from_string(data)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _HALF_FROM and np.abs(values).max() < np.finfo(np.float16).max:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    stored: bytes = model.SerializeToString(deterministic=True)
    return stored


def _agreement(name: str, data: bytes, module: nn.Module, feeds: Feeds) -> float:
    """Least cosine of the file's rows with torch's, in one batch and row by row."""
    session = open_session(data, threads=1, name=name)
    with torch.inference_mode():
        wanted = module.eval()(*(torch.from_numpy(value) for value in feeds.values())).numpy()
    slices = [slice(None), *(slice(row, row + 1) for row in range(len(wanted)))]
    got = [session.run(None, {key: value[rows] for key, value in feeds.items()})[0] for rows in slices]
    least = min(float((part * wanted[rows]).sum(axis=1).min()) for part, rows in zip(got, slices, strict=True))
    if not least >= TORCH_COSINE:
        raise Misconfigured(
            f"{name}: expected a cosine with torch of at least {TORCH_COSINE}, got {least:.6f}; export another model"
        )
    return least


def _fitted(loaded: Loaded, folder: Path, dim: int) -> Tensor:
    """`fit_projection` on items of the folder's train split."""
    data = read_data_set(folder, cutoff=None, licensed=False)
    rows = data.rows("train")[:FIT_ITEMS]
    pictures = [name for row in rows for name in data.examples[row].images[:1]] if loaded.image is not None else []
    side = 1 if loaded.image is None else loaded.image.side
    pixels = np.stack([data.pixels(name, side) for name in pictures]) if pictures else np.zeros((0, side, side, 3), np.uint8)
    return fit_projection(loaded, [data.examples[row].item for row in rows], pixels, dim)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m encoders.huggingface", description=__doc__)
    parser.add_argument("--model", required=True, help="folder, or name in the local cache of transformers")
    parser.add_argument("--text", help="sentence encoder beside an image network; the two get dimensions of their own")
    parser.add_argument("--out", type=Path, required=True, help="artifact directory; an older artifact there is replaced")
    parser.add_argument("--space", required=True, help="family of the space")
    parser.add_argument("--version", type=int, required=True, help="version of the space; a new model needs a new one")
    parser.add_argument("--dim", type=int, help="project to this many dims by PCA; needs --fit")
    parser.add_argument("--fit", type=Path, help="folder as in docs/reference/training-data.md that --dim is fitted on")
    parser.add_argument("--pooling", choices=POOLINGS, help="of a text network whose files do not say it")
    parser.add_argument("--prefix", help="goes before every text, where the model was trained so")
    parser.add_argument("--licence", default="", help="of the weights; written into the manifest")
    parser.add_argument("--download", action="store_true", help="fetch a name from the Hugging Face hub; off: nothing is fetched")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.dim is None) != (arguments.fit is None):
        parser.error("--dim and --fit go together: the projection is fitted on the folder's items")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        space = EmbeddingSpace(arguments.space, arguments.version, 1)
        require_replaceable(arguments.out)
        text = None if arguments.text is None else Pretrained(arguments.text, arguments.download)
        loaded = load(Pretrained(arguments.model, arguments.download), text, pooling=arguments.pooling, prefix=arguments.prefix)
        projection = None if arguments.dim is None else _fitted(loaded, arguments.fit, arguments.dim)
        written = export(loaded, arguments.out, space, projection=projection, licence=arguments.licence)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    size = sum(file.stat().st_size for file in arguments.out.iterdir()) / 1e6
    print(f"{arguments.out}: space {written.id}, {written.dim} dims, {size:.1f} MB, {written.encoder_digest}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
