"""Checkpoints: a run that was stopped and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from encoders.training.checkpoint import CheckpointFolder  # noqa: E402
from encoders.training.history import History, read_history  # noqa: E402
from encoders.training.loop import LoopConfig, run  # noqa: E402
from moontide.errors import Misconfigured, Transient  # noqa: E402
from tests.unit.encoders.tiny_stage import TinyStage  # noqa: E402

pytestmark = pytest.mark.unit
DIGESTS = {"config": "c0ffee", "data": "da7a"}


class Killed(Exception):
    """Ends a run at once, as a kill does."""


class Dying(TinyStage):
    """Dies before its step `dies`."""

    dies = -1

    def losses(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        if batch["step"] == self.dies:
            raise Killed
        return super().losses(batch)


def _clock() -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * 0.001


def _run(stage: TinyStage, steps: int, folder: CheckpointFolder | None, history: History | None = None) -> History:
    config = LoopConfig(steps, validations=2)
    return run(stage, config, checkpoints=folder, clock=_clock(), say=lambda _: None, history=history)


def _facts(history: History) -> list[dict[str, object]]:
    return [record for record in history.records if record["kind"] != "speed"]


def test_twenty_steps_are_ten_and_ten(tmp_path: Path) -> None:
    straight = TinyStage()
    whole = _run(straight, 20, None)
    dying = Dying()
    dying.dies = 13
    with pytest.raises(Killed):
        _run(dying, 20, CheckpointFolder(tmp_path, DIGESTS), History(tmp_path / "history.jsonl"))
    # Another seed and a used-up generator: nothing but the checkpoint may decide what follows.
    resumed = TinyStage(seed=99)
    resumed.seed, resumed.validated = 0, 2
    torch.rand(7)
    again = _run(resumed, 20, CheckpointFolder(tmp_path, DIGESTS, resume=True), History(tmp_path / "history.jsonl"))
    assert resumed.drawn == list(range(10, 20))
    expected, got = straight.state(), resumed.state()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert _facts(again) == _facts(whole)
    assert read_history(tmp_path / "history.jsonl") == again.records


def test_two_stages_keep_the_end_of_the_first_and_the_last_two_of_the_second(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, DIGESTS)
    history = _run(TinyStage(), 4, folder)
    post = Dying("post")
    post.dies = 5
    with pytest.raises(Killed):
        run(post, LoopConfig(6, validations=6), checkpoints=folder, clock=_clock(), say=str, history=history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["post-00000004", "post-00000005", "pretrain-00000004"]
    folder = CheckpointFolder(tmp_path, DIGESTS, resume=True)
    first, second = TinyStage(), TinyStage("post")
    history = _run(first, 4, folder)
    assert first.drawn == []
    history = run(second, LoopConfig(6, validations=6), checkpoints=folder, clock=_clock(), say=str, history=history)
    assert second.drawn == [5]
    assert [(r["stage"], r["step"]) for r in history.of("loss")] == [
        *(("pretrain", step) for step in range(1, 5)), *(("post", step) for step in range(1, 7))
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["post-00000006", "pretrain-00000004"]


def _one(tmp_path: Path) -> Path:
    _run(TinyStage(), 2, CheckpointFolder(tmp_path, DIGESTS))
    return tmp_path / "pretrain-00000002"


def test_checkpoints_are_never_mixed_with_a_new_run(tmp_path: Path) -> None:
    _one(tmp_path)
    with pytest.raises(Misconfigured, match="--resume"):
        CheckpointFolder(tmp_path, DIGESTS)
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="got a file"):
        CheckpointFolder(tmp_path / "file", DIGESTS)
    assert CheckpointFolder(tmp_path / "none", DIGESTS, resume=True).latest("pretrain") is None


@pytest.mark.parametrize("name", ["config", "data"])
def test_another_config_or_other_data_is_refused(tmp_path: Path, name: str) -> None:
    _one(tmp_path)
    folder = CheckpointFolder(tmp_path, {**DIGESTS, name: "other"}, resume=True)
    with pytest.raises(Misconfigured, match=f"expected {name} other, got {DIGESTS[name]}; "):
        folder.latest("pretrain")


def test_another_stage_or_number_of_steps_is_refused(tmp_path: Path) -> None:
    shutil.copytree(_one(tmp_path), tmp_path / "post-00000002")
    folder = CheckpointFolder(tmp_path, DIGESTS, resume=True)
    with pytest.raises(Misconfigured, match="expected stage post, got pretrain"):
        folder.latest("post")
    with pytest.raises(Misconfigured, match="run of 7 steps, got one of 2"):
        _run(TinyStage(), 7, folder)


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    _one(tmp_path)

    class Wider(TinyStage):
        def __init__(self) -> None:
            super().__init__()
            self.model[4] = torch.nn.Linear(8, 9)

        def load_state(self, state: dict[str, torch.Tensor]) -> None:
            pass

    with pytest.raises(Misconfigured, match=r"parameter 4 has shape \(9, 8\), got \(4, 8\)"):
        _run(Wider(), 2, CheckpointFolder(tmp_path, DIGESTS, resume=True))


@pytest.mark.parametrize("part", ["stage.safetensors", "optimizer.safetensors", "random.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("how", ["truncated", "edited", "missing", "empty"])
def test_damage_is_found(tmp_path: Path, part: str, how: str) -> None:
    path = _one(tmp_path) / part
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        # The digit before the last comes after the head of a tensor file, and inside the history of the JSON.
        changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        path.write_bytes({"truncated": data[:-5], "edited": changed, "empty": b""}[how])
    with pytest.raises(Misconfigured, match=rf"(?s)checkpoint .*({part}|pretrain-00000002).*delete"):
        CheckpointFolder(tmp_path, DIGESTS, resume=True).latest("pretrain")


@pytest.mark.parametrize("body", [[], {"format_version": 99}, {"format_version": 1}])
def test_json_of_something_else_is_refused(tmp_path: Path, body: object) -> None:
    path = _one(tmp_path) / "checkpoint.json"
    path.write_text(json.dumps(body))
    with pytest.raises(Misconfigured, match="expected (format_version|checksum)"):
        CheckpointFolder(tmp_path, DIGESTS, resume=True).latest("pretrain")


def test_a_writing_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = _one(tmp_path)

    def full(*_: object) -> None:
        raise OSError("no space left")

    folder = CheckpointFolder(tmp_path, DIGESTS, resume=True)
    found = folder.latest("pretrain")
    assert found is not None
    monkeypatch.setattr("encoders.artifact_folder.os.fsync", full)
    with pytest.raises(Transient, match="no space"):
        folder.save(found)
    assert [path.name for path in tmp_path.iterdir()] == [newest.name]
    assert folder.latest("pretrain") is not None


def test_tied_weights_and_empty_tensors_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, DIGESTS)

    class Tied(TinyStage):
        def state(self) -> dict[str, torch.Tensor]:
            return {**super().state(), "tied": self.queue, "empty": torch.zeros(0, 3), "turned": self.queue.T}

    stage = Tied()
    _run(stage, 1, folder)
    found = folder.latest("pretrain")
    assert found is not None
    got = found.tensors["stage"]
    assert torch.equal(got["tied"], stage.queue) and torch.equal(got["turned"], stage.queue.T) and got["empty"].shape == (0, 3)
