"""A whole run over several stages, and what is said about unusual data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from encoders.config import CONFIGS, load_config  # noqa: E402
from encoders.data import DataSet, Example, split_of  # noqa: E402
from encoders.evaluate import main as evaluate  # noqa: E402
from encoders.item import Item  # noqa: E402
from encoders.train import main  # noqa: E402
from encoders.training.checkpoint import CheckpointFolder  # noqa: E402
from encoders.training.inputs import data_digest, notes_on  # noqa: E402
from encoders.training.session import Drive, train  # noqa: E402
from moontide import Misconfigured  # noqa: E402
from tests.unit.encoders.tiny_stage import TinyStage  # noqa: E402

pytestmark = pytest.mark.unit


class TinyRecipe:
    """Two stages; the second begins with the model the first left."""

    tokenizer = preprocessing = None

    def __init__(self) -> None:
        self.model = TinyStage().model
        self.built: list[str] = []

    def stages(self) -> Iterator[tuple[str, TinyStage, int]]:
        for name, steps in (("pretrain", 6), ("post", 4)):
            stage = TinyStage(name)
            stage.model.load_state_dict(self.model.state_dict())
            self.model = stage.model
            self.built.append(name)
            yield name, stage, steps


def _train(recipe: TinyRecipe, folder: CheckpointFolder | None, minutes: float | None = None) -> Any:
    ticks = itertools.count()
    drive = Drive(seed=3, minutes=minutes)
    return train(recipe, drive, checkpoints=folder, clock=lambda: next(ticks) * 0.001, say=lambda _: None)  # type: ignore[arg-type]


def test_stages_follow_one_another_and_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    first, again, bare = TinyRecipe(), TinyRecipe(), TinyRecipe()
    outcome = _train(first, CheckpointFolder(tmp_path, {"config": "a"}))
    assert first.built == ["pretrain", "post"] and outcome.stopped is None
    assert set(outcome.speeds) == {"pretrain", "post"} and outcome.speeds["post"]["pairs_per_s"] > 0
    assert (tmp_path / "curves.png").is_file()
    resumed = _train(again, CheckpointFolder(tmp_path, {"config": "a"}, resume=True))
    _train(bare, None)
    assert resumed.history.records == outcome.history.records
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]) and torch.equal(value, bare.model.state_dict()[name])


def test_the_time_limit_is_one_for_all_stages() -> None:
    recipe = TinyRecipe()
    outcome = _train(recipe, None, minutes=1e-9)
    assert recipe.built == ["pretrain"] and outcome.stopped is not None and "minutes" in outcome.stopped


def _data(tmp_path: Path, *examples: tuple[str | None, str | None, tuple[str, ...]]) -> DataSet:
    """Examples (title, label, images), all of the train split."""
    groups = (group for group in map(str, itertools.count()) if split_of(group) == "train")
    rows = tuple(
        Example(Item(str(at), title=title), next(groups), label, images) for at, (title, label, images) in enumerate(examples)
    )
    return DataSet(tmp_path, rows, (), None, {}, {"duplicate_item_id": 2})


def test_unusual_data_is_said_aloud(tmp_path: Path) -> None:
    notes = "\n".join(notes_on([_data(tmp_path, ("mug", "a", ()), ("cup", "b", ()), ("pot", "b", ()))], batch=64))
    assert "2 rows left out, duplicate item id" in notes
    assert "no pictures" in notes and "no texts" not in notes
    assert "1 classes with one member" in notes
    assert "3 items to train on, fewer than the 64" in notes
    notes = "\n".join(notes_on([_data(tmp_path, *[(None, None, ("a.jpg",))] * 5)], batch=4))
    assert "no texts" in notes and "no pictures" not in notes and "fewer" not in notes and "one member" not in notes


def test_the_data_digest_follows_tables_names_and_settings(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\na\n")
    (tmp_path / "a.jpg").write_bytes(b"123")
    one = data_digest([tmp_path], "2024-01-01")
    assert one == data_digest([tmp_path], "2024-01-01") and len(one) == 16
    assert one != data_digest([tmp_path], None)
    (tmp_path / "items.csv").write_text("item_id\nb\n")
    two = data_digest([tmp_path], "2024-01-01")
    (tmp_path / "a.jpg").write_bytes(b"1234")
    assert len({one, two, data_digest([tmp_path], "2024-01-01"), data_digest([], "2024-01-01")}) == 4


@pytest.mark.parametrize(
    "override",
    ["seed=-1", "seed=9223372036854775808", "pretrain.steps=-3", "pretrain.steps=0", "post.photos=-1", "pretrain.temperature=0",
     "post.momentum=1.5", "pretrain.head_rate=nan", "post.margin=inf", "model.dim=0", "model.dim=40000",
     "pretrain.weights.keep=-1", "pretrain.weights.text=nan", "post.weights.keep=inf"],
)  # fmt: skip
def test_settings_out_of_their_range_are_refused(override: str) -> None:
    with pytest.raises(Misconfigured, match=f"config {override.partition('=')[0]}: expected"):
        load_config("small", overrides=[override])


def test_a_stage_may_be_left_out_and_every_shipped_size_is_in_range() -> None:
    assert load_config("small", overrides=["pretrain.weights.text=0"]).pretrain.weights == {"keep": 10.0, "text": 0.0}
    assert load_config("small", overrides=["post.steps=0", "seed=9223372036854775807"]).post.steps == 0
    for path in CONFIGS.glob("*.toml"):
        assert load_config(path.stem).name == path.stem


def test_an_output_that_cannot_be_written_is_found_before_the_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # They are the process's, and so other tests' too.
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, **rest: None)
    (tmp_path / "file").touch()
    for flags in (
        ["--out", f"{tmp_path}/file/a"],
        ["--no-artifact", "--metrics-json", f"{tmp_path}/file/m.json"],
        ["--no-artifact", "--checkpoints", f"{tmp_path}/file"],
        ["--no-artifact", "--features-cache", f"{tmp_path}/file"],
    ):
        assert main(["--data", str(tmp_path / "none"), *flags]) == 1
        assert f"{flags[-2]} {flags[-1]}: expected a place to write to" in capsys.readouterr().err


@pytest.mark.parametrize("command", [main, evaluate], ids=["train", "evaluate"])
def test_folders_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, **rest: None)
    folders = [str(tmp_path / shop / "catalog") for shop in ("one", "other")]
    first = ["--out", str(tmp_path / "made")] if command is main else [str(tmp_path)]
    assert command([*first, "--data", *folders]) == 1
    assert "expected folders of different names, got ['catalog'] more than once" in capsys.readouterr().err
