"""Pretrained text networks of the `transformers` library: the text side of CLIP-like models, and sentence encoders.

B texts, L tokens a text, W the width of a vector. Every tower takes the ids and kinds of `encoders.tokenizer.Tokens`:
whatever a network wants of padding and of a fixed length happens inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers
from torch import Tensor, nn

from encoders.backbones.pretrained import Pretrained
from encoders.hf_tokenizer import VOCABULARY_MAX_BYTES, HuggingFaceTokenizerConfig
from moontide.errors import Misconfigured

TEXT_TYPES: Final = {"bert": "BertModel", "distilbert": "DistilBertModel", "roberta": "RobertaModel",
                     "xlm-roberta": "XLMRobertaModel", "mpnet": "MPNetModel"}  # fmt: skip
#: These count positions from the one after the padding id.
_SHIFTED_TYPES: Final = frozenset({"roberta", "xlm-roberta", "mpnet"})
POOLINGS: Final = ("mean", "cls")
_MODULES: Final = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class PretrainedText:
    """A text tower with what its tokens need.

    Args:
        tower: (B, L) integer ids and (B, L) kinds, 0 for padding -> (B, W) float32.
        width: W.
        tokenizer: how items become texts, and where they are cut.
        vocabulary: JSON of the `tokenizers` library.
    """

    tower: nn.Module
    width: int
    tokenizer: HuggingFaceTokenizerConfig
    vocabulary: bytes


class SentenceTower(nn.Module):
    """A BERT-like network and the mean of its tokens, or its first token."""

    def __init__(self, network: Any, pooling: str, pad: int) -> None:
        super().__init__()
        self.network, self.pooling, self.pad = network, pooling, pad

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """(B, L) ids and kinds -> (B, W)."""
        real = kinds > 0
        hidden: Tensor = self.network(
            input_ids=torch.where(real, ids.long(), self.pad), attention_mask=real.long()
        ).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = real.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


class ClipText(nn.Module):
    """CLIP's text side: causal, so that padding behind the end of a text changes nothing."""

    def __init__(self, network: Any, pad: int) -> None:
        super().__init__()
        self.text, self.projection, self.pad = network.text_model, network.text_projection, pad

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """(B, L) ids and kinds -> (B, W)."""
        filled = torch.where(kinds > 0, ids.long(), self.pad)
        result: Tensor = self.projection(self.text(input_ids=filled).pooler_output)
        return result


class SiglipText(nn.Module):
    """SigLIP's text side: trained on texts padded to its full length, and it attends to the padding."""

    def __init__(self, network: Any, pad: int, length: int) -> None:
        super().__init__()
        self.text, self.pad, self.length = network.text_model, pad, length

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """(B, L) ids and kinds, L <= `length` -> (B, W)."""
        filled = torch.where(kinds > 0, ids.long(), self.pad)
        tail = filled.new_full((1, self.length), self.pad).expand(filled.shape[0], -1)
        whole = torch.cat([filled, tail], dim=1)[:, : self.length]
        result: Tensor = self.text(input_ids=whole).pooler_output
        return result


def dual_text(source: Pretrained, network: Any, kind: str, *, prefix: str = "") -> PretrainedText:
    """The text side of a CLIP-like `network` of model type `kind`.

    Raises:
        Misconfigured: no tokenizer in the JSON format, or one without a padding token.
    """
    length = int(network.config.text_config.max_position_embeddings)
    library, pad = _tokenizer(source)
    if kind == "clip":
        config = HuggingFaceTokenizerConfig(length, prefix)
        return PretrainedText(ClipText(network, pad), int(network.config.projection_dim), config, library)
    # Both generations were trained on lower case; the first one's tokenizer drops punctuation in Python code.
    first = (source.json_file("tokenizer_config.json") or {}).get("tokenizer_class") == "SiglipTokenizer"
    config = HuggingFaceTokenizerConfig(length, prefix, lowercase=True, drop_punctuation=first)
    width = int(network.config.text_config.projection_size)
    return PretrainedText(SiglipText(network, pad, length), width, config, library)


def sentence_text(source: Pretrained, *, pooling: str | None = None, prefix: str | None = None) -> PretrainedText:
    """A sentence encoder: a network of `TEXT_TYPES` with its pooling.

    Args:
        pooling: one of `POOLINGS`; None: as the model's sentence-transformers files say.
        prefix: goes before every text; None: the model's default prompt, mostly none.

    Raises:
        Misconfigured: another model type, a pooling that is not stated or not supported, or weights missing.
    """
    config = source.config()
    kind = config["model_type"]
    if kind not in TEXT_TYPES:
        raise Misconfigured(f"model {source.name}: expected a text model of {sorted(TEXT_TYPES)}, got {kind!r}")
    pooling = pooling or _stated_pooling(source)
    # The pooling layer of BERT is not used by sentence encoders, and often not in their files.
    settings = {} if kind == "distilbert" else {"add_pooling_layer": False}
    network = source.network(TEXT_TYPES[kind], **settings)
    vocabulary, pad = _tokenizer(source)
    stated = source.json_file("sentence_bert_config.json") or {}
    positions = int(network.config.max_position_embeddings) - (pad + 1 if kind in _SHIFTED_TYPES else 0)
    tokenizer = HuggingFaceTokenizerConfig(
        max_length=min(int(stated.get("max_seq_length") or positions), positions),
        prefix=_default_prompt(source) if prefix is None else prefix,
        lowercase=bool(stated.get("do_lower_case", False)),
    )
    return PretrainedText(SentenceTower(network, pooling, pad), int(network.config.hidden_size), tokenizer, vocabulary)


def _stated_pooling(source: Pretrained) -> str:
    modules = source.json_file("modules.json")
    if modules is None:
        raise Misconfigured(f"model {source.name}: expected modules.json, got none; say how it pools: --pooling mean or cls")
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if tuple(kinds[:2]) != _MODULES[:2] or not set(kinds) <= set(_MODULES) or modules[0]["path"]:
        raise Misconfigured(
            f"model {source.name}: expected a transformer in its top folder, pooling, and at most a norm, got {kinds}; "
            "use a sentence encoder without further layers"
        )
    body: Mapping[str, Any] = source.json_file(f"{modules[1]['path']}/config.json") or {}
    flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    stated = body.get("pooling_mode") or [
        flags.get(key, key) for key, on in body.items() if key.startswith("pooling_mode_") and on
    ]
    modes: Sequence[str] = [stated] if isinstance(stated, str) else list(stated)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise Misconfigured(f"model {source.name}: expected one pooling of {POOLINGS}, got {modes}; use another sentence encoder")
    return modes[0]


def _default_prompt(source: Pretrained) -> str:
    body = source.json_file("config_sentence_transformers.json") or {}
    return str((body.get("prompts") or {}).get(body.get("default_prompt_name"), ""))


def _tokenizer(source: Pretrained) -> tuple[bytes, int]:
    """JSON of the `tokenizers` library, and the padding id."""
    found = source.reading("its tokenizer", transformers.AutoTokenizer.from_pretrained)
    if not hasattr(found, "backend_tokenizer"):
        found = source.reading("tokenizer.json", transformers.PreTrainedTokenizerFast.from_pretrained)
    if found.pad_token_id is None:
        raise Misconfigured(f"model {source.name}: expected a tokenizer with a padding token, got none; set one and save it")
    data: bytes = found.backend_tokenizer.to_str().encode()
    if len(data) > VOCABULARY_MAX_BYTES:
        raise Misconfigured(
            f"model {source.name}: expected a vocabulary of at most {VOCABULARY_MAX_BYTES} bytes, got {len(data)}; "
            "use another model"
        )
    return data, int(found.pad_token_id)
