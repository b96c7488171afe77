"""The training command from CSV to artifact, in two steps of two seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from encoders import Encoder

pytest.importorskip("torch")

pytestmark = pytest.mark.e2e


def test_the_command_trains_and_reports(
    tmp_path: Path, make_image: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    from encoders.train import main

    shop = tmp_path / "shop"
    (shop / "images").mkdir(parents=True)
    (shop / "dataset.json").write_text('{"licence": "CC0-1.0", "author": "nobody"}')
    lines = ["item_id,group,title,images"]
    for at in range(40):
        (shop / "images" / f"{at}.jpg").write_bytes(make_image(at))
        lines.append(f"i{at},g{at},mug number {at},images/{at}.jpg")
    (shop / "items.csv").write_text("\n".join(lines))
    arguments = ["--data", str(shop), "--out", str(tmp_path / "moon_v2"), "--version", "2", "--steps", "2", "--threads", "1"]
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "moon_v2").exists()
    assert main(arguments) == 0
    encoder = Encoder.load(tmp_path / "moon_v2", threads=1)
    assert encoder.space.id == "moon_v2"
    body = json.loads((tmp_path / "moon_v2" / "manifest.json").read_text())
    assert "shop/cross_modal" in body["metrics"]["test"]["untrained"]
    assert body["provenance"]["data"][0]["licence"] == "CC0-1.0"
    assert "step 2/2" in capsys.readouterr().out
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
