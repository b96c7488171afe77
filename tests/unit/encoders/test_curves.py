"""Curves: what is drawn is what the history says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from encoders.training.curves import curves_of, draw, main, smoothed, stage_starts  # noqa: E402
from encoders.training.history import History  # noqa: E402

pytestmark = pytest.mark.unit


def _records(path: Path | None = None) -> list[dict[str, Any]]:
    history = History(path)
    for stage, steps in (("pretrain", 5), ("post", 3)):
        history.add("recall", {"stage": stage, "step": 0, "steps": steps}, recall={"text R@1": 0.1})
        for step in range(1, steps + 1):
            losses = {"text": 1.0 / step, **({"hard": 2.0} if stage == "post" else {})}
            history.add("loss", {"stage": stage, "step": step, "steps": steps}, losses=losses, rate=1.0)
    return history.records


def test_stages_follow_one_another() -> None:
    assert stage_starts(_records()) == {"pretrain": 0, "post": 5}
    losses, recalls = curves_of(_records(), "loss"), curves_of(_records(), "recall")
    assert list(losses) == ["text", "hard"]
    assert losses["text"].steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert losses["text"].values.tolist()[4:6] == [0.2, 1.0]
    assert losses["hard"].steps.tolist() == [6, 7, 8]
    assert recalls["text R@1"].steps.tolist() == [0, 5]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.floats(0.1, 20))
def test_a_smoothed_curve_lies_between_its_extremes_and_keeps_constants(values: list[float], span: float) -> None:
    found = smoothed(np.array(values), span=span)
    assert found[0] == pytest.approx(values[0])
    assert min(values) - 1e-6 <= found.min() and found.max() <= max(values) + 1e-6
    assert smoothed(np.full(5, values[0]), span=span) == pytest.approx(np.full(5, values[0]))


def test_smoothing_is_the_formula() -> None:
    keep = math.exp(-1 / 2)
    assert smoothed(np.array([3.0, 6.0]), span=2.0)[1] == pytest.approx((keep * 3 + 6) / (keep + 1))


def test_the_command_writes_the_same_picture_twice(tmp_path: Path) -> None:
    _records(tmp_path / "history.jsonl")
    outs = [tmp_path / "deep" / f"{at}.png" for at in range(2)]
    for out in outs:
        assert main([str(tmp_path / "history.jsonl"), "--out", str(out)]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with Image.open(outs[0]) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1000 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_one_record_and_no_recall_are_drawn(tmp_path: Path) -> None:
    draw(_records()[1:2], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_wrong_use_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "a.png")]) == 1
    assert "none.jsonl" in capsys.readouterr().err
    _records(tmp_path / "history.jsonl")
    assert main([str(tmp_path / "history.jsonl"), "--out", str(tmp_path / "a.jpg.exe")]) == 1
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "history.jsonl"), "--out", str(tmp_path / "file" / "a.png")]) == 1
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
