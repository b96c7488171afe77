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
    assert "shop/text_to_image" in body["metrics"]["test"]["untrained"]
    assert body["provenance"]["data"][0]["licence"] == "CC0-1.0"
    assert "step 2/2" in capsys.readouterr().out
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "x")]) == 1


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("found", ["notes.txt", "manifest.json"])
def test_a_folder_that_is_no_artifact_is_refused_before_any_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dry: list[str], found: str
) -> None:
    from encoders.train import main

    out = tmp_path / "thesis"
    out.mkdir()
    (out / found).write_text("{}")
    assert main(["--data", str(tmp_path / "none"), "--out", str(out), *dry]) == 1
    assert "would delete it" in capsys.readouterr().err
    assert (out / found).read_text() == "{}"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--steps", "0"],
        ["--steps", "x"],
        ["--space", "Moon 1"],
        ["--cutoff", "yesterday"],
        ["--version", "0"],
        ["--threads", "0"],
    ],
)
def test_a_wrong_argument_is_wrong_use_under_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    from encoders.train import main

    with pytest.raises(SystemExit) as stop:
        main(["--data", str(tmp_path), "--out", str(tmp_path / "x"), "--dry-run", *wrong])
    assert stop.value.code == 2 and wrong[0] in capsys.readouterr().err
