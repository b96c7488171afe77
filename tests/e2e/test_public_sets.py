"""A published data set in, a table of models with and without SimTier out, as a user types it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ranking.public import run
from tests.unit.ranking.public_world import MicroLens, TaobaoMm

pytestmark = pytest.mark.e2e
CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "world"), [("taobao-mm", TaobaoMm), ("microlens", MicroLens)])
def test_one_command_trains_and_compares_with_and_without_simtier(tmp_path, name, world):
    (tmp_path / "files").mkdir()
    world(tmp_path / "files")
    command = [sys.executable, "-m", "ranking.public.run", name, "--data", tmp_path / "files", "--out", tmp_path / "out"]
    command += ["--users", "100%", "--length", "5", "--seeds", "1", "--jobs", "1"]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "out" / "compare" / "table.json").read_text())
    assert "simtier" in done.stdout.lower()
    runs = list((tmp_path / "out" / "compare" / "runs").glob("*/result.json"))
    assert len(runs) == 2, done.stderr
    assert table["config"] == "public"


def test_the_training_set_is_kept_and_refused_for_other_arguments(tmp_path, capsys):
    (tmp_path / "files").mkdir()
    MicroLens(tmp_path / "files", users=40)
    arguments = ["microlens", "--data", str(tmp_path / "files"), "--out", str(tmp_path / "out"), "--users", "50"]
    made = run._parser().parse_args(arguments)
    folder = run.data_of(made)
    card = (folder / "card.json").stat().st_mtime_ns
    # what an interrupted run leaves is no obstacle
    (tmp_path / "out" / "data.part").mkdir()
    assert run.data_of(made) == folder
    assert (folder / "card.json").stat().st_mtime_ns == card
    assert run.main([*arguments, "--length", "7"]) == 1
    assert "choose another --out" in capsys.readouterr().err
    # Files of other names or sizes are other data; that they are newer says nothing.
    (tmp_path / "other").mkdir()
    MicroLens(tmp_path / "other", users=41)
    assert run.main([*arguments, "--data", str(tmp_path / "other")]) == 1
    assert "choose another --out" in capsys.readouterr().err
    shutil.copytree(tmp_path / "files", tmp_path / "moved")
    assert run.data_of(run._parser().parse_args([*arguments, "--data", str(tmp_path / "moved")])) == folder
    assert run.main(["microlens", "--data", str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "the challenge's train.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("taken", ["out/data/mine.txt", "out/data", "out"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch, taken):
    (tmp_path / "files").mkdir()
    MicroLens(tmp_path / "files", users=5)
    (tmp_path / taken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / taken).write_text("x")
    monkeypatch.setattr(run, "convert", None)
    assert run.main(["microlens", "--data", str(tmp_path / "files"), "--out", str(tmp_path / "out")]) == 1
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / taken).read_text() == "x"
