"""Pretrained image networks of the `transformers` library behind one face, by local path or by name.

B pictures of S x S pixels, W the width of a feature row, h x w the grid of a feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.backbones.pretrained import Picture, Pretrained, picture_of
from moontide.errors import Misconfigured

DUAL_TYPES: Final = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
TOKEN_TYPES: Final = {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
MAP_TYPES: Final = {"resnet": "ResNetModel", "convnext": "ConvNextModel", "convnextv2": "ConvNextV2Model",
                    "regnet": "RegNetModel"}  # fmt: skip
IMAGE_TYPES: Final = {**DUAL_TYPES, **TOKEN_TYPES, **MAP_TYPES}


class HuggingFaceBackbone(nn.Module):
    """An image network as a backbone. Attributes: `width` W, `side` the S it was made for, `model_type`.

    Pictures are stretched to the side. The model's own processor may crop the middle instead: on pictures that are far
    from square the features differ from those of that processor.
    """

    def __init__(self, family: _Family, picture: Picture, model_type: str) -> None:
        super().__init__()
        self.family = family
        self.width = family.width
        self.side = picture.side
        self.model_type = model_type
        self.register_buffer("mean", torch.tensor(picture.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(picture.std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float32 in 0..1 -> (B, W) float32. Another S than `side` is resized first."""
        if x.shape[0] == 0:
            # The library's attention cannot reshape nothing.
            return x.new_zeros(0, self.width)
        return self.family.pooled(self.family(self._prepared(x)))

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float32 in 0..1 -> (B, W, h, w), row by row from the top left, comparable with `forward`'s rows."""
        if x.shape[0] == 0:
            return self.feature_map(x.new_zeros(1, *x.shape[1:]))[:0]
        return self.family.grid(self.family(self._prepared(x)))

    def _prepared(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.side, self.side):
            x = functional.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return (x - self.get_buffer("mean")) / self.get_buffer("std")


def load_image_backbone(name_or_path: str, *, download: bool = False) -> HuggingFaceBackbone:
    """The image side of a pretrained model, in eval mode, with gradients.

    Args:
        name_or_path: a folder, or a name in the local cache of `transformers`.
        download: a name may be fetched from the hub.

    Raises:
        Misconfigured: not there, a model type that is not supported, or weights missing.
    """
    return image_backbone(Pretrained(name_or_path, download))


def image_backbone(source: Pretrained, network: Any = None) -> HuggingFaceBackbone:
    """As `load_image_backbone`; `network` is the model of `DUAL_TYPES` where it is loaded already."""
    config = source.config()
    kind = config["model_type"]
    if kind not in IMAGE_TYPES:
        raise Misconfigured(f"model {source.name}: expected an image model of {sorted(IMAGE_TYPES)}, got {kind!r}")
    picture = picture_of(source)
    if kind in DUAL_TYPES:
        network = network or source.network(DUAL_TYPES[kind])
        return HuggingFaceBackbone(_DUAL_FAMILIES[kind](network, picture.side), picture, kind)
    if kind in MAP_TYPES:
        return HuggingFaceBackbone(_Maps(source.network(MAP_TYPES[kind])), picture, kind)
    # A pooling layer of a ViT is often not in the file; the class token after the last norm always is.
    settings = {"add_pooling_layer": False} if kind == "vit" else {}
    return HuggingFaceBackbone(_Tokens(source.network(TOKEN_TYPES[kind], **settings), picture.side), picture, kind)


class _Family(nn.Module):
    """One kind of network: `forward` gives its output, `pooled` and `grid` read it."""

    # The library's modules are typed as Tensor | Module at every attribute.
    network: Any
    vision: Any
    projection: Any
    width: int
    cells: int

    def pooled(self, output: Any) -> Tensor:
        raise NotImplementedError

    def grid(self, output: Any) -> Tensor:
        raise NotImplementedError


class _Clip(_Family):
    """Features are the projected class token, the space that CLIP shares with text."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.vision, self.projection = network.vision_model, network.visual_projection
        self.width = int(network.config.projection_dim)
        self.cells = side // network.config.vision_config.patch_size
        self.resized = side != network.config.vision_config.image_size

    def forward(self, x: Tensor) -> Any:
        return self.vision(pixel_values=x, interpolate_pos_encoding=self.resized)

    def pooled(self, output: Any) -> Tensor:
        result: Tensor = self.projection(output.pooler_output)
        return result

    def grid(self, output: Any) -> Tensor:
        return _grid(self.projection(self.vision.post_layernorm(output.last_hidden_state)), self.cells)


class _Siglip(_Family):
    """Features are those of the attention pooling, the space that SigLIP shares with text."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.vision = network.vision_model
        self.width = int(network.config.vision_config.hidden_size)
        self.cells = side // network.config.vision_config.patch_size
        self.resized = side != network.config.vision_config.image_size

    def forward(self, x: Tensor) -> Any:
        return self.vision(pixel_values=x, interpolate_pos_encoding=self.resized)

    def pooled(self, output: Any) -> Tensor:
        result: Tensor = output.pooler_output
        return result

    def grid(self, output: Any) -> Tensor:
        return _grid(output.last_hidden_state, self.cells)


class _Siglip2(_Family):
    """The variant of SigLIP 2 for any aspect ratio, held at one square: positions are resized once, and are trained so."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.vision = network.vision_model
        self.width = int(network.config.vision_config.hidden_size)
        embeddings = self.vision.embeddings
        self.patch: int = embeddings.patch_size
        cells = self.cells = side // self.patch
        table = embeddings.position_embedding.weight.detach()
        square = table.reshape(embeddings.position_embedding_size, embeddings.position_embedding_size, -1)
        resized = embeddings.resize_positional_embeddings(square, torch.tensor([[cells, cells]]), cells * cells)
        self.positions = nn.Parameter(resized[0].clone())

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        # unfold puts the colours first, the network wants them last.
        last = patches.unflatten(2, (3, self.patch * self.patch)).transpose(2, 3).flatten(2)
        hidden = self.vision.embeddings.patch_embedding(last) + self.positions
        hidden = self.vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        result: Tensor = self.vision.post_layernorm(hidden)
        return result

    def pooled(self, output: Tensor) -> Tensor:
        result: Tensor = self.vision.head(output, None)
        return result

    def grid(self, output: Tensor) -> Tensor:
        return _grid(output, self.cells)


class _Tokens(_Family):
    """ViT and DINOv2: features are the class token after the last norm."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.network = network
        self.width = int(network.config.hidden_size)
        self.cells = side // network.config.patch_size
        # DINOv2 resizes its positions by itself.
        plain = network.config.model_type == "vit"
        self.settings = {"interpolate_pos_encoding": side != network.config.image_size} if plain else {}

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(pixel_values=x, **self.settings).last_hidden_state
        return result

    def pooled(self, output: Tensor) -> Tensor:
        return output[:, 0]

    def grid(self, output: Tensor) -> Tensor:
        return _grid(output, self.cells)


class _Maps(_Family):
    """Convolutional networks: features are the pooled last map."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.width = int(network.config.hidden_sizes[-1])

    def forward(self, x: Tensor) -> Any:
        return self.network(pixel_values=x)

    def pooled(self, output: Any) -> Tensor:
        result: Tensor = output.pooler_output.flatten(1)
        return result

    def grid(self, output: Any) -> Tensor:
        result: Tensor = output.last_hidden_state
        return result


_DUAL_FAMILIES: Final[Mapping[str, Callable[[Any, int], _Family]]] = {
    "clip": _Clip, "siglip": _Siglip, "siglip2": _Siglip2,
}  # fmt: skip


def _grid(tokens: Tensor, cells: int) -> Tensor:
    """(B, P, W) tokens, class and register tokens first -> (B, W, cells, cells) of the patches."""
    patches = tokens[:, tokens.shape[1] - cells * cells :]
    return patches.transpose(1, 2).unflatten(2, (cells, cells))
