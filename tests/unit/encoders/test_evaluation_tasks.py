"""Tasks of the evaluation: what is right, what is taken out, and what odd folders give."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.data import read_data_set
from encoders.evaluation.tasks import Listed, SameKey, Task, blocks, squash
from encoders.evaluation.tasks_build import Built, build, build_folder, build_tasks
from moontide import Misconfigured

pytestmark = pytest.mark.unit

MakeImage = Callable[..., bytes]


def _task(built: Built, name: str) -> Task:
    return next(task for task in built.tasks if task.name.endswith(name))


def _pictures(folder: Path, make_image: MakeImage, *names: str) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for at, name in enumerate(names):
        (folder / "images" / name).write_bytes(make_image(at))


def _pairs(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pairs.csv").write_text("title_left,title_right,label,source,brand\n" + text, encoding="utf-8")
    return folder


keys = st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=8)


@given(keys, keys)
def test_same_key_is_equality_and_none_is_nothing(queries: list[str | None], gallery: list[str | None]) -> None:
    wanted = [[q == g and q is not None for g in gallery] for q in queries]
    mask = SameKey.of(queries, gallery)
    assert mask.block(0, len(queries)).tolist() == np.array(wanted, bool).reshape(len(queries), len(gallery)).tolist()
    last = np.arange(len(queries), dtype=np.int64)[-1:]
    assert mask.take(last).block(0, len(last)).tolist() == mask.block(0, len(queries))[-1:].tolist()


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 200))
def test_blocks_cover_every_query_once(rows: int, width: int, cells: int) -> None:
    parts = blocks(rows, width, cells=cells)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(rows))
    assert all((stop - start) * width <= max(cells, width) for start, stop in parts)


def test_listed_columns_are_the_ones_that_are_true() -> None:
    mask = Listed((np.array([2]), np.array([], np.int64), np.array([0, 1])), 3)
    assert mask.block(0, 3).astype(int).tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert mask.take(np.array([2])).block(0, 1).astype(int).tolist() == [[1, 1, 0]]


def test_pairs_join_by_title_string_and_mask_the_querys_own(tmp_path: Path) -> None:
    folder = _pairs(
        tmp_path / "pairs", "Red Mug,mug red,1,a,x\nred  mug,crimson mug,1,a,x\nRED MUG,Blue Mug,0,a,x\nBox,Tin,1,b,x\n"
    )
    built = build_folder(folder, split="all")
    assert [task.name for task in built.tasks] == ["pairs/a/title_to_title", "pairs/b/title_to_title"]
    task = built.tasks[0]
    assert [item.title for item in task.gallery] == ["Red Mug", "mug red", "crimson mug", "Blue Mug"]
    assert [item.title for item in task.queries] == ["Red Mug", "mug red", "crimson mug"]
    right, out = task.right(0, 3)
    assert right.astype(int).tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert out.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert len(set(task.truth.groups.tolist())) == 1


def test_bad_pairs_are_counted(tmp_path: Path) -> None:
    folder = _pairs(tmp_path / "pairs", "a b,A  B,1,s,\nc d,,1,s,\nc d,e f,maybe,s,\nc d,e f,1,s,\n")
    built = build_folder(folder, split="all")
    assert built.skipped == {"no_title": 1, "label_not_0_or_1": 1, "match_of_one_string": 1}
    assert [len(task.queries) for task in built.tasks] == [2]


def test_splits_of_pairs_part_the_queries_and_keep_the_corpus(tmp_path: Path) -> None:
    folder = _pairs(tmp_path / "pairs", "".join(f"left {at},right {at},1,s,\n" for at in range(60)))
    whole = build_folder(folder, split="all").tasks[0]
    parts = [task for split in ("train", "val", "test") for task in build_folder(folder, split=split).tasks]
    assert sum(len(task.queries) for task in parts) == len(whole.queries) == 120
    assert {len(task.gallery) for task in parts} == {120}
    asked = [{item.title for item in task.queries} for task in parts]
    assert all({f"left {n}" in titles for titles in asked} == {f"right {n}" in titles for titles in asked} for n in range(60))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.csv", b"", "empty file"),
        ("pairs.csv", b"title_left,label\nx,1\n", "title_right"),
        ("pairs.csv", "title_left,title_right,label\nf\xfcr,b,1\n".encode("latin-1"), "UTF-8"),
        ("pairs.parquet", b"no parquet", "Parquet"),
        ("items.csv", b"", "empty file"),
        ("items.csv", b"name\nx\n", "item_id"),
        ("items.csv", b"item_id\n" + b'"x\n' * 3, "comma separated"),
        ("items.csv", b"item_id,title\n1,a,b\n2,c,d\n", "comma separated"),
        ("items.txt", b"item_id\n1\n", "expected items.csv, pairs.csv or pairs.parquet"),
        ("items.csv", b"item_id,title\n1,f\xfcr\n", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Misconfigured, match=message):
        build_folder(tmp_path, split="all")


def test_photos_find_their_label_but_never_their_sender(tmp_path: Path, make_image: MakeImage) -> None:
    _pictures(tmp_path, make_image, "a.jpg", "b.png", "c.jpg", "d.jpg", "e.jpg")
    rows = "a,1,Hat\nb,1,Hat\nc,2,Hat\nd,2,Shoe\ne,3,Not sure\n"
    (tmp_path / "items.csv").write_text("image_id,sender_id,label\n" + rows)
    built = build_folder(tmp_path, split="all")
    task = _task(built, "/image_to_image")
    assert [item.item_id for item in task.queries] == ["a", "b", "c"]
    assert [item.item_id for item in task.gallery] == ["a", "b", "c", "d"]
    assert task.right(0, 3)[0].astype(int).tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]]
    assert built.unasked[task.name] == 1
    assert task.reads == {"image"}


def test_unsound_pictures_rows_and_titles_are_counted_and_left_out(tmp_path: Path, make_image: MakeImage) -> None:
    from PIL import Image

    _pictures(tmp_path, make_image, "good.jpg", "half.jpg", "other.jpg", "next.jpg")
    whole = (tmp_path / "images" / "half.jpg").read_bytes()
    (tmp_path / "images" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "images" / "flat.png")
    rows = ["a,images/good.jpg;images/gone.jpg,Mug", "b,images/half.jpg,Hat", "c,images/flat.png,Box", "a,images/good.jpg,Mug again",
            ",images/good.jpg,Nameless", "d,../secret.jpg,Lamp", "f,images/next.jpg,Vase", f"e,images/other.jpg,{'x' * 10_001}"]  # fmt: skip
    (tmp_path / "items.csv").write_text("item_id,images,title\n" + "\n".join(rows))
    built = build_folder(tmp_path, split="all")
    assert built.skipped == {"duplicate_item_id": 1, "no_item_id": 1, "image_missing": 1, "image_unreadable": 1,
                             "image_constant": 1, "image_refused": 1, "title_too_long": 1}  # fmt: skip
    assert [item.item_id for item in _task(built, "/text_to_image").queries] == ["a", "f"]


def test_an_empty_table_and_titles_alone_measure_what_they_can(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n")
    assert build_folder(tmp_path, split="all").tasks == ()
    (tmp_path / "items.csv").write_text("item_id,title\n1,one red mug\n2,\n3,two blue boxes of tin\n")
    assert [task.name.partition("/")[2] for task in build_folder(tmp_path, split="all").tasks] == ["title_damaged"]


def test_titles_of_one_product_find_each_other(tmp_path: Path) -> None:
    rows = "1,p,Red Mug\n2,p,red  mug\n3,p,Mug in red\n4,q,Tin box\n"
    (tmp_path / "items.csv").write_text("item_id,group,title\n" + rows)
    task = _task(build_folder(tmp_path, split="all"), "/title_to_title")
    assert [item.title for item in task.gallery] == ["Red Mug", "Mug in red", "Tin box"]
    assert task.right(0, 2)[0].astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_mixed_forms_never_share_a_whole_field(tmp_path: Path, make_image: MakeImage) -> None:
    _pictures(tmp_path, make_image, "a1.jpg", "a2.jpg", "b1.jpg")
    rows = "a,Red mug,holds tea,red,images/a1.jpg;images/a2.jpg\nb,Tin box,holds cake,grey,images/b1.jpg\n"
    (tmp_path / "items.csv").write_text("item_id,title,description,color,images\n" + rows)
    built = build_folder(tmp_path, split="all")
    (query,), gallery = _task(built, "/mm_to_mm").queries, _task(built, "/mm_to_mm").gallery
    assert (query.image, query.title, query.description, query.attributes) == ("images/a2.jpg", None, "holds tea", None)
    assert [(item.image, item.title, item.description) for item in gallery] == [
        ("images/a1.jpg", "Red mug", None), ("images/b1.jpg", "Tin box", None),
    ]  # fmt: skip
    assert [item.item_id for item in _task(built, "/i_to_mm").queries] == ["a"]


def test_titles_alone_are_halved_for_the_mixed_forms(tmp_path: Path, make_image: MakeImage) -> None:
    _pictures(tmp_path, make_image, "a.jpg", "b.jpg")
    (tmp_path / "items.csv").write_text("item_id,title\na,one two three four\nb,lamp\n")
    task = _task(build_folder(tmp_path, split="all"), "/t_to_mm")
    assert [item.title for item in task.queries] == ["one three"]
    assert [item.title for item in task.gallery] == ["two four", "lamp"]


def test_values_are_predicted_from_train_groups_and_attributes_are_not_shown(tmp_path: Path) -> None:
    rows = "".join(f"{at},g{at},cup {at},{'red|pink' if at % 2 else 'blue'}\n" for at in range(80))
    (tmp_path / "items.csv").write_text("item_id,group,title,color\n" + rows)
    data = read_data_set(tmp_path, cutoff=None, licensed=False)
    task = _task(build(data, split="test"), "/color_from_text")
    train = {data.examples[row].item.item_id for row in data.rows("train")}
    assert {item.item_id for item in task.gallery} == train
    assert {item.item_id for item in task.queries} == {data.examples[row].item.item_id for row in data.rows("test")}
    assert not any(item.attributes for item in (*task.queries, *task.gallery))
    assert isinstance(task.truth.relevant, SameKey) and len(set(task.truth.relevant.gallery.tolist())) == 2


def test_the_cap_draws_the_same_queries_again(tmp_path: Path) -> None:
    rows = "".join(f"{at},red mug number {at} of many\n" for at in range(40))
    (tmp_path / "items.csv").write_text("item_id,title\n" + rows)
    data = read_data_set(tmp_path, cutoff=None, licensed=False)
    first, again = (build(data, split="all", queries=7).tasks[0] for _ in range(2))
    assert len(first.queries) == 7 and first.queries == again.queries
    assert len(first.gallery) == len(build_tasks(data, "all")[0].gallery) == 40


def test_squash_ignores_case_and_white_space_only() -> None:
    assert squash("  Red\tMUG ") == squash("red mug") != squash("red-mug")


COLUMNS = ("item_id", "group", "sender_id", "title", "description", "label", "color", "images", "attributes", "is_product")
cells = st.sampled_from(
    ["", " ", "1", "2", "Red mug", "red  MUG", "blue\ttin box of tea", "Not sure", "a;b", "True", "\U0001f375", "../x"]
)


@given(
    st.lists(st.sampled_from(COLUMNS), unique=True).map(lambda names: ["item_id", *(n for n in names if n != "item_id")]),
    st.lists(st.lists(cells, min_size=len(COLUMNS), max_size=len(COLUMNS)), max_size=12),
    st.sampled_from(["all", "train", "test"]),
)
@settings(max_examples=60, deadline=None)
def test_any_table_gives_tasks_that_can_be_answered(names: list[str], rows: list[list[str]], split: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        lines = [",".join(names), *(",".join(f'"{cell}"' for cell in row[: len(names)]) for row in rows)]
        (Path(place) / "items.csv").write_text("\n".join(lines), encoding="utf-8")
        built = build_folder(Path(place), split=split)
    assert len(built.examples) <= len(rows)
    for task in built.tasks:
        right, out = task.right(0, len(task.queries))
        assert right.any(axis=1).all() and not (right & out).any()
        assert len(task.truth.groups) == len(task.queries) and len(task.gallery) > 1
        same = np.array([[squash(q.title or "?") == squash(g.title or "!") for g in task.gallery] for q in task.queries])
        assert "_from_" in task.name or not (right & same).any(), "a title must never find its own string"
