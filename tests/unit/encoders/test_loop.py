"""The loop: order of calls, schedule, stops, and errors that leave no silent model."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from encoders.training.ahead import drawn_ahead  # noqa: E402
from encoders.training.checkpoint import CheckpointFolder  # noqa: E402
from encoders.training.history import History, read_history  # noqa: E402
from encoders.training.loop import LoopConfig, run  # noqa: E402
from encoders.training.optimizer import rate_at  # noqa: E402
from encoders.training.throughput import Throughput  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402
from tests.unit.encoders.tiny_stage import TinyStage  # noqa: E402

pytestmark = pytest.mark.unit


def _ticks(step: float = 0.001) -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * step


def _run(stage: TinyStage, steps: int, folder: CheckpointFolder | None = None, **config: object) -> tuple[History, list[str]]:
    lines: list[str] = []
    history = run(stage, LoopConfig(steps, **config), checkpoints=folder, clock=_ticks(), say=lines.append)  # type: ignore[arg-type]
    return history, lines


def test_every_step_is_drawn_once_and_recorded_and_validated_ten_times() -> None:
    stage = TinyStage()
    history, lines = _run(stage, 20)
    assert stage.drawn == list(range(20))
    assert [record["step"] for record in history.of("loss")] == list(range(1, 21))
    assert [record["step"] for record in history.of("recall")] == [0, *range(2, 21, 2)]
    assert all(set(record["losses"]) == {"contrast", "size"} for record in history.of("loss"))
    assert history.stopped is None
    assert "20 of 20 steps" in lines[-1] and "pairs/s" in lines[-1] and "waited for data" in lines[-1]


def test_training_learns() -> None:
    losses = [record["losses"]["contrast"] for record in _run(TinyStage(), 120)[0].of("loss")]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_drawing_ahead_changes_nothing() -> None:
    results = [_run(TinyStage(), 12, ahead=ahead)[0].records for ahead in (0, 1, 4)]
    losses = [[r["losses"] for r in records if r["kind"] == "loss"] for records in results]
    assert losses[0] == losses[1] == losses[2]


@given(st.integers(1, 5000))
def test_the_rate_warms_up_over_the_first_twentieth_and_falls_to_nearly_zero(steps: int) -> None:
    rates = [rate_at(step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert 0.0 < min(rates) and max(rates) <= 1.0
    assert top <= -(-steps // 20)
    assert all(a < b for a, b in itertools.pairwise(rates[:top])) and all(a > b for a, b in itertools.pairwise(rates[top:]))
    if steps >= 100:
        assert max(rates) > 0.98 and rates[-1] < 0.001


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_what_is_no_number_stops_before_it_reaches_the_model(tmp_path: Path, how: str) -> None:
    stage, whole = TinyStage(spoil=7, how=how), TinyStage()
    with pytest.raises(Misconfigured) as error:
        _run(stage, 20, CheckpointFolder(tmp_path / "c", {"config": "a"}))
    text = str(error.value)
    assert "step 8 of 20" in text and str(tmp_path / "c" / "pretrain-00000006") in text and "i7_0" in text and "Lower" in text
    assert ("'size' is nan" if how == "loss" else "gradients is nan") in text
    assert all(torch.isfinite(value.float()).all() for value in stage.state().values())
    assert stage.queue.shape == whole.queue.shape


def test_gradients_are_clipped_together() -> None:
    free, clipped = TinyStage(), TinyStage()
    clipped_losses = _run(clipped, 3, clip=1e-12)[0].records
    assert clipped_losses != _run(free, 3)[0].records
    before = TinyStage().model[0].weight
    # AdamW does not see the size of a gradient, except where it is as small as its epsilon.
    assert (clipped.model[0].weight - before).abs().max() < 1e-4 < (free.model[0].weight - before).abs().max()


def test_minutes_stop_early_and_it_is_said() -> None:
    history, lines = _run(TinyStage(), 1000, minutes=0.001)
    assert history.stopped == "0.001 minutes"
    assert 0 < max(record["step"] for record in history.of("loss")) < 1000
    assert "does not repeat" in lines[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint_and_the_old_handlers(tmp_path: Path, number: signal.Signals) -> None:
    class Signalled(TinyStage):
        def after_step(self, batch: dict[str, object], done: float) -> None:
            super().after_step(batch, done)
            if batch["step"] == 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    history, _ = _run(Signalled(), 20, CheckpointFolder(tmp_path, {}))
    assert history.stopped == number.name
    assert signal.getsignal(number) is before
    assert (tmp_path / "pretrain-00000005").is_dir()


def test_no_loss_in_any_step_is_an_error_and_some_are_counted() -> None:
    class Silent(TinyStage):
        said = 0

        def losses(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
            losses = super().losses(batch)
            return losses if batch["step"] < self.said else {}

    with pytest.raises(Misconfigured, match="got none in 5 steps"):
        _run(Silent(), 5)
    some = Silent()
    some.said = 3
    history, lines = _run(some, 5)
    assert history.skipped == 2 and "2 steps without a loss" in lines[-1]


def test_no_steps_and_no_parameters_are_refused() -> None:
    with pytest.raises(Misconfigured, match="at least 1 step"):
        _run(TinyStage(), 0)
    frozen = TinyStage()
    frozen.model.requires_grad_(False)
    with pytest.raises(Misconfigured, match="expected parameters to train"):
        _run(frozen, 2)
    with pytest.raises(Misconfigured, match="expected parameters on meta, got"):
        _run(TinyStage(), 2, device="meta")


def test_one_step_is_a_whole_run() -> None:
    history, _ = _run(TinyStage(), 1)
    assert [record["kind"] for record in history.records] == ["recall", "loss", "recall", "speed"]


def test_an_error_of_the_drawing_thread_reaches_the_caller_and_the_thread_ends() -> None:
    def draw(step: int) -> int:
        if step == 3:
            raise Misconfigured("no pairs")
        return step

    with drawn_ahead(draw, range(10), 2) as take:
        assert [take(), take(), take()] == [0, 1, 2]
        with pytest.raises(Misconfigured, match="no pairs"):
            take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("draw")]


def test_waiting_and_time_apart_are_told_from_training() -> None:
    now = [0.0]
    meter = Throughput(lambda: now[0])
    assert meter.speed().pairs_per_s == 0.0
    with meter.waiting():
        now[0] += 1.0
    now[0] += 3.0
    with meter.apart():
        now[0] += 100.0
    meter.add(20)
    speed = meter.speed()
    assert (speed.pairs_per_s, speed.wait_share, speed.seconds) == (5.0, 0.25, 4.0)


def test_history_is_read_back_and_a_restored_one_forgets_what_came_later(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("of an older run\n")
    history = History(path)
    for step in (1, 2, 3):
        history.add("loss", {"stage": "pretrain", "step": step, "steps": 3}, losses={"a": 1.5}, rate=1.0)
    assert read_history(path) == history.records
    history.restore(history.records[:1])
    assert [record["step"] for record in read_history(path)] == [1]


@pytest.mark.parametrize("text", ["", "{", '{"kind": "loss"}', "[1]"])
def test_a_file_that_is_no_history_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=r"history\.jsonl"):
        read_history(path)


def test_a_terminal_gets_a_bar_and_others_get_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = _run(TinyStage(), 4, say_every=0.0)
    assert [line.split()[1] for line in lines if "| " in line] == ["1/4", "2/4", "3/4", "4/4"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, lines = _run(TinyStage(), 4, say_every=0.0)
    assert not [line for line in lines if "| " in line]
    assert "4/4" in capsys.readouterr().err
