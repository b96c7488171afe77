"""Folders of strangers: nothing is lost without a word, and nothing ends in a traceback."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from encoders import Encoder
from encoders.data import read_data_set
from encoders.evaluate import choose_split, main
from encoders.evaluation import methods
from encoders.evaluation.tasks_build import build_folder, open_data
from encoders.evaluation.tasks_pairs import read_pairs
from encoders.seen import SAMPLE, sample_of, share_seen
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

MakeImage = Callable[..., bytes]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = [f"red mug number {at},mug {at} in red,1" for at in range(8)]
    (folder / "pairs.csv").write_text("title_left,title_right,label\n" + "\n".join(lines))
    return folder


def _shop(folder: Path, count: int = 40, prefix: str = "n") -> Path:
    folder.mkdir()
    rows = [f"{prefix}{at},g{at // 2},a mug of kind {at}" for at in range(count)]
    (folder / "items.csv").write_text("item_id,group,title\n" + "\n".join(rows))
    return folder


@pytest.mark.parametrize(("yes", "no"), [("true", "false"), ("True", "FALSE"), ("1.0", "0.0"), (" 1 ", "0"), ("yes", "No")])
def test_labels_may_be_words(tmp_path: Path, yes: str, no: str) -> None:
    (tmp_path / "pairs.csv").write_text(f"title_left,title_right,label\na b,b a,{yes}\nc d,e f,{no}\ng,h,maybe\n")
    found = read_pairs(tmp_path / "pairs.csv")
    assert found.table["label"].tolist() == [True, False]
    assert found.skipped == {"label_not_0_or_1": 1}


def test_a_pairs_file_of_the_working_folder_has_its_folders_name(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pairs)
    assert {build_folder(Path(name), split="all").name for name in ("pairs.csv", ".")} == {"pairs"}


def test_wrong_columns_are_shown(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("title_left;title_right;label\na;b;1\n")
    with pytest.raises(Misconfigured, match="title_left;title_right;label"):
        read_pairs(tmp_path / "pairs.csv")


def test_items_without_any_content_are_counted(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("image_id,sender_id,label,title\n1,a,Hat,\n2,b,Hat,\n3,b,Hat,a hat\n")
    built = build_folder(tmp_path, split="all")
    assert built.skipped == {"no_content": 2}
    assert [example.item.item_id for example in built.examples] == ["1", "2", "3"], "rows keep their places"


def test_rows_that_are_no_product_are_counted(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,is_product\n1,a mug,True\n2,a cup, TRUE \n3,postage,False\n")
    data = read_data_set(tmp_path, cutoff=None, licensed=False)
    assert [example.item.item_id for example in data.examples] == ["1", "2"]
    assert data.skipped == {"not_a_product": 1}


def test_pictures_by_id_are_found_in_folders_below_and_where_the_cell_is_empty(tmp_path: Path, make_image: MakeImage) -> None:
    for at, name in enumerate(("hats/1.JPG", "2.jpg", "other.jpg")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(make_image(at))
    (tmp_path / "items.csv").write_text("item_id,images\nhats/1,\n2,\n3,images/other.jpg\n4,\n")
    data = read_data_set(tmp_path, cutoff=None, licensed=False)
    assert [example.images for example in data.examples] == [("images/hats/1.JPG",), ("images/2.jpg",), ("images/other.jpg",), ()]


def test_a_pairs_file_beside_items_is_not_passed_over_in_silence(
    pairs: Path, artifact_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pairs / "items.csv").write_text("item_id,title\n1,a red mug\n2,a blue cup\n")
    assert main([str(artifact_path), "--data", str(pairs), "--threads", "1"]) == 0
    assert "pairs.csv" in capsys.readouterr().out


@pytest.mark.parametrize("flag", [["--json", "taken"], ["--json", "file/x.json"], ["--report", "file"]])
def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(
    pairs: Path, artifact_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    assert main([str(artifact_path), "--data", str(pairs), "--threads", "1", flag[0], str(tmp_path / flag[1])]) == 1
    said = capsys.readouterr()
    assert flag[0] in said.err
    assert "title_to_title" not in said.err + said.out


@pytest.mark.parametrize("name", ["", "majority", "d32"])
def test_a_column_is_never_written_over(
    pairs: Path, artifact_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    name = name or encoder.space.id
    arguments = [str(artifact_path), "--data", str(pairs), "--threads", "1", "--dims", "32"]
    assert main([*arguments, "--baselines", f"{name}={artifact_path}"]) == 1
    assert "two columns" in capsys.readouterr().err


def test_all_baselines_are_those_whose_every_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def only(*there: str) -> list[str]:
        monkeypatch.setattr(methods, "find_spec", lambda name: object() if name in there else None)
        return [method.name for method in methods.baselines("all", threads=1, say=lambda text: None)]

    assert only("numpy", "sentence_transformers") == ["chance"], "the histogram needs scikit-image, MiniLM its weights"
    assert importlib.util.find_spec("numpy")


def test_a_column_of_dashes_alone_is_left_out(pairs: Path, artifact_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(artifact_path), "--data", str(pairs), "--threads", "1"]) == 0
    assert "untrained" not in capsys.readouterr().out


def test_the_share_seen_is_right_for_parts_and_wholes() -> None:
    keys = [f"k{at}" for at in range(4 * SAMPLE)]
    sample = sample_of(keys)
    assert len(sample) == SAMPLE == len(set(sample))
    assert share_seen(keys, sample) == share_seen(keys[::3], sample) == 1.0
    assert share_seen([f"other{at}" for at in range(500)], sample) == 0.0
    half = share_seen([*keys, *(f"other{at}" for at in range(len(keys)))], sample)
    assert half is not None and 0.4 < half < 0.6
    assert share_seen([], sample) is None
    assert share_seen(keys[:5], sample_of(keys[:5])) == 1.0


def test_auto_goes_by_items_and_not_by_the_name_of_a_folder(encoder: Encoder, tmp_path: Path) -> None:
    trained = read_data_set(_shop(tmp_path / "shop"), cutoff=None, licensed=False)
    manifest = replace(encoder.artifact.manifest, provenance={"data": [json.loads(json.dumps(trained.source))]})
    assert choose_split(trained, "auto", manifest).split == "test"
    (tmp_path / "elsewhere").mkdir()
    stranger = open_data(_shop(tmp_path / "elsewhere" / "shop", prefix="x"))
    found = choose_split(stranger, "auto", manifest)
    assert found.split == "all"
    assert "none of its items" in found.reason
    renamed = choose_split(open_data(_shop(tmp_path / "copy")), "auto", manifest)
    assert renamed.split == "all"
    assert "100 % of its items" in renamed.reason and "flatter" in renamed.reason
    assert choose_split(trained, "val", manifest) == ("val", "asked for")


def test_an_artifact_that_kept_no_sample_goes_by_name_and_says_so(encoder: Encoder, pairs: Path, tmp_path: Path) -> None:
    manifest = replace(encoder.artifact.manifest, provenance={"data": [{"name": "luma"}, {"name": "pairs"}]})
    found = choose_split(open_data(_shop(tmp_path / "luma")), "auto", manifest)
    assert found.split == "test"
    assert "--split all" in found.reason
    assert choose_split(open_data(pairs), "auto", manifest).split == "all", "no encoder is trained on files of pairs"
