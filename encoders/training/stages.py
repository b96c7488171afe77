"""From a config and data sets to stages that the loop can drive: pretraining, then post-training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from posixpath import normpath
from typing import Any, Final

import numpy as np
import torch

from encoders.artifact import Preprocessing
from encoders.backbones.lite import SOURCE as WEIGHTS
from encoders.config import EncoderConfig
from encoders.data import DataSet
from encoders.terms import DESCRIPTION_WEIGHTS, WeightConfig
from encoders.tokenizer import Tokenizer, TokenizerConfig
from encoders.towers import Moon
from encoders.training.behaviour import BasketPairs, Behaviour, Drawn, ListedPairs, share_of
from encoders.training.cleaning import keep_hard, speaking
from encoders.training.contract import Stage
from encoders.training.corpus import Corpus, Picture, build_corpus
from encoders.training.debias import ClassPools
from encoders.training.forms import Forms
from encoders.training.frequencies import SOURCE as FREQUENCIES
from encoders.training.frequencies import build_term_table
from encoders.training.moon_stage import MoonStage
from encoders.training.objectives import WEIGHTS as LOSSES
from encoders.training.pairs import NO_TIME, Pairs, purchases, read_pairs
from encoders.training.pictures import Pictures
from encoders.training.probe import Probe
from encoders.training.sampler import MIN_BATCH, Sampler, Sources
from encoders.training.see import is_readable, see_pictures
from encoders.training.texts import enrich_corpus, moved
from moontide.errors import Misconfigured

#: Pairs drawn from baskets for post-training, before cleaning.
POST_PAIRS: Final = 40_000
PER_ITEM: Final = 8
BEHAVIOUR_KINDS: Final = ("search", "basket", "session")
_BLOCK: Final = 2048


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a recipe is built from.

    Args:
        data_sets: folders as they were read.
        pairs: a folder of `jobs/training_pairs.py`; None: baskets of the data sets.
        cache: a folder for features of pictures.
        fraction: share of the behaviour pairs, or of the baskets, that is used.
        cutoff: a day; pairs of that day and later are left out.
        device: of the model.
    """

    data_sets: Sequence[DataSet]
    pairs: Path | None = None
    cache: Path | None = None
    fraction: float = 1.0
    cutoff: str | None = None
    device: str = "cpu"


class MoonRecipe:
    """A model and its stages; see `encoders.training.session.Recipe`."""

    def __init__(self, config: EncoderConfig, inputs: Inputs, say: Callable[[str], None]) -> None:
        """Use `build`."""
        _check(config)
        self.config, self.inputs, self.say = config, inputs, say
        shape = TokenizerConfig(
            buckets=config.model.buckets, weights=WeightConfig(), description_weights=DESCRIPTION_WEIGHTS, description_chars=1000
        )
        self.tokenizer = Tokenizer(shape, build_term_table())
        self.preprocessing = Preprocessing(
            height=config.model.side, width=config.model.side, core_crop=config.switches.core_crops
        )
        self.model = self.untrained_model()
        self.first_text = copy.deepcopy(self.model.text).requires_grad_(False)
        readable = partial(is_readable, inputs.data_sets)
        self.corpus, val = (build_corpus(inputs.data_sets, split, readable) for split in ("train", "val"))
        if self.corpus.unreadable + val.unreadable:
            say(f"pictures: {self.corpus.unreadable + val.unreadable} cannot be read and are left out")
        behaviour = self._behaviour()
        self.pictures: Pictures = self._see(self.corpus, plain=False)
        train = self.corpus
        enriched = enrich_corpus(train.items) if config.switches.enrichment else None
        self.drawn_from = Sources(train, self.pictures, self.tokenizer, behaviour, enriched, self.first_text)
        self.probe = Probe(val, Forms(self.model, self._see(val, plain=True)), self.tokenizer, config.seed)
        self._centre(self.model)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """As `Recipe`."""
        return [FREQUENCIES, *([WEIGHTS] if self.config.model.backbone == "lite0" else [])]

    def untrained_model(self) -> Moon:
        """As `Recipe`."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            model = Moon(self.config.model, experts=self.config.switches.experts).eval().to(self.inputs.device)
        if hasattr(self, "pictures"):
            self._centre(model)
        return model

    def stages(self) -> Iterator[tuple[str, Stage[Any], int]]:
        """As `Recipe`."""
        config = self.config
        yield "pretrain", MoonStage("pretrain", self.model, self.drawn_from, config, self.probe), config.pretrain.steps
        if config.switches.post_training and self.drawn_from.behaviour is not None and config.post.steps:
            post = self._purchases(self.drawn_from.behaviour)
            if len(post) > 1:
                sources = Sources(self.corpus, self.pictures, self.tokenizer, post, self.drawn_from.enriched, self.first_text)
                yield "post", MoonStage("post", self.model, sources, config, self.probe), config.post.steps

    def _see(self, corpus: Corpus, *, plain: bool) -> Pictures:
        inputs = self.inputs
        return see_pictures(self.config, self.model, inputs.data_sets, corpus, cache=inputs.cache, plain=plain, say=self.say)

    def _centre(self, model: Moon) -> None:
        rows = np.arange(min(len(self.pictures), 4096))
        if len(rows) > 1 and not self.config.model.train_backbone:
            # A picture and its core region are two rows.
            model.image.centre(self.pictures.take(rows, None).flatten(0, -2).to(self.inputs.device))

    def _behaviour(self) -> Behaviour | None:
        corpus = self.corpus
        if self.inputs.pairs is not None:
            pairs, pictures = listed(self.inputs, corpus, self.config, self.say)
            # Searched pictures belong to no item; they lie behind those of the items.
            self.corpus = replace(corpus, pictures=(*corpus.pictures, *pictures))
            return pairs
        if corpus.baskets is None:
            return None
        random = np.random.default_rng((self.config.seed, 5))
        return BasketPairs(share_of(corpus.baskets, self.inputs.fraction, random), len(corpus), corpus.category)

    def _purchases(self, behaviour: Behaviour) -> ListedPairs:
        """Purchase pairs, cleaned with the model as pretraining left it."""
        drawn = behaviour.bought(POST_PAIRS, np.random.default_rng((self.config.seed, 3)))
        pairs = ListedPairs(drawn)
        sampler = Sampler(self.drawn_from, self.config.post, seed=self.config.seed, stage=2)
        blocks = [self._cosines(sampler, pairs, at) for at in range(0, len(pairs), _BLOCK)]
        cosines = np.concatenate([np.zeros(0, np.float32), *blocks])
        cosines[~speaking([self._query(drawn, at) for at in range(len(pairs))])] = np.nan
        kept = keep_hard(drawn.item, cosines, per_item=PER_ITEM)
        self.say(f"post-training: {len(kept):,} of {len(pairs):,} purchase pairs are kept")
        return ListedPairs(pairs.take(kept))

    def _query(self, drawn: Drawn, at: int) -> str | None:
        row = int(drawn.query_item[at])
        return drawn.query_text[at] or (self.corpus.items[row].title if row >= 0 else None)

    def _cosines(self, sampler: Sampler, pairs: ListedPairs, start: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = np.arange(start, min(start + _BLOCK, len(pairs)))
        forms = Forms(self.model.eval(), self.pictures)
        with torch.no_grad():
            drawn = sampler.pair_batch(pairs.take(rows), np.random.default_rng((self.config.seed, 4, start)))
            batch = moved(drawn, torch.device(self.inputs.device))
            cosines = (forms.mixed(batch.query) * forms.mixed(batch.positive)).sum(dim=1)
        found: np.ndarray[Any, np.dtype[np.float32]] = cosines.cpu().numpy()
        return found


def build(config: EncoderConfig, inputs: Inputs, *, say: Callable[[str], None]) -> MoonRecipe:
    """A recipe ready to be driven.

    Raises:
        Misconfigured: weights or packages are missing, or the pair file knows none of the items.
    """
    return MoonRecipe(config, inputs, say)


def _check(config: EncoderConfig) -> None:
    """Settings that would be ignored, or mean something else, without a word."""
    shape = config.model
    if not all(0 < dim < shape.dim for dim in shape.prefix_dims):
        raise Misconfigured(
            f"model.prefix_dims: expected lengths in 1..{shape.dim - 1}, got {list(shape.prefix_dims)}; take shorter ones"
        )
    for name, stage in (("pretrain", config.pretrain), ("post", config.post)):
        unknown = sorted(set(stage.weights) - set(LOSSES))
        if unknown:
            raise Misconfigured(f"{name}.weights: expected losses of {sorted(LOSSES)}, got {unknown}; correct the names")
        if not any({**LOSSES, **stage.weights}.values()):
            raise Misconfigured(
                f"{name}.weights: expected a loss of more than 0, got 0 for all: nothing would be learnt; raise one"
            )


def listed(
    inputs: Inputs, corpus: Corpus, config: EncoderConfig, say: Callable[[str], None]
) -> tuple[ListedPairs | None, list[Picture]]:
    """Behaviour pairs of a pair file, and pictures that were searched with; content pairs come from the corpus itself."""
    assert inputs.pairs is not None
    place: dict[str, int] = {}
    for row, item in enumerate(corpus.items):
        place.setdefault(item.item_id, row)
    pairs = read_pairs(inputs.pairs, list(place))
    rows_of = np.append(np.array(list(place.values()), np.int64), -1)
    wanted = BEHAVIOUR_KINDS + (("click",) if config.switches.clicks else ())
    chosen = np.sort(np.concatenate([pairs.of_kind(kind) for kind in wanted]))
    if inputs.fraction < 1.0:
        chosen = chosen[np.random.default_rng((config.seed, 5)).random(len(chosen)) < inputs.fraction]
    if inputs.cutoff is not None:
        # Content has no time, and its mark lies before every day.
        chosen = chosen[pairs.time_us[chosen] < np.datetime64(inputs.cutoff, "us").astype(np.int64)]
    used = np.unique(pairs.query_image[chosen])
    held_out = [_held_out(data) for data in inputs.data_sets] if (used >= 0).any() else []
    pictures: list[Picture | None] = [None] * len(pairs.images)
    for at in used[used >= 0]:
        pictures[at] = _find_picture(inputs.data_sets, pairs.images[int(at)].as_py(), held_out)
    lost = np.array([picture is None for picture in pictures] + [False])
    found = chosen[~lost[pairs.query_image[chosen]]]
    say(f"pairs: {len(found):,} of behaviour of {len(pairs):,}; left out: {pairs.dropped or 'none'}, "
        f"{len(chosen) - len(found)} whose picture is not there or held out")  # fmt: skip
    if len(found) < MIN_BATCH:
        return None, []
    pairs = pairs.take(found)
    seen = [picture for picture in pictures if picture is not None]
    picture_of = np.append(np.cumsum(~lost[:-1]) - 1 + len(corpus.pictures), -1)

    def drawn(part: Pairs) -> Drawn:
        texts = [part.texts[int(row)].as_py() if row >= 0 else None for row in part.query_text]
        days = np.where(part.time_us == NO_TIME, np.nan, part.time_us / 86_400e6)
        query, item, negative = (rows_of[column] for column in (part.query_item, part.item, part.negative))
        return Drawn(query, picture_of[part.query_image], texts, item, negative, part.log_q, part.weight, days)

    pools = ClassPools(corpus.category, corpus.product) if config.switches.clicks else None
    return ListedPairs(drawn(pairs), pools, purchases=drawn(purchases(pairs))), seen


def _held_out(data: DataSet) -> set[str]:
    """Paths of pictures that only items of other splits than ``train`` have."""
    everything, own = (
        {normpath(name) for row in data.rows(split) for name in data.examples[row].images} for split in ("all", "train")
    )
    return everything - own


def _find_picture(data_sets: Sequence[DataSet], name: str, held_out: Sequence[set[str]]) -> Picture | None:
    """The picture; None where no data set has it, or where it shows an item that is held out."""
    for at in range(len(data_sets)):
        picture = Picture(at, name)
        if is_readable(data_sets, picture):
            return None if normpath(name) in held_out[at] else picture
    return None
