"""One stage of MOON training as the loop sees it: batches, losses, momentum encoder and queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from encoders.config import EncoderConfig, StageConfig
from encoders.towers import Moon
from encoders.training.debias import align_rare
from encoders.training.forms import Forms
from encoders.training.momentum import MomentumCopy
from encoders.training.objectives import Setting, item_losses, keep_loss, pair_losses, photo_losses, title_losses
from encoders.training.queue import Keys, NegativeQueue
from encoders.training.sampler import Batch, PairBatch, Sampler, Sources
from encoders.training.texts import Texts, moved, titles_of
from moontide.errors import Misconfigured

QUEUES: Final = ("photos", "items", "titles", "pairs")
_BACKBONE: Final = "image.backbone."
#: Items sold at least as often as this share of all that were sold are the well-known ones.
_OFTEN: Final = 0.75
_KINDS: Final = 1 << 32


@dataclass(slots=True)
class Held:
    """What a stage keeps from one call to the next."""

    done: float = 0.0
    keys: list[tuple[str, Keys]] = field(default_factory=list)


class MoonStage:
    """A `Stage` over a `Moon`."""

    def __init__(
        self, name: str, model: Moon, sources: Sources, recipe: EncoderConfig, validate: Callable[[], dict[str, float]]
    ) -> None:
        """`name` is ``pretrain`` or ``post``: it decides which settings of `recipe` count, and the draws."""
        self.name, self.model, self.sources, self.recipe = name, model, sources, recipe
        self.config: StageConfig = recipe.pretrain if name == "pretrain" else recipe.post
        self.sampler = Sampler(sources, self.config, seed=recipe.seed, stage=0 if name == "pretrain" else 1)
        self.dims = (*recipe.model.prefix_dims, model.dim)
        self.online = Forms(model, sources.pictures)
        self.copy = MomentumCopy(model, self.config.momentum) if recipe.switches.queue else None
        self.queues = {
            part: NegativeQueue(self.config.queue_size, model.dim, model.text.table.device)
            for part in QUEUES
            if recipe.switches.queue
        }
        sold = sources.corpus.sold
        self.often = float(max(np.quantile(sold[sold > 0], _OFTEN), 2.0)) if (sold > 0).any() else 2.0
        self._validate = validate
        self.device = model.text.table.device
        self._held = Held()

    def draw(self, step: int) -> Batch:
        """As `Stage`."""
        return self.sampler(step)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """As `Stage`."""
        self.model.train(self.recipe.model.train_backbone)
        batch = moved(batch, self.device)
        keys = None if self.copy is None else Forms(self.copy.model, self.sources.pictures)
        setting = Setting(self.config, self.recipe.switches, self.dims, self.online, self._held.done)
        found: dict[str, Tensor] = {}
        if batch.photos is not None:
            found.update(photo_losses(batch.photos, self._names(), self._queue("photos"), setting))
        if batch.items is not None:
            found.update(item_losses(batch.items, self._queue("items"), setting))
        for titles in batch.titles:
            for name, loss in title_losses(titles, self._queue("titles"), setting):
                found[name] = found[name] + loss if name in found else loss
        if batch.pairs is not None:
            found.update(pair_losses(batch.pairs, self._queue("pairs"), setting))
            if self.recipe.switches.debias:
                found["debias"] = setting.weight("debias") * self._debias(batch.pairs)
        if not found:
            raise Misconfigured("training data: expected two items with a picture or a title, got fewer; give more data")
        if batch.made_up is not None and setting.weight("keep"):
            found["keep"] = keep_loss(batch.made_up, self._start(batch.made_up), setting)
        self._held.keys = [] if keys is None else list(self._keys(batch, keys))
        return found

    def after_step(self, batch: Batch, done: float) -> None:
        """As `Stage`: the key encoder follows, and its keys of this batch join the queues."""
        self._held.done = done
        if self.copy is not None:
            self.copy.update()
        for part, keys in self._held.keys:
            self.queues[part].push(keys)
        self._held.keys = []

    def pairs_in(self, batch: Batch) -> int:
        """As `Stage`."""
        parts = [batch.photos, batch.items, batch.pairs, *batch.titles]
        return sum(len(part.rows) for part in parts if part is not None)

    def item_ids(self, batch: Batch) -> Sequence[str]:
        """Items of a batch, for the message of a loss that is no number."""
        rows = [part.rows for part in (batch.items, batch.pairs, *batch.titles) if part is not None]
        return [self.sources.corpus.items[int(row)].item_id for part in rows for row in part]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As `Stage`."""
        text, config = self.model.text, self.config
        decay = config.weight_decay
        heads = [p for n, p in self.model.image.named_parameters() if not n.startswith("backbone.")]
        groups: list[dict[str, Any]] = [
            {"params": heads, "lr": config.head_rate, "weight_decay": decay},
            # It stands between every text and its vector: what it learns from few texts must not outrun the towers.
            {"params": list(self.model.fusion.parameters()), "lr": config.fusion_rate, "weight_decay": decay},
            # Decay would shrink the rows of words that training never met, and those must go on working.
            {"params": [text.table], "lr": config.table_rate, "weight_decay": 0.0},
            {"params": [text.log_kind, text.field], "lr": config.term_rate, "weight_decay": 0.0},
        ]
        if self.recipe.model.train_backbone:
            backbone = list(self.model.image.backbone.parameters())
            groups.append({"params": backbone, "lr": config.backbone_rate, "weight_decay": decay})
        return groups

    def state(self) -> dict[str, Tensor]:
        """As `Stage`."""
        found = {f"model.{name}": value for name, value in self._of_model().items()}
        if self.copy is not None:
            found.update({f"momentum.{name}": value for name, value in self.copy.state().items()})
        for part, queue in self.queues.items():
            found.update({f"queue.{part}.{name}": value for name, value in queue.state().items()})
        return found | {"done": torch.tensor(self._held.done, dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """As `Stage`."""
        expected, got = self.state().keys(), state.keys()
        if expected != got:
            differ = sorted(expected ^ got)[:5]
            raise Misconfigured(f"checkpoint: expected the tensors of this stage, got others ({differ}); use its own config")
        try:
            self.model.load_state_dict(_part(state, "model."), strict=False)
            if self.copy is not None:
                self.copy.load_state(_part(state, "momentum."))
            for part, queue in self.queues.items():
                queue.load_state(_part(state, f"queue.{part}."))
        except RuntimeError as error:
            raise Misconfigured(f"checkpoint: expected other shapes ({str(error)[:200]}); use its own config") from error
        self._held = Held(done=float(state["done"]))

    def validate(self) -> dict[str, float]:
        """As `Stage`."""
        return self._validate()

    def _of_model(self) -> dict[str, Tensor]:
        """Everything that trains; a frozen backbone is the same in every checkpoint."""
        frozen = not self.recipe.model.train_backbone
        return {n: v for n, v in self.model.state_dict().items() if not (frozen and n.startswith(_BACKBONE))}

    def _queue(self, part: str) -> NegativeQueue | None:
        return self.queues.get(part)

    def _start(self, texts: Texts) -> Tensor:
        with torch.no_grad():
            rows: Tensor = self.sources.first_text(texts.ids, texts.kinds, texts.weights)
        return rows

    def _names(self) -> Tensor | None:
        names = self.sources.corpus.label_names
        return self.online.texts(moved(titles_of(self.sources.tokenizer, names), self.device)) if names else None

    def _keys(self, batch: Batch, keys: Forms) -> list[tuple[str, Keys]]:
        found = []
        with torch.no_grad():
            if batch.photos is not None:
                photos = batch.photos
                found.append(("photos", Keys.of(keys.pictures(photos.second), photos.rows, labels=photos.labels)))
            if batch.items is not None:
                items = batch.items
                whole, _ = keys.fuse(keys.towers_of_pictures(items.second), keys.towers_of_texts(items.other))
                found.append(("items", Keys.of(whole, items.rows, categories=items.categories)))
            for titles in batch.titles:
                found.append(("titles", Keys.of(keys.texts(titles.right), titles.words)))
            if batch.pairs is not None:
                pairs = batch.pairs
                bought = Keys.of(
                    keys.mixed(pairs.positive), pairs.rows, categories=pairs.categories, days=pairs.days, log_q=pairs.log_q
                )
                found.append(("pairs", bought))
        return found

    def _debias(self, batch: PairBatch) -> Tensor:
        """Rarely sold items towards often sold ones of their kind; where a catalog has no kinds, of its whole data set."""
        corpus = self.sources.corpus
        rows = batch.rows.cpu().numpy()
        kinds = np.where(corpus.category[rows] >= 0, corpus.category[rows], _KINDS + corpus.data_set[rows])
        sold, kind = (torch.from_numpy(column).to(self.device) for column in (corpus.sold[rows], kinds))
        return align_rare(self.online.mixed(batch.positive), sold, kind, often=self.often)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
