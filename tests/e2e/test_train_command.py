"""The training command from folders to artifact, with a tiny model and two steps a stage."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import Encoder

pytest.importorskip("torch")

pytestmark = pytest.mark.e2e

TINY = """
[model]
dim = 16
prefix_dims = [8]
backbone = "scratch"
side = 32
buckets = 512
views = 2
[pretrain]
steps = 2
photos = 8
illustrated = 8
titles = 8
behaviour = 8
queue_size = 16
[post]
steps = 2
photos = 8
illustrated = 8
titles = 8
behaviour = 8
queue_size = 16
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def _folder(path: Path, header: str, lines: Sequence[str], images: dict[str, bytes]) -> Path:
    (path / "images").mkdir(parents=True)
    (path / "dataset.json").write_text('{"licence": "CC0-1.0", "author": "nobody"}')
    (path / "items.csv").write_text("\n".join([header, *lines]) + "\n")
    for name, data in images.items():
        (path / "images" / name).write_bytes(data)
    return path


def _shop(path: Path, make_image: Callable[..., bytes], *, items: int = 40) -> Path:
    lines = [f"i{at},g{at},mug number {at},images/{at}.jpg" for at in range(items)]
    return _folder(path, "item_id,group,title,images", lines, {f"{at}.jpg": make_image(at) for at in range(items)})


def _main(*arguments: object) -> int:
    from encoders.train import main

    return main([str(argument) for argument in arguments])


def test_the_command_trains_measures_and_resumes_to_the_same_artifact(
    tmp_path: Path, config: Path, make_image: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    shop, out, runs = _shop(tmp_path / "shop", make_image), tmp_path / "moon_v2", tmp_path / "runs"
    given = ["--config", config, "--data", shop, "--out", out, "--version", 2, "--checkpoints", runs]
    assert _main(*given, "--dry-run") == 0
    assert not out.exists() and not runs.exists()
    assert _main(*given, "--metrics-json", tmp_path / "m" / "metrics.json") == 0
    printed = capsys.readouterr().out
    assert "2 of 2 steps" in printed and "pairs/s" in printed and "(untrained " in printed
    encoder = Encoder.load(out, threads=1)
    assert encoder.space.id == "moon_v2" and encoder.space.dim == 16
    body = json.loads((out / "manifest.json").read_text())
    assert body["metrics"]["test"]["untrained"].keys() == body["metrics"]["test"]["trained"].keys() != set()
    assert body["provenance"]["data"][0]["licence"] == "CC0-1.0"
    assert body["provenance"]["train"]["config"]["model"]["dim"] == 16
    assert str(tmp_path) not in json.dumps(body)
    assert json.loads((tmp_path / "m" / "metrics.json").read_text())["metrics"] == body["metrics"]
    assert (runs / "curves.png").is_file() and (runs / "history.jsonl").is_file()
    assert _main(*given) == 1
    assert "--resume" in capsys.readouterr().err
    assert _main(*given, "--resume") == 0
    assert Encoder.load(out, threads=1).space == encoder.space
    assert _main(*given, "--resume", "--set", "pretrain.head_rate=0.5") == 1
    assert "expected config" in capsys.readouterr().err


def test_a_run_that_is_told_to_stop_goes_on_to_the_same_weights(
    tmp_path: Path, config: Path, make_image: Callable[..., bytes]
) -> None:
    shop = _shop(tmp_path / "shop", make_image)
    given = ["--config", str(config), "--data", str(shop), "--set", "pretrain.steps=60", "--threads", "1"]
    stopped = [*given, "--out", str(tmp_path / "stopped"), "--checkpoints", str(tmp_path / "runs")]
    process = subprocess.Popen(
        [sys.executable, "-m", "encoders.train", *stopped], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("pretrain-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "stopped by SIGTERM" in printed
    assert not (tmp_path / "stopped").exists()
    assert _main(*stopped, "--resume") == 0
    assert _main(*given, "--out", tmp_path / "straight") == 0
    digests = [Encoder.load(tmp_path / name, threads=1).space.encoder_digest for name in ("stopped", "straight")]
    assert digests[0] == digests[1]


def _constant() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 128, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["titles only", "pictures only", "one of a class", "constant pictures", "three items"])
def test_unusual_data_trains_and_is_said(
    tmp_path: Path, config: Path, make_image: Callable[..., bytes], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    names = {f"{at}.jpg": make_image(at) for at in range(40)}
    shop = tmp_path / "shop"
    if kind == "titles only":
        _folder(shop, "item_id,title", [f"i{at},blue mug of {at} ml" for at in range(40)], {})
        note = "no pictures in any data set"
    elif kind == "pictures only":
        lines = [f"i{at},g{at},{'ab'[at % 2]},images/{at}.jpg" for at in range(40)]
        _folder(shop, "item_id,group,label,images", lines, names)
        note = "no texts in any data set"
    elif kind == "one of a class":
        lines = [f"i{at},g{at},l{at},images/{at}.jpg" for at in range(40)]
        _folder(shop, "item_id,group,label,images", lines, names)
        note = "classes with one member"
    elif kind == "constant pictures":
        lines = [f"i{at},g{at},mug {at},images/{at}.jpg" for at in range(40)]
        _folder(shop, "item_id,group,title,images", lines, dict.fromkeys(names, _constant()))
        note = ""
    else:
        _shop(shop, make_image, items=10)
        note = "fewer than"
    assert _main("--config", config, "--data", shop, "--out", tmp_path / "moon") == 0
    assert note in capsys.readouterr().out
    vectors = Encoder.load(tmp_path / "moon", threads=1)
    assert vectors.space.dim == 16


def test_a_folder_without_data_is_an_error(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("--config", config, "--data", tmp_path, "--out", tmp_path / "x") == 1
    assert "items.csv" in capsys.readouterr().err
    empty = _folder(tmp_path / "empty", "item_id,title", [], {})
    assert _main("--config", config, "--data", empty, "--out", tmp_path / "x") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("found", ["notes.txt", "manifest.json"])
def test_a_folder_that_is_no_artifact_is_refused_before_any_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dry: list[str], found: str
) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / found).write_text("{}")
    assert _main("--data", tmp_path / "none", "--out", out, *dry) == 1
    assert "would delete it" in capsys.readouterr().err
    assert (out / found).read_text() == "{}"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--pairs-fraction", "0"],
        ["--pairs-fraction", "1.5"],
        ["--space", "Moon 1"],
        ["--cutoff", "yesterday"],
        ["--version", "0"],
        ["--threads", "0"],
        ["--threads", "x"],
        ["--minutes", "-1"],
        ["--resume"],
    ],
)
def test_a_wrong_argument_is_wrong_use_under_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        _main("--data", tmp_path, "--out", tmp_path / "x", "--dry-run", *wrong)
    assert stop.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_an_artifact_needs_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _main("--data", tmp_path)
    assert stop.value.code == 2 and "--out" in capsys.readouterr().err


def test_settings_that_do_not_exist_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("--config", "none", "--data", tmp_path, "--out", tmp_path / "x") == 1
    assert "config none" in capsys.readouterr().err
    assert _main("--data", tmp_path, "--out", tmp_path / "x", "--set", "switches.magic=true") == 1
    assert "magic" in capsys.readouterr().err
