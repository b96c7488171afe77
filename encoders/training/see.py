"""The pictures of a corpus, as the model at hand wants them: features kept of a frozen backbone, or pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.config import EncoderConfig
from encoders.crops import core_crop
from encoders.data import DataSet
from encoders.images import ImageLoader, decode
from encoders.item import Unencodable
from encoders.towers import Moon
from encoders.training.corpus import Corpus, Picture
from encoders.training.features import ROOM, CachedFeatures, Frozen, Views
from encoders.training.pictures import KeptFeatures, Pictures, Pixels

_HEADER_SIDE = 8


def read_picture(data_sets: Sequence[DataSet], picture: Picture) -> bytes:
    """The file's bytes.

    Raises:
        Unencodable: missing, outside its folder, or too large.
    """
    return ImageLoader(root=data_sets[picture.data_set].folder).read(picture.name)


def is_readable(data_sets: Sequence[DataSet], picture: Picture) -> bool:
    """Whether a picture is there and decodes."""
    try:
        decode(read_picture(data_sets, picture), (_HEADER_SIDE, _HEADER_SIDE))
    except Unencodable:
        return False
    return True


def see_pictures(
    config: EncoderConfig, model: Moon, data_sets: Sequence[DataSet], corpus: Corpus, *, cache: Path | None, plain: bool,
    say: Callable[[str], None],
) -> Pictures:  # fmt: skip
    """Pictures of a corpus; `plain` keeps no augmented variants: for measuring."""
    shape = config.model
    loaders = [partial(read_picture, data_sets, picture) for picture in corpus.pictures]
    if shape.train_backbone:
        side, room = shape.side, shape.side if plain else round(ROOM * shape.side)
        pixels = _stacked([decode(load(), (room, room)) for load in loaders], room)
        if not config.switches.core_crops:
            return Pixels(pixels, side)
        cores = [core_crop(decode(load(), (2 * side, 2 * side)), (side, side)) for load in loaders]
        return Pixels(pixels, side, _stacked(cores, side))
    # One set of variants for all seeds: a study of seeds then computes them once.
    views = Views(shape.side, 0 if plain else shape.views, seed=0, crops=config.switches.core_crops)
    frozen = Frozen(partial(_features, model), _digest(model), str(model.text.table.device))
    kept = CachedFeatures.build(loaders, frozen, views, cache=cache, threads=torch.get_num_threads(), say=say)
    return KeptFeatures(kept.features, crops=config.switches.core_crops)


def _stacked(pictures: Sequence[NDArray[np.uint8]], side: int) -> NDArray[np.uint8]:
    return np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8)


def _features(model: Moon, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.image.features(x)


def _digest(model: Moon) -> str:
    """Of all that decides features: the backbone's weights and the descriptors' constants."""
    total = hashlib.blake2b(digest_size=16)
    parts = (("backbone", model.image.backbone), ("colour", model.image.colour), ("texture", model.image.texture))
    for part, module in parts:
        for name, tensor in sorted(module.state_dict().items()):
            total.update(f"{part}.{name}{tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
