"""The evaluation command from folders to table and JSON, with the shipped artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoders import Encoder, Item
from encoders.data import read_data_set
from encoders.evaluate import evaluate, main
from encoders.evaluation.measures import run
from encoders.evaluation.tasks import RECALLS, SameKey, Task, Truth
from encoders.evaluation.tasks_build import build_folder
from encoders.evaluation.vectors import ByCodes, ByFloats, Vectors
from encoders.metrics import cosines

pytestmark = pytest.mark.unit

MakeImage = Callable[..., bytes]


@pytest.fixture
def shop(tmp_path: Path, make_image: MakeImage) -> Path:
    """Twelve mugs with a photo and a second one of some, a label, a colour, no dataset.json."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    lines = ["item_id,group,title,description,label,color,images"]
    for at in range(12):
        names = [f"images/{at}.jpg", *([f"images/{at}b.jpg"] if at % 2 else [])]
        for name in names:
            (folder / name).write_bytes(make_image(at + 100 * name.endswith("b.jpg")))
        colour = ("red", "blue")[at % 2]
        lines.append(f"i{at},g{at},mug number {at},a {colour} cup,{'mug' if at < 8 else 'cup'},{colour},{';'.join(names)}")
    (folder / "items.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = [f"red mug number {at},mug {at} in red,1" for at in range(20)]
    (folder / "pairs.csv").write_text("title_left,title_right,label\n" + "\n".join(lines))
    return folder


def test_the_command_writes_a_table_and_strict_json(
    shop: Path, pairs: Path, artifact_path: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "figures.json"
    arguments = [str(artifact_path), "--data", str(shop), str(pairs), "--dims", "32", "--threads", "1", "--json", str(out)]
    assert main([*arguments, "--baselines", f"chance,before={artifact_path}"]) == 0
    body = json.loads(out.read_text("utf-8"))
    assert [part["name"] for part in body["data"]] == ["shop", "pairs"]
    tasks = {task["name"]: task for part in body["data"] for task in part["tasks"]}
    assert {"shop/image_to_image", "shop/image_to_product", "shop/mm_to_mm", "pairs/title_to_title"} <= set(tasks)
    recall = tasks["pairs/title_to_title"]["measures"]["recall_at_10"]
    assert list(recall) == [encoder.space.id, "d32", "chance", "before"]
    assert recall[encoder.space.id] == recall["before"]
    assert recall[encoder.space.id]["low"] <= recall[encoder.space.id]["value"] <= recall[encoder.space.id]["high"]
    assert tasks["pairs/title_to_title"]["queries"] == 40
    assert set(tasks["pairs/title_to_title"]["loss_by_int8"]) == set(tasks["pairs/title_to_title"]["measures"])
    assert body["data"][0]["health"]["both"]["count"] == 12
    table = capsys.readouterr().out
    assert "pairs/title_to_title" in table and "shop [all]" in table
    again = tmp_path / "again.json"
    assert main([*arguments[:-1], str(again), "--baselines", f"chance,before={artifact_path}"]) == 0
    assert json.loads(again.read_text("utf-8")) == body


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (["--baselines", "magic"], 1, "magic"),
        (["--dims", "9999"], 1, "1 to "),
        (["--data", "nowhere"], 1, "items.csv"),
        (["--queries", "0"], 2, "--queries"),
        (["--split", "dev"], 2, "--split"),
        (["--json", f"{__file__}/x.json"], 1, f"--json {__file__}/x.json: expected a place to write to"),
        (["--report", __file__], 1, f"--report {__file__}: expected a place to write to"),
    ],
)
def test_wrong_use_is_named(
    pairs: Path, artifact_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], code: int, message: str
) -> None:
    arguments = [str(artifact_path), "--data", str(pairs), "--threads", "1", *wrong]
    if code == 2:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    else:
        assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_a_folder_with_nothing_to_measure_says_so(
    tmp_path: Path, artifact_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.csv").write_text("item_id,label\n1,a\n")
    assert main([str(artifact_path), "--data", str(tmp_path), "--threads", "1"]) == 0
    assert "nothing to measure" in capsys.readouterr().err


def test_the_library_function_gives_means_and_queries(encoder: Encoder, shop: Path) -> None:
    data = read_data_set(shop, cutoff=None, licensed=False)
    found = evaluate(encoder, [data], split="all")
    assert found["shop/text_to_image"]["queries"] == 12.0
    assert set(found["shop/text_to_image"]) == {"recall_at_1", "recall_at_10", "recall_at_50", "queries"}
    assert not any("_from_" in name for name in found)
    assert evaluate(encoder, [], split="all") == {}
    assert evaluate(encoder, [data], split="all", queries=3)["shop/text_to_image"]["queries"] == 3.0


def test_vectors_are_those_that_are_served_and_made_once(encoder: Encoder, shop: Path) -> None:
    task = next(task for task in build_folder(shop, split="all").tasks if task.name == "shop/text_to_image")
    seen: list[int] = []
    vectors = Vectors(encoder, progress=lambda done, total: seen.append(done))
    titles = encoder.encode([Item(item.item_id, item.title, attributes=item.attributes) for item in task.queries])
    photos = encoder.encode([Item(item.item_id, image=(shop / str(item.image)).read_bytes()) for item in task.gallery])
    assert np.array_equal(ByCodes("x", vectors).scores(task)(0, 12), cosines(titles, photos))
    assert np.array_equal(ByCodes("x", vectors, 32).scores(task)(3, 5), cosines(titles.prefix(32), photos.prefix(32))[3:5])
    assert run(task, ByCodes("x", vectors))["recall_at_50"] == 1.0
    assert seen == [12, 12]
    floats = vectors.floats(task.queries, shop)
    assert np.abs(floats - titles.to_float()).max() < 0.01
    assert len(vectors.codes([], shop)) == 0


def test_what_the_encoder_turns_away_is_counted_and_finds_nothing(encoder: Encoder, tmp_path: Path) -> None:
    vectors = Vectors(encoder)
    codes = vectors.codes([Item("a", title="!!!"), Item("b", title="red mug")], tmp_path)
    assert codes.present.tolist() == [False, True]
    assert vectors.rejects == {"no_content": 1}
    items = (Item("a", title="!!!"), Item("b", title="red mug"))
    task = Task("shop/t", tmp_path, items, items, Truth(SameKey.of("ab", "ab"), (), np.arange(2)))
    assert run(task, ByCodes("codes", vectors)) == run(task, ByFloats("floats", vectors)) == dict.fromkeys(RECALLS, 0.5)


def test_measuring_needs_no_torch() -> None:
    code = "import sys; import encoders.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
