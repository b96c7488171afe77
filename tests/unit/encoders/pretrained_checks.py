"""Tiny pretrained models through the command and the runtime, and what the library itself says of the same items."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import normalize

from encoders import Encoder, Item
from encoders.huggingface import main
from encoders.images import decode
from tests.unit.encoders import tiny_pretrained as tiny

TITLES = ("red mug", "a hoodie of blue wool with a candle", "glass vase 20 cm", "candle " * 40)


@dataclass(frozen=True)
class Exported:
    folder: Path
    reference: object
    encoder: Encoder


@contextmanager
def no_network() -> Iterator[None]:
    """Whoever asks for a connection fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def exported(at: Path, build: Callable[[Path], object], *more: str) -> Exported:
    folder, out = at / "model", at / "artifact"
    folder.mkdir()
    reference = build(folder)
    assert main(["--model", str(folder), "--out", str(out), "--space", "tiny", "--version", "1", *more]) == 0
    return Exported(folder, reference, Encoder.load(out, threads=1))


def floats(encoder: Encoder, items: list[Item]) -> np.ndarray:
    vectors = encoder.encode(items)
    assert vectors.present.all()
    return unit(vectors.to_float())


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pixel_values(pictures: list[bytes]) -> torch.Tensor:
    pixels = np.stack([decode(picture, (tiny.SIDE, tiny.SIDE)) for picture in pictures]).transpose(0, 3, 1, 2) / 255.0
    mean, std = (np.array(values)[:, None, None] for values in (tiny.MEAN, tiny.STD))
    return torch.from_numpy(((pixels - mean) / std).astype(np.float32))


def tokenised(folder: Path, texts: tuple[str, ...], **how: object) -> dict[str, torch.Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer(list(texts), return_tensors="pt", truncation=True, max_length=16, return_token_type_ids=False, **how)


def reference_texts(model: Exported) -> np.ndarray:
    with torch.no_grad():
        if isinstance(model.reference, transformers.CLIPModel):
            rows = model.reference.get_text_features(**tokenised(model.folder, TITLES, padding=True)).pooler_output
        elif isinstance(model.reference, transformers.SiglipModel):
            ids = tokenised(model.folder, TITLES, padding="max_length")["input_ids"]
            rows = model.reference.get_text_features(input_ids=ids).pooler_output
        else:
            tokens = tokenised(model.folder, TITLES, padding=True)
            weights = tokens["attention_mask"][:, :, None].float()
            rows = (model.reference(**tokens).last_hidden_state * weights).sum(1) / weights.sum(1)
    return normalize(rows).numpy()


def reference_pictures(model: Exported, pictures: list[bytes]) -> np.ndarray:
    with torch.no_grad():
        return normalize(model.reference.get_image_features(pixel_values=pixel_values(pictures)).pooler_output).numpy()
