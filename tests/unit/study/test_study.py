from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from encoders.study.__main__ import main
from encoders.study.ablation import SWITCHES
from encoders.study.exchange import subjects_of
from encoders.study.programs import Programs, Training
from encoders.study.recall import measure_of, measures_of
from encoders.study.runs import HERE, Run, execute
from encoders.study.scaling import AXES, parse_axis
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

FAKES = {
    # Recall grows with the queue and with pairs; the switch `experts` costs 10 points when off.
    "fake_train": """
import json, pathlib, sys
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
out.mkdir(parents=True)
settings = dict(part.split("=", 1) for part in arguments if "=" in part)
fraction = float(arguments[arguments.index("--pairs-fraction") + 1]) if "--pairs-fraction" in arguments else 1.0
recall = 1 - 0.4 * fraction ** -0.25 / 2 + 0.001 * int(settings["seed"])
recall -= 0.1 * (settings.get("switches.experts") == "false")
(out / "manifest.json").write_text(json.dumps({"digest": "sha256:0", "recall": recall}))
""",
    "fake_evaluate": """
import json, pathlib, sys
arguments = sys.argv[1:]
recall = json.loads((pathlib.Path(arguments[0]) / "manifest.json").read_text())["recall"]
measures = {"recall_at_10": {"toy_v1": {"value": recall}, "d32": {"value": recall - 0.2}}}
body = {"artifact": {"space": "toy_v1"}, "data": [{"tasks": [{"name": "shop/titles", "measures": measures}]}]}
pathlib.Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(body))
""",
    "fake_study": """
import pathlib, sys
arguments = sys.argv[1:]
assert arguments[0] == "encode"
text = (pathlib.Path(arguments[1]) / "manifest.json").read_text()
pathlib.Path(arguments[arguments.index("--out") + 1]).write_text(text)
""",
    # A point of recall buys 0.1 points of GAUC, plus what the seed and the user do.
    "fake_rank": """
import json, pathlib, random, sys
arguments = sys.argv[1:]
flag = lambda name: arguments[arguments.index(name) + 1]
gain = 0.0
if "--embeddings" in arguments:
    gain = 0.1 * json.loads(pathlib.Path(flag("--embeddings")).read_text())["recall"]
gain += 0.01 * (1 - 1 / int(flag("--length")))
def entry(seed):
    draw = random.Random(seed)
    aucs = [0.5 + draw.uniform(0, 0.3) + gain for _ in range(50)]
    return {"seed": seed, "user_auc": aucs, "gauc": sum(aucs) / 50}
body = {"users": {"id": list(range(50)), "impressions": [5] * 50}, "data": {}, "settings": {},
        "models": {flag("--features"): [entry(seed) for seed in range(int(flag("--seeds")))]}}
pathlib.Path(flag("--json")).write_text(json.dumps(body))
""",
}
PROGRAMS = Programs("fake_train", "fake_evaluate", "fake_rank", "fake_study")
MEASURE = "shop/titles recall_at_10"


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    place = tmp_path / "modules"
    place.mkdir()
    for name, body in FAKES.items():
        (place / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(place))
    return tmp_path


def artifacts(root, recalls):
    for at, recall in enumerate(recalls):
        folder = root / f"encoder{at}"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"digest": f"sha256:{at}", "recall": recall}))
    return [str(root / f"encoder{at}") for at in range(len(recalls))]


def test_exchange_rate_finds_the_planted_rate(fakes, capsys):
    paths = artifacts(fakes, [0.5, 0.6, 0.65, 0.7, 0.8, 0.9])
    command = ["exchange-rate", *paths, "--data", "shop", "--out", str(fakes / "out"), "--measure", MEASURE]
    assert main([*command, "--dry-run"], programs=PROGRAMS) == 0
    assert not (fakes / "out").exists()
    assert "13 runs, 0 done, 13 to go" in capsys.readouterr().err
    assert main(command, programs=PROGRAMS) == 0
    body = json.loads((fakes / "out/exchange_rate.json").read_text())
    assert body["slope"]["slope"] == pytest.approx(0.1)
    assert not body["slope"]["contains_zero"]
    assert "excludes zero" in (fakes / "out/exchange_rate.md").read_text()
    assert (fakes / "out/exchange_rate.png").stat().st_size > 1000
    capsys.readouterr()
    (fakes / "encoder2/manifest.json").write_text(json.dumps({"digest": "sha256:new", "recall": 0.66}))
    assert main(command, programs=PROGRAMS) == 0
    assert "13 runs, 11 done, 2 to go" in capsys.readouterr().err


def test_exchange_rate_refuses_five_encoders_and_unknown_measures(fakes, capsys):
    paths = artifacts(fakes, [0.5, 0.6, 0.65, 0.7, 0.8])
    command = ["exchange-rate", *paths, "--data", "shop", "--out", str(fakes / "out"), "--measure"]
    assert main([*command, MEASURE], programs=PROGRAMS) == 1
    assert "expected 6 encoders" in capsys.readouterr().err
    assert main([*command, "shop/none recall_at_1"], programs=PROGRAMS) == 1
    assert MEASURE in capsys.readouterr().err


def test_scaling_finds_the_planted_law(fakes, capsys):
    artifacts(fakes, [0.5])
    command = ["scaling", "--axis", "pairs", "--axis", "history", "--data", "shop", "--out", str(fakes / "out"), "--seeds", "2",
               "--measure", MEASURE, "--artifact", str(fakes / "encoder0"), "--plot", "svg"]  # fmt: skip
    assert main(command, programs=PROGRAMS) == 0
    pairs, history = json.loads((fakes / "out/scaling.json").read_text())["curves"]
    assert pairs["law"]["b"] == pytest.approx(0.25, abs=0.1)
    assert pairs["law"]["fits"], pairs["law"]["why"]
    assert {point["x"] for point in history["points"]} == {5, 10, 20, 50, 100, 200}
    assert len(history["points"]) == 12
    assert (fakes / "out/scaling.svg").is_file()
    capsys.readouterr()
    assert main([*command, "--dry-run"], programs=PROGRAMS) == 0
    assert "16 runs, 16 done, 0 to go" in capsys.readouterr().err


def test_texts_are_cut_in_a_copy(tmp_path):
    data = tmp_path / "shop"
    data.mkdir()
    (data / "items.csv").write_text("item_id,title,label\n007,red  warm hat,a\n8,,b\n")
    (data / "dataset.json").write_text("{}")
    assert main(["shorten", "--data", str(data), "--words", "2", "--out", str(tmp_path / "cut")]) == 0
    assert (tmp_path / "cut/items.csv").read_text() == "item_id,title,label\n007,red warm,a\n8,,b\n"
    assert (tmp_path / "cut/dataset.json").is_file()
    assert main(["shorten", "--data", str(tmp_path), "--words", "2", "--out", str(tmp_path / "other")]) == 1
    before = (data / "items.csv").read_bytes()
    for taken in (data, tmp_path / "cut"):
        assert main(["shorten", "--data", str(data), "--words", "1", "--out", str(taken)]) == 1
    assert (data / "items.csv").read_bytes() == before


def test_the_text_axis_measures_one_artifact(fakes, capsys):
    artifacts(fakes, [0.5])
    command = ["scaling", "--axis", "text", "--data", "shop", "--out", str(fakes / "out"), "--measure", MEASURE, "--dry-run"]
    assert main(command, programs=PROGRAMS) == 1
    assert "--artifact" in capsys.readouterr().err
    assert main([*command, "--artifact", str(fakes / "encoder0")], programs=PROGRAMS) == 0
    assert "shorten --data shop --words 4" in capsys.readouterr().err


def test_ablation_flips_each_switch_and_resumes(fakes, capsys):
    command = ["ablation", "--switches", "experts", "debias", "--data", "shop", "--out", str(fakes / "out"), "--seeds", "3"]
    assert main(command, programs=PROGRAMS) == 0
    body = json.loads((fakes / "out/ablation.json").read_text())
    experts = body["effects"]["experts"][MEASURE]
    assert experts["difference"] == pytest.approx(-10.0)
    assert experts["seeds"] == 3
    assert body["effects"]["debias"][MEASURE]["difference"] == pytest.approx(0.0)
    written = (fakes / "out/ablation.md").read_text()
    assert "experts off" in written
    assert "debias on" in written
    (fakes / "out/runs/debias-1/result.json").unlink()
    capsys.readouterr()
    assert main(command, programs=PROGRAMS) == 0
    assert "9 runs, 8 done, 1 to go" in capsys.readouterr().err


def test_ablation_covers_every_switch_by_default(fakes, capsys):
    assert main(["ablation", "--data", "shop", "--out", str(fakes / "out"), "--dry-run"], programs=PROGRAMS) == 0
    said = capsys.readouterr().err
    assert f"{3 * (1 + len(SWITCHES))} runs" in said
    assert all(f"switches.{name}=" in said for name in SWITCHES)


def test_the_trainer_understands_the_commands():
    """The flags that a study gives, read by the trainer's own parser."""
    from encoders import train

    training = Training(
        "small", (Path("a"), Path("b")), (Path("a"),), ("pretrain.steps=5",), cache=Path("c"), cutoff="2011-09-01"
    )
    run = training.run("x", Programs(), settings=["seed=3"], arguments=["--pairs-fraction", "0.5"])
    read = train._parser().parse_args(list(run.commands[0][3:]))
    assert (read.config, read.set, read.data) == ("small", ["pretrain.steps=5", "seed=3"], [Path("a"), Path("b")])
    assert (read.pairs_fraction, read.features_cache, read.cutoff) == (0.5, Path("c"), "2011-09-01")


def test_a_failed_command_is_told_with_its_log_and_leaves_nothing_done(tmp_path):
    bad = Run("bad", ((sys.executable, "-c", "print('the reason'); raise SystemExit(3)"),))
    with pytest.raises(Misconfigured, match=r"(?s)exit code 0, got 3.*the reason"):
        execute([bad], tmp_path, say=lambda _: None, clock=lambda: 0.0)
    silent = Run("silent", ((sys.executable, "-c", ""),))
    with pytest.raises(Misconfigured, match="no such file"):
        execute([silent], tmp_path, say=lambda _: None, clock=lambda: 0.0)
    assert not bad.done(tmp_path)
    assert not silent.done(tmp_path)
    with pytest.raises(Misconfigured, match="more than once"):
        execute([bad, bad], tmp_path, say=lambda _: None, clock=lambda: 0.0)


def test_no_runs_are_done_at_once_and_estimates_are_said(tmp_path):
    said = []
    assert execute([], tmp_path, say=said.append, clock=lambda: 0.0)
    assert said == ["0 runs, 0 done, 0 to go, about 0 min"]
    write = f"import pathlib; pathlib.Path(r'{HERE}/result.json').write_text('1')"
    runs = [Run(name, ((sys.executable, "-c", write),), seconds=60.0) for name in ("a", "b")]
    ticks = iter(range(0, 1000, 30))
    assert execute(runs, tmp_path, say=said.append, clock=lambda: float(next(ticks)))
    assert "about 2 min" in said[1]
    assert "about 0.5 min left" in said[3]
    assert runs[0].result(tmp_path) == 1


def test_flags_are_parsed_or_refused():
    assert parse_axis("queue") in AXES
    axis = parse_axis("rate=pretrain.head_rate:3,1,2")
    assert (axis.name, axis.key, axis.values) == ("rate", "pretrain.head_rate", (1.0, 2.0, 3.0))
    for wrong in ("none", "x=k:1,2", "x=k:0,1,2", "x=:1,2,3", "x=k:a,b,c"):
        with pytest.raises(Misconfigured, match="axis"):
            parse_axis(wrong)
    names = [subject.name for subject in subjects_of(["a/moon", "b/moon", "a/moon@32"])]
    assert names == ["moon", "moon.2", "moon_d32"]
    with pytest.raises(Misconfigured, match="PATH@DIM"):
        subjects_of(["a/moon@x"])


def test_measures_of_another_json_are_refused():
    with pytest.raises(Misconfigured, match=r"encoders\.evaluate"):
        measures_of({"data": []})
    body = {"artifact": {"space": "m"}, "data": [{"tasks": [{"name": "t", "measures": {"r": {"d32": {"value": 0.5}}}}]}]}
    assert measure_of(body, "t r", dim=32) == 0.5
    with pytest.raises(Misconfigured, match="measure"):
        measure_of(body, "t r")


def test_several_runs_at_a_time_all_end_and_a_failure_begins_no_other(tmp_path):
    # Each of the first two waits for the other: one at a time they would never end.
    meet = f"""
import pathlib, time
me = pathlib.Path(r'{HERE}'); other = me.with_name({{'a': 'b', 'b': 'a'}}[me.name])
(me / 'here').touch(); end = time.time() + 30
while not (other / 'here').exists():
    assert time.time() < end; time.sleep(0.01)
(me / 'result.json').write_text('1')
"""
    pair = [Run(name, ((sys.executable, "-c", meet),)) for name in ("a", "b")]
    said = []
    assert execute(pair, tmp_path, say=said.append, clock=lambda: 0.0, jobs=2)
    assert all(run.done(tmp_path) for run in pair)
    assert [line.startswith("[2/2]") for line in said].count(True) == 2
    failing = Run("failing", ((sys.executable, "-c", "raise SystemExit(1)"),))
    later = [Run(f"later{at}", ((sys.executable, "-c", f"open(r'{HERE}/result.json', 'w').write('1')"),)) for at in range(9)]
    with pytest.raises(Misconfigured, match="exit code 0, got 1"):
        execute([failing, *later], tmp_path / "second", say=said.append, clock=lambda: 0.0)
    assert sum(run.done(tmp_path / "second") for run in later) < len(later)
