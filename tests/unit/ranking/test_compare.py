from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encoders.study.runs import HERE
from moontide.errors import Misconfigured
from moontide.pit.layout import write_card
from ranking import train
from ranking.compare import main
from ranking.config import load_config
from ranking.plan import Wanted, data_digest, points_of, run_of
from ranking.results import BEGIN, END, as_markdown, difference, heading, put
from ranking.results import main as write_results

pytestmark = pytest.mark.unit

CONFIG = """
[models.id]
[models.simtier]
sides = ["simtier"]
tiers = 4
[models.make]
sides = ["make"]
[models.simtier_shuffled]
sides = ["simtier"]
tiers = 4
shuffle = true
[compare]
models = ["id", "simtier", "make", "simtier_shuffled"]
lengths = [5, 9]
seeds = 2
"""

# A model that reads vectors knows the label better by what its space's file says; nothing is trained.
FAKE = """
import pathlib, sys
import numpy as np
from ranking.evaluation import evaluate
from ranking.run_file import TestRows, write_run

def train(arguments):
    flag = lambda name: arguments[arguments.index(name) + 1]
    model, seed = flag("--model"), int(flag("--seed"))
    if pathlib.Path(flag("--data"), "broken").exists():
        raise SystemExit("error: the reason")
    variant = [part for part in arguments if part.startswith("data.variant=")][-1].partition("=")[2]
    draw = np.random.default_rng(5 if variant == "new" else 6)
    users = np.repeat(np.arange(50), 12)
    label = (draw.random(600) < 0.3).astype(np.float32)
    common = draw.normal(size=600)
    gain = 0.0
    if "--vectors" in arguments:
        gain = float(pathlib.Path(flag("--vectors")).read_text()) * (0.0 if "shuffled" in model else 1.0)
    noise = 0.2 * np.random.default_rng(seed).normal(size=600)
    logits = (0.5 * label + gain * label + common + noise - 1).astype(np.float32)
    slices = {"new_items": draw.random(600) < 0.4, "tail_items": np.zeros(600, bool)}
    rows = TestRows(users, np.zeros(600, np.int64), label, slices)
    record = {"epoch": 1, "train_loss": 0.6, "validation": {"auc": 0.6, "gauc": 0.6 + gain, "log_loss": 0.5}}
    body = {"settings": {"model": model, "split": [1, 2, 3], "scalars": ["age"]}, "card": {"rows": 600, "left_out": {"cold": 3}},
            "curve": [record], "make_curve": [record] if model == "make" else [], "seconds": 2.0,
            "test": evaluate(label, logits, users, slices)}
    write_run(pathlib.Path(flag("--json")), body, rows, logits)
    with pathlib.Path(flag("--data"), "..", "ran").open("a") as ran:
        ran.write(f"{model}\\n")

if __name__ == "__main__":
    train(sys.argv[1:])
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fake_train.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{Path(__file__).parents[3]}")
    (tmp_path / "tiny.toml").write_text(CONFIG)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "items.csv").write_text("item_id,title\n")
    (tmp_path / "moon.npz").write_text("1.0")
    (tmp_path / "svd.npz").write_text("0.3")
    return tmp_path


def compare(shop, *extra):
    argv = ["--config", shop / "tiny.toml", "--data", shop / "data", "--out", shop / "out", "--draws", 60]
    argv += ["--spaces", f"moon={shop / 'moon.npz'}", f"svd={shop / 'svd.npz'}", *extra]
    return main([str(part) for part in argv], program="fake_train", clock=lambda: 0.0)


def train_here(shop, **changed):
    """Leave what the commands of a plan would, without starting one process a run."""
    fake: dict = {"__name__": "fake"}
    exec(compile(FAKE, "fake", "exec"), fake)
    wanted = wanted_of(shop, **changed)
    for point in points_of(wanted, wanted.loaded()):
        run = run_of(point, wanted, wanted.loaded(), cache=shop / "out" / "cache", program="fake_train")
        folder = run.folder(shop / "out" / "runs")
        folder.mkdir(parents=True)
        fake["train"]([part.replace(HERE, str(folder)) for part in run.commands[0][3:]])
        (folder / "run.json").write_text(run.described())
    ran(shop)


def ran(shop):
    found = (shop / "ran").read_text().split() if (shop / "ran").exists() else []
    (shop / "ran").unlink(missing_ok=True)
    return found


def wanted_of(shop, **changed):
    spaces = {"moon": shop / "moon.npz", "svd": shop / "svd.npz"}
    return Wanted(str(shop / "tiny.toml"), shop / "data", spaces, **changed)


def test_models_without_vectors_are_planned_once_a_length_and_controls_with_the_first_space(shop):
    wanted = wanted_of(shop)
    points = points_of(wanted, wanted.loaded())
    assert [(point.length, point.model, point.space) for point in points if point.seed == 1] == [
        (length, *row)
        for length in (5, 9)
        for row in (
            ("id", ""),
            ("simtier", "moon"),
            ("simtier", "svd"),
            ("make", "moon"),
            ("make", "svd"),
            ("simtier_shuffled", "moon"),
        )
    ]
    assert len({point.name for point in points}) == len(points) == 24
    # A study that is cut short has whole seeds of its first length.
    assert [(point.length, point.seed) for point in points[::6]] == [(5, 0), (5, 1), (9, 0), (9, 1)]


def test_the_base_is_always_planned_and_flags_go_before_the_configuration(shop):
    wanted = wanted_of(shop, models=("make",), lengths=(7,), seeds=1, variants=("new", "all"), curve_epochs=6)
    made = points_of(wanted, wanted.loaded())
    assert [point.name for point in made] == [
        "new-L7-id-s0", "new-L7-make-moon-s0", "new-L7-make-svd-s0", "all-L7-id-s0", "all-L7-make-moon-s0", "all-L7-make-svd-s0",
        "curve-new-L7-id-s0", "curve-new-L7-make-moon-s0",
    ]  # fmt: skip
    command = run_of(made[-1], wanted, wanted.loaded(), cache=Path("c")).commands[0]
    assert {"fit.epochs=6", "fit.patience=6", "make.epochs=6", "make.patience=6", "data.variant=new"} <= set(command)
    with pytest.raises(Misconfigured, match="expected one of"):
        points_of(wanted_of(shop, models=("none",)), wanted.loaded())


def test_without_spaces_models_read_the_vectors_of_the_training_set(shop):
    wanted = Wanted(str(shop / "tiny.toml"), shop / "data", {})
    assert {point.space for point in points_of(wanted, wanted.loaded())} == {""}


def test_the_trainer_takes_the_planned_commands(shop):
    wanted = wanted_of(shop, overrides=("fit.rate=0.01",), curve_epochs=2)
    config = wanted.loaded()
    for point in points_of(wanted, config):
        command = run_of(point, wanted, config, cache=shop / "cache").commands[0]
        assert command[1:3] == ("-m", "ranking.train")
        taken = train._parser().parse_args(command[3:])
        assert (taken.model, taken.length, taken.seed) == (point.model, point.length, point.seed)
        assert taken.vectors == (wanted.spaces[point.space] if config.model(point.model).reads_vectors else None)
        changed = load_config(taken.config, overrides=taken.set)
        assert (changed.fit.rate, changed.data.variant) == (0.01, point.variant)
        assert changed.fit.epochs == (2 if point.kind == "curve" else config.fit.epochs)


def test_what_decides_a_run_is_in_what_it_depends_on(shop):
    wanted = wanted_of(shop)
    config = wanted.loaded()
    point = next(point for point in points_of(wanted, config) if point.model == "simtier")
    described = run_of(point, wanted, config, cache=Path("c")).described()
    again = lambda: run_of(point, wanted, wanted.loaded(), cache=Path("c")).described()  # noqa: E731
    assert again() == described
    for path, text in (
        (shop / "moon.npz", "2.0"), (shop / "data" / "items.csv", "item_id\n"), (shop / "tiny.toml", CONFIG.replace("tiers = 4", "tiers = 6")),
    ):  # fmt: skip
        before = path.read_text()
        path.write_text(text)
        assert again() != described
        path.write_text(before)
    (shop / "data" / "card.json").write_text("{}")
    first = data_digest(shop / "data")
    (shop / "data" / "items.csv").write_text("the card decides")
    assert data_digest(shop / "data") == first
    with pytest.raises(Misconfigured, match="got no file"):
        data_digest(shop / "nowhere")


def test_a_comparison_has_differences_pairs_curves_and_plots(shop, capsys):
    train_here(shop, curve_epochs=3)
    assert compare(shop, "--collect", "--curve-epochs", 3) == 0
    body = json.loads((shop / "out" / "table.json").read_text())
    assert [(group["variant"], group["length"]) for group in body["groups"]] == [("new", 5), ("new", 9)]
    group = body["groups"][0]
    rows = {row["name"]: row for row in group["rows"]}
    assert list(rows) == ["id", "simtier/moon", "simtier/svd", "make/moon", "make/svd", "simtier_shuffled/moon"]
    gauc = {name: row["figures"]["whole gauc"] for name, row in rows.items()}
    assert gauc["simtier/moon"]["low"] > 0.05
    assert gauc["simtier/moon"]["difference"] > gauc["simtier/svd"]["difference"] > 0
    assert gauc["simtier_shuffled/moon"]["difference"] == gauc["simtier_shuffled/moon"]["low"] == 0.0
    assert gauc["id"]["difference"] is None
    assert set(rows["simtier/moon"]["figures"]["tail_items gauc"].values()) == {None}
    pair = next(each for each in group["pairs"] if (each["first"], each["second"]) == ("simtier/moon", "simtier/svd"))
    assert pair["figures"]["whole gauc"]["low"] > 0
    assert [each["model"] for each in body["curves"]] == ["id", "make"]
    table = (shop / "out" / "table.md").read_text()
    assert table == as_markdown(body)
    assert table in capsys.readouterr().out
    assert {path.stem for path in (shop / "out").glob("*.png")} == {"differences", "lengths", "curves", "calibration"}


def test_commands_are_run_and_only_what_is_not_done_is_run_again(shop, capsys):
    assert compare(shop, "--collect") == 1
    assert "expected runs that are done, got none of 24" in capsys.readouterr().err
    few = ("--lengths", 5, "--seeds", 1, "--models", "simtier")
    assert compare(shop, *few, "--jobs", 2) == 0
    assert sorted(ran(shop)) == ["id", "simtier", "simtier"]
    assert compare(shop, *few) == 0
    assert ran(shop) == []
    (shop / "moon.npz").write_text("2.0")
    assert compare(shop, *few) == 0
    assert ran(shop) == ["simtier"]
    assert compare(shop, "--collect") == 0
    assert "21 of 24 runs are not done" in capsys.readouterr().err
    group = json.loads((shop / "out" / "table.json").read_text())["groups"][0]
    assert [row["seeds"] for row in group["rows"]] == [[0], [0], [0]]
    (shop / "out" / "cache").mkdir()
    cached = shop / "out" / "cache" / "make-0123456789abcdef.safetensors"
    cached.touch()
    assert compare(shop, *few, "--no-resume", "--dry-run") == 0
    assert "0 done, 3 to go" in capsys.readouterr().err
    assert compare(shop, *few) == 0
    assert ran(shop) == []
    assert cached.exists()
    # Changed code is not seen: all is trained anew, the models that runs share, too.
    assert compare(shop, *few, "--no-resume") == 0
    assert sorted(ran(shop)) == ["id", "simtier", "simtier"]
    assert not cached.exists()


def test_what_is_done_is_done_however_its_paths_are_written(shop, monkeypatch, capsys):
    train_here(shop, lengths=(5,), seeds=1, models=("simtier",))
    monkeypatch.chdir(shop)
    argv = [
        "--config",
        "tiny.toml",
        "--data",
        "data/../data",
        "--out",
        "out",
        "--draws",
        60,
        "--spaces",
        "moon=moon.npz",
        "svd=svd.npz",
    ]
    argv = [str(part) for part in [*argv, "--lengths", 5, "--seeds", 1, "--models", "simtier", "--dry-run"]]
    assert main(argv, program="fake_train") == 0
    assert "3 done, 0 to go" in capsys.readouterr().err
    # Everything else decides, and what is no description of a run is none.
    assert main([*argv, "--set", "fit.rate=0.01"], program="fake_train") == 0
    assert "0 done, 3 to go" in capsys.readouterr().err
    for path, text in zip(sorted(Path("out/runs").glob("*/run.json")), ("[]", "{}", "no JSON"), strict=True):
        path.write_text(text)
    assert main(argv, program="fake_train") == 0
    assert "0 done, 3 to go" in capsys.readouterr().err


def test_what_a_training_set_cannot_give_is_refused_before_the_first_run(shop, capsys):
    write_card(shop / "data", {"rows": 7, "length": 5})
    assert compare(shop) == 1
    assert "expected at most 5, the training set's, got 9" in capsys.readouterr().err
    assert compare(shop, "--lengths", 5, "--variants", "new") == 1
    assert "--variants: expected none" in capsys.readouterr().err
    assert ran(shop) == []
    assert compare(shop, "--lengths", 5, "--dry-run") == 0
    # What was trained before can be collected all the same.
    train_here(shop, lengths=(5,), seeds=1, models=("simtier",))
    assert compare(shop, "--collect") == 0
    with pytest.raises(SystemExit):
        compare(shop, "--curve-epochs", -2)


def test_mistakes_are_told(shop, capsys):
    (shop / "data" / "broken").touch()
    assert compare(shop, "--seeds", 1) == 1
    assert "the reason" in capsys.readouterr().err
    assert compare(shop, "--spaces", "moon") == 1
    assert "NAME=FILE.npz" in capsys.readouterr().err
    assert compare(shop, "--spaces", f"moon={shop / 'none.npz'}") == 1
    assert "expected a file that can be read" in capsys.readouterr().err


def test_runs_over_other_impressions_are_not_paired(shop, capsys):
    train_here(shop, lengths=(5,), seeds=1, models=("simtier",), variants=("new", "all"))
    foreign, own = (shop / "out" / "runs" / f"{variant}-L5-id-s0" for variant in ("all", "new"))
    for path in foreign.glob("r*.*"):
        if path.name != "run.json":
            (own / path.name).write_bytes(path.read_bytes())
    assert compare(shop, "--collect", "--lengths", 5, "--seeds", 1, "--models", "simtier") == 1
    assert "expected the test impressions of the other runs" in capsys.readouterr().err


def test_the_document_gets_tables_plots_and_card_between_its_markers(shop, capsys):
    train_here(shop, lengths=(5,), seeds=1, models=("simtier",))
    assert compare(shop, "--collect", "--seeds", 1, "--lengths", 5, "--models", "simtier") == 0
    path = shop / "results.md"
    path.write_text(f"# Results\nWhy.\n{BEGIN}\nstale\n{END}\nAfter.\n")
    argv = ["--table", str(shop / "out" / "table.json"), "--document", str(path)]
    assert write_results(argv) == 0
    text = path.read_text()
    assert text.startswith(f"# Results\nWhy.\n{BEGIN}\n```\npython -m ranking.compare --config")
    assert text.endswith(f"{END}\nAfter.\n")
    assert "stale" not in text
    assert "| left out: cold | 3 |" in text
    assert "Seeds: 1, paired; 60 draws" in text
    assert "![results differences](results_differences.png)" in text
    assert (shop / "results_differences.png").is_file()
    # Again changes nothing.
    assert write_results(argv) == 0
    assert path.read_text() == text
    write_card(shop, {"rows": 7, "coverage": {"impressions": 0.5}})
    assert write_results([*argv, "--set", str(shop)]) == 0
    assert "| coverage: impressions | 0.5 |" in path.read_text()
    assert "left out" not in path.read_text()
    assert write_results([*argv, "--set", str(shop / "out")]) == 1
    assert "card.json" in capsys.readouterr().err
    path.write_text("no markers\n")
    assert write_results(argv) == 1
    assert "expected one line" in capsys.readouterr().err
    assert path.read_text() == "no markers\n"


def test_markers_must_be_there_once():
    assert put(f"a\n{BEGIN}\n{END}\n", "x\n") == f"a\n{BEGIN}\nx\n{END}\n"
    for text in ("", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"):
        with pytest.raises(Misconfigured):
            put(text, "")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({}, "All positives"), ({"rows": 3}, "All positives"), ({"source": "taobao-mm", "rows": 3}, "taobao-mm"),
        ({"input": {"labels": 9, "sampler": {"variant": "new"}}}, "Items new to the user"),
        ({"input": {"labels": 9, "impressions": "log.parquet", "behaviours": None}}, "Impressions as they were given"),
    ],
)  # fmt: skip
def test_a_heading_says_what_the_impressions_are(card, expected):
    assert heading({"variant": "all", "length": 7, "card": card}) == f"{expected}, L = 7"


def test_recalibrated_figures_are_shown_where_every_seed_has_them(shop):
    train_here(shop, lengths=(5,), seeds=2, models=("simtier",))
    paths = sorted((shop / "out" / "runs").glob("*/result.json"))
    figures = {"log_loss": 0.5, "normalised_entropy": 0.9, "calibration": 0.8}
    for path in paths:
        whole = {"slope": 1.0, "intercept": 0.0, "before": {"validation": figures, "test": {"whole": figures}}}
        seed = int(path.parent.name[-1])
        whole["after"] = {
            "validation": figures,
            "test": {"whole": {**figures, "calibration": 1.0 + 0.02 * seed}, "new_items": {}},
        }
        body = json.loads(path.read_text())
        path.write_text(json.dumps({**body, "recalibrated": None if "simtier-svd-s1" in str(path) else whole}))
    assert compare(shop, "--collect", "--lengths", 5, "--seeds", 2, "--models", "simtier") == 0
    rows = {row["name"]: row for row in json.loads((shop / "out" / "table.json").read_text())["groups"][0]["rows"]}
    assert rows["id"]["recalibrated"]["after"]["test"]["whole"]["calibration"] == pytest.approx(1.01)
    assert rows["simtier/svd"]["recalibrated"] is None
    table = (shop / "out" / "table.md").read_text().partition("Recalibrated on the validation days")[2]
    assert "| + SimTier (moon) | 0.5000 | 0.5000 | 0.9000 | 0.9000 | 0.800 | 1.010 | - | - |" in table and "svd" not in table


def test_cells_are_bold_where_the_interval_excludes_zero():
    figure = {"difference": 0.0123, "low": 0.01, "high": 0.015}
    assert difference(figure, 100.0) == "**+1.23** (+1.00 to +1.50)"
    assert difference({**figure, "low": -0.001}, 100.0) == "+1.23 (-0.10 to +1.50)"
    assert difference({**figure, "low": None, "high": None}, 100.0) == "+1.23 (-)"
    assert difference(dict.fromkeys(figure), 100.0) == difference(None, 100.0) == "-"


def test_the_shipped_configuration_can_be_planned():
    config = load_config("online_retail")
    points = points_of(Wanted("online_retail", Path("data"), {"moon": Path("m"), "svd": Path("s")}), config)
    assert {point.model for point in points} == set(config.compare.models)
    assert np.unique([point.length for point in points]).tolist() == sorted(config.compare.lengths)
