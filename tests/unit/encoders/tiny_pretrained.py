"""Pretrained models of a few thousand random weights, written to a folder as `transformers` would."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ("red", "blue", "cotton", "wool", "hoodie", "mug", "glass", "vase", "candle", "with", "a", "of", ".", "20", "cm")
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 32, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SIDE = 32


def write_tokenizer(folder: Path, *, pad: str = "<pad>") -> int:
    """A word-level tokenizer; returns its size. Padding comes last, so that nothing can count on 0."""
    start, end = "<s>", "</s>"
    vocabulary = {word: at for at, word in enumerate(dict.fromkeys((start, end, *WORDS, "[UNK]", pad)))}
    library = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(start, vocabulary[start]), (end, vocabulary[end])]
    library.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, unk_token="[UNK]", pad_token=pad, bos_token=start, eos_token=end
    )
    fast.save_pretrained(folder)
    return len(vocabulary)


def write_picture_settings(folder: Path, side: int = SIDE) -> None:
    body = {"image_mean": MEAN, "image_std": STD, "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_center_crop": True, "crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side + 9}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(body))


def picture(seed: int, size: tuple[int, int]) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


def clip(folder: Path) -> transformers.CLIPModel:
    torch.manual_seed(1)
    size = write_tokenizer(folder, pad="</s>")
    write_picture_settings(folder)
    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
    return _saved(model, folder)


def siglip(folder: Path) -> transformers.SiglipModel:
    torch.manual_seed(2)
    size = write_tokenizer(folder)
    write_picture_settings(folder)
    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 16, "projection_size": 32}
    return _saved(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)), folder)


def sentence(folder: Path, *, kind: str = "bert", pooling: str = "mean", longest: int = 16) -> torch.nn.Module:
    torch.manual_seed(3)
    size = write_tokenizer(folder)
    names = {"bert": "Bert", "roberta": "Roberta", "mpnet": "MPNet", "distilbert": "DistilBert"}
    pad = size - 1
    config = getattr(transformers, f"{names[kind]}Config")(
        vocab_size=size, max_position_embeddings=40 + pad, pad_token_id=pad, **TEXT
    )  # fmt: skip
    (folder / "modules.json").write_text(json.dumps([
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate((("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")))
    ]))  # fmt: skip
    (folder / "1_Pooling").mkdir()
    flags = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({flag: pooling == name for name, flag in flags.items()}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest, "do_lower_case": False}))
    return _saved(getattr(transformers, f"{names[kind]}Model")(config), folder)


def vision(folder: Path, kind: str) -> torch.nn.Module:
    torch.manual_seed(4)
    write_picture_settings(folder)
    small = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    maps = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    models_by_kind = {
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**VISION)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**small)),
        "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**small)),
        "resnet": lambda: transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, layer_type="basic", **maps)),
        "convnext": lambda: transformers.ConvNextModel(transformers.ConvNextConfig(num_stages=2, **maps)),
        "convnextv2": lambda: transformers.ConvNextV2Model(transformers.ConvNextV2Config(num_stages=2, **maps)),
        "regnet": lambda: transformers.RegNetModel(transformers.RegNetConfig(embedding_size=8, groups_width=8, **maps)),
    }
    return _saved(models_by_kind[kind](), folder)


def siglip2(folder: Path) -> transformers.Siglip2Model:
    torch.manual_seed(5)
    small = {**{key: value for key, value in VISION.items() if key != "image_size"}, "num_patches": 64}
    write_tokenizer(folder)
    body = {"image_mean": MEAN, "image_std": STD, "max_num_patches": 16, "patch_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(body))
    text = {**TEXT, "vocab_size": 40, "max_position_embeddings": 16, "projection_size": 32}
    return _saved(transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=small)), folder)


def _saved(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The library's own start is so small that every vector looks alike.
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model
