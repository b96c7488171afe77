"""The real stages on tiny data: resuming bit for bit, switches that decide something, data that lack something."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from encoders.config import EncoderConfig, Switches  # noqa: E402
from encoders.data import DataSet, read_data_set  # noqa: E402
from encoders.training import session  # noqa: E402
from encoders.training.checkpoint import Checkpoint  # noqa: E402
from encoders.training.objectives import WEIGHTS  # noqa: E402
from encoders.training.session import Drive, Outcome  # noqa: E402
from encoders.training.stages import MoonRecipe  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402
from tests.unit.encoders import tiny_recipe as tiny  # noqa: E402

pytestmark = pytest.mark.unit


class Memory:
    """Checkpoints without a disk: the newest of each stage."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.held = folder, {}
        folder.mkdir(exist_ok=True)

    def latest(self, stage: str) -> Checkpoint | None:
        return self.held.get(stage)

    def newest(self) -> None:
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        kept = {part: {name: value.clone() for name, value in held.items()} for part, held in checkpoint.tensors.items()}
        self.held[checkpoint.stage] = replace(checkpoint, tensors=kept, history=list(checkpoint.history))

    def close_stage(self, stage: str) -> None:
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[DataSet]:
    return tiny.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_draw", lambda *_: None)


def _train(recipe: MoonRecipe, memory: Memory | None = None, *, ticks: int | None = None) -> Outcome:
    """`ticks`: readings of the clock until the time is up."""
    clock = itertools.count()
    drive = Drive(seed=3, minutes=None if ticks is None else ticks / 60.0)
    return session.train(recipe, drive, checkpoints=memory, clock=lambda: float(next(clock)), say=lambda _: None)  # type: ignore[arg-type]


def _losses(recipe: MoonRecipe, steps: int = 2) -> dict[str, float]:
    """Losses of the last of some steps of each stage, by stage and name."""
    found = {}
    for name, stage, _ in recipe.stages():
        optimizer = torch.optim.SGD([p for group in stage.parameter_groups() for p in group["params"]], lr=0.01)
        for step in range(steps):
            batch = stage.draw(step)
            losses = stage.losses(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            stage.after_step(batch, (step + 1) / steps)
        found |= {f"{name} {key}": float(value.detach()) for key, value in losses.items()}
    return found


@pytest.mark.parametrize("train_backbone", [False, True])
def test_a_run_stopped_in_either_stage_goes_on_to_the_same_tensors(
    tmp_path: Path, world: list[DataSet], monkeypatch: pytest.MonkeyPatch, train_backbone: bool
) -> None:
    settings = tiny.config(model={"train_backbone": train_backbone}, debias=True)
    straight, torn = Memory(tmp_path / "straight"), Memory(tmp_path / "torn")
    _train(tiny.build(settings, world, monkeypatch), straight)
    stops = []
    for _ in range(12):
        outcome = _train(tiny.build(settings, world, monkeypatch), torn, ticks=25)
        stops += [(stage, held.step) for stage, held in torn.held.items() if held.step < tiny.STEPS]
        if outcome.stopped is None:
            break
    assert outcome.stopped is None
    assert {stage for stage, _ in stops} == {"pretrain", "post"}
    for stage, expected in straight.held.items():
        for part, tensors in expected.tensors.items():
            assert torn.held[stage].tensors[part].keys() == tensors.keys()
            for name, value in tensors.items():
                got = torn.held[stage].tensors[part][name]
                assert torch.equal(got.nan_to_num(), value.nan_to_num()), (stage, part, name)


def _pairs(path: Path, world: list[DataSet]) -> Path:
    """Searches, clicks and baskets of the titles that are trained on."""
    ids = tiny.ids_of(world[2], "train")
    rows: list[dict[str, Any]] = [
        {"query_text": f"query {at} cup", "item_id": ids[at], "kind": "search"} for at in range(10)
    ]  # fmt: skip
    rows += [{"query_text": f"seen {at}", "item_id": ids[-at - 1], "kind": "click", "purchased": False} for at in range(10)]
    rows += [{"query_item_id": ids[at], "item_id": ids[at + 1], "kind": "basket"} for at in range(10)]
    return tiny.pair_file(path, rows)


@pytest.mark.parametrize("switch", [each.name for each in fields(Switches)])
def test_every_switch_decides_something(
    tmp_path: Path, world: list[DataSet], monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    pairs = _pairs(tmp_path / "pairs", world) if switch == "clicks" else None
    found = []
    for on in (False, True):
        settings = tiny.config(stage={"filter_threshold": 0.9}, **{switch: on})
        found.append(_losses(tiny.build(settings, world, monkeypatch, pairs=pairs)))
    assert found[0] != found[1]


@pytest.mark.parametrize("train_backbone", [False, True])
def test_core_crops_are_seen_in_training_whether_or_not_the_backbone_trains(
    world: list[DataSet], monkeypatch: pytest.MonkeyPatch, train_backbone: bool
) -> None:
    vectors = []
    for crops in (False, True):
        settings = tiny.config(model={"train_backbone": train_backbone}, core_crops=crops)
        recipe = tiny.build(settings, world, monkeypatch)
        with torch.no_grad():
            vectors.append(recipe.pictures.embed(recipe.model.image, recipe.pictures.take(np.arange(4), None)))
    assert vectors[0].shape == vectors[1].shape == (4, 16)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    assert torch.allclose(vectors[1].norm(dim=1), torch.ones(4), atol=1e-5)


def _only(path: Path, kind: str) -> list[DataSet]:
    """Data that lack something."""
    if kind == "titles only":
        made = tiny.folder(path, "item_id,title", [f"i{at},{tiny.title(at)}" for at in range(20)])
    elif kind == "pictures only":
        images = {f"{at}.png": tiny.picture(at) for at in range(20)}
        made = tiny.folder(path, "item_id,images", [f"i{at},images/{at}.png" for at in range(20)], images)
    elif kind == "a class of one":
        images = {f"{at}.png": tiny.picture(at) for at in range(20)}
        rows = [f"i{at},c{at},images/{at}.png" for at in range(20)]
        made = tiny.folder(path, "item_id,label,images", rows, images)
    elif kind == "constant pictures":
        images = {f"{at}.png": tiny.picture(at, colour=128) for at in range(20)}
        rows = [f"i{at},{tiny.title(at)},images/{at}.png" for at in range(20)]
        made = tiny.folder(path, "item_id,title,images", rows, images)
    else:
        made = tiny.folder(path, "item_id,title", [f"i{at},{tiny.title(at)}" for at in range(9)])
    return [read_data_set(made, cutoff=None)]


KINDS = ("titles only", "pictures only", "a class of one", "constant pictures", "few items")


@pytest.mark.parametrize("train_backbone", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_data_that_lack_something_train_to_finite_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, train_backbone: bool
) -> None:
    settings = tiny.config(model={"train_backbone": train_backbone}, stage={"steps": 3})
    recipe = tiny.build(settings, _only(tmp_path / "data", kind), monkeypatch)
    assert _train(recipe).stopped is None
    for name, value in recipe.model.state_dict().items():
        assert torch.isfinite(value).all(), name
    assert all(np.isfinite(value) for value in recipe.probe().values())


def test_items_of_one_title_are_no_negatives_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shops list one title under several ids; where every other title is one's own, there is nothing to tell apart."""
    made = tiny.folder(tmp_path / "data", "item_id,title", [f"i{at},{('Red  MUG', 'red mug')[at % 2]}" for at in range(30)])
    found = _losses(tiny.build(tiny.config(), [read_data_set(made, cutoff=None)], monkeypatch))
    assert found["pretrain text"] == 0.0


def test_one_item_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.folder(tmp_path / "data", "item_id,group,title", ["i0,g1,one cup"])
    recipe = tiny.build(tiny.config(), [read_data_set(made, cutoff=None)], monkeypatch)
    with pytest.raises(Misconfigured, match="expected two items"):
        _train(recipe)


def test_a_loss_that_is_no_number_names_the_items(world: list[DataSet], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny.build(tiny.config(), world, monkeypatch)
    with torch.no_grad():
        recipe.model.text.table[:] = float("nan")
    stage = next(iter(recipe.stages()))[1]
    stage.validate = dict  # type: ignore[method-assign]
    monkeypatch.setattr(recipe, "stages", lambda: iter([("pretrain", stage, 3)]))
    with pytest.raises(Misconfigured, match=r"loss '.*' is nan.*items g"):
        _train(recipe)


def test_a_state_of_another_config_is_refused(world: list[DataSet], monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(settings: EncoderConfig) -> Any:
        return next(iter(tiny.build(settings, world, monkeypatch).stages()))[1]

    plain = stage(tiny.config())
    for other in (tiny.config(model={"dim": 12}), tiny.config(stage={"queue_size": 8}), tiny.config(queue=False)):
        with pytest.raises(Misconfigured, match="expected"):
            stage(other).load_state(plain.state())


@pytest.mark.parametrize("model", [{"prefix_dims": (8, 16)}, {"prefix_dims": (32,)}, {"prefix_dims": (0,)}])
def test_prefixes_are_shorter_than_the_vector(
    world: list[DataSet], monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    with pytest.raises(Misconfigured, match="prefix_dims"):
        next(iter(tiny.build(tiny.config(model=model), world, monkeypatch).stages()))


def test_a_weight_of_no_loss_is_refused(world: list[DataSet], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.config(stage={"weights": {"labell": 2.0}})
    with pytest.raises(Misconfigured, match="labell"):
        next(iter(tiny.build(settings, world, monkeypatch).stages()))


def test_weights_that_leave_no_loss_are_refused(world: list[DataSet], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.config(stage={"weights": dict.fromkeys(WEIGHTS, 0.0)})
    with pytest.raises(Misconfigured, match="pretrain.weights: expected a loss of more than 0"):
        next(iter(tiny.build(settings, world, monkeypatch).stages()))


def test_only_purchases_are_left_for_post_training_each_pair_once(
    tmp_path: Path, world: list[DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tiny.ids_of(world[2], "train")
    bought = [{"query_text": f"large cup {at}", "item_id": ids[at], "kind": "search"} for at in range(12)]
    looked = [
        {"query_item_id": ids[at + 5], "item_id": ids[at], "kind": "session", "purchased": False} for at in range(12)
    ]  # fmt: skip
    pairs = tiny.pair_file(tmp_path / "pairs", bought + looked)
    recipe = tiny.build(tiny.config(), world, monkeypatch, pairs=pairs)
    kept = recipe._purchases(recipe.drawn_from.behaviour).pairs
    assert len(kept.item) and set(kept.query_item) == {-1}
    assert len({*zip(kept.query_text, kept.item, strict=True)}) == len(kept.item)


def test_basket_pairs_are_cleaned_each_once(world: list[DataSet], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny.build(tiny.config(), world, monkeypatch)
    kept = recipe._purchases(recipe.drawn_from.behaviour).pairs
    assert len({*zip(kept.query_item, kept.item, strict=True)}) == len(kept.item) > 0


def test_searched_pictures_of_held_out_items_are_not_trained_on(
    tmp_path: Path, world: list[DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    goods = world[1]
    splits = {split: [goods.examples[row] for row in goods.rows(split)] for split in ("train", "val", "test")}
    bought = splits["train"][0].item.item_id
    (goods.folder / "searched.png").write_bytes(tiny.picture(9))
    names = ["searched.png", *(each.images[0] for split in ("val", "test") for each in splits[split][:2])]
    rows = [{"query_image": name, "item_id": bought, "kind": "search"} for name in [*names, names[0], "lost.png"]]
    pairs = tiny.pair_file(tmp_path / "pairs", rows)
    recipe = tiny.build(tiny.config(), world, monkeypatch, pairs=pairs)
    held_out = {
        name for data in world for split in ("val", "test") for row in data.rows(split) for name in data.examples[row].images
    }
    seen = recipe.corpus.pictures[int(recipe.corpus.picture_offsets[-1]) :]
    assert [picture.name for picture in seen] == ["searched.png"]
    assert not held_out & {picture.name for picture in seen}
    assert len(recipe.drawn_from.behaviour or ()) == 2
