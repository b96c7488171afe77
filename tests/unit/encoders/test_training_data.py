"""Training data: groups never span splits, the cut-off holds, and remarks are not titles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from encoders.data import Baskets, read_data_set, split_of
from encoders.transactions import read_log
from moontide import Misconfigured

pytestmark = pytest.mark.unit

SOURCE = '{"licence": "CC0-1.0", "author": "nobody"}'


def _shop(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dataset.json").write_text(SOURCE)
    (folder / "items.csv").write_text(
        "item_id,title,is_product\n1A,RED MUG,True\n1B,BLUE MUG,True\n2,TIN BOX,True\n3,LATE VASE,True\nP,POSTAGE,False\n"
    )
    early, late = pd.Timestamp("2011-01-01"), pd.Timestamp("2011-08-01")
    rows = [
        ("b1", "1A", "RED MUG", early, 1), ("b1", "1B", "BLUE MUG", early, 1), ("b1", "2", "TIN BOX", early, 2),
        ("b1", "2", "TIN BOX", early, 2), ("b2", "2", "BOX OF TIN", early, 1), ("b2", "1A", "?", early, 1),
        ("b3", "2", "damaged TIN", early, 1), ("C4", "2", "TIN BOXES", early, -1), ("b5", "3", "LATE VASE", late, 1),
        ("b5", "1A", "RED MUGS", late, 1), ("b6", "1B", "WET MOULDY", early, 1),
    ]  # fmt: skip
    columns = ["basket_id", "item_id", "title", "event_timestamp", "Quantity"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "transactions.parquet")
    return folder


def _named(baskets: Baskets, ids: list[str]) -> list[set[str]]:
    ends = zip(baskets.offsets[:-1], baskets.offsets[1:], strict=True)
    return [{ids[row] for row in baskets.items[start:stop]} for start, stop in ends]


def test_the_cutoff_removes_later_items_titles_and_baskets(tmp_path: Path) -> None:
    data = read_data_set(_shop(tmp_path / "shop"), cutoff="2011-07-01")
    ids = [example.item.item_id for example in data.examples]
    assert ids == ["1A", "1B", "2"]
    assert [(ids[row], text) for row, text in data.variants] == [("2", "BOX OF TIN")]
    assert data.baskets is not None
    assert _named(data.baskets, ids) == [{"1A", "1B", "2"}, {"2", "1A"}]


def test_without_a_cutoff_everything_counts(tmp_path: Path) -> None:
    data = read_data_set(_shop(tmp_path / "shop"), cutoff=None)
    assert [example.item.item_id for example in data.examples] == ["1A", "1B", "2", "3"]
    assert {text for _, text in data.variants} == {"BOX OF TIN", "RED MUGS"}


def test_variants_of_one_code_share_a_group(tmp_path: Path) -> None:
    data = read_data_set(_shop(tmp_path / "shop"), cutoff=None)
    groups = {example.item.item_id: example.group for example in data.examples}
    assert groups["1A"] == groups["1B"] != groups["2"]
    rows = sorted(row for split in ("train", "val", "test") for row in data.rows(split))
    assert rows == list(range(4))


def test_splits_are_stable_and_of_the_stated_size() -> None:
    names = [split_of(f"shop/{at}") for at in range(4000)]
    shares = {name: names.count(name) / 4000 for name in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.65, "val": 0.10, "test": 0.25}, abs=0.03)
    assert names[:6] == ["train", "train", "train", "test", "train", "train"]


def test_attributes_and_images_of_a_public_layout(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    (folder / "dataset.json").write_text(SOURCE)
    (folder / "images" / "a.jpg").write_bytes(b"x")
    (folder / "items.csv").write_text("image_id,sender_id,label,color,main_category\na,7,Hat,Red,Shop/Hats\nb,8,,,\n")
    first, second = read_data_set(folder, cutoff=None).examples
    assert first.images == ("images/a.jpg",)
    assert first.item.attributes == "Red; Hats"
    assert first.label == "Hat"
    assert (second.images, second.label, second.item.attributes) == ((), None, None)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"items\.csv"):
        read_data_set(tmp_path, cutoff=None)
    (tmp_path / "items.csv").write_text("name\nx\n")
    with pytest.raises(Misconfigured, match="item_id"):
        read_data_set(tmp_path, cutoff=None)
    (tmp_path / "items.csv").write_text("item_id\nx\n")
    with pytest.raises(Misconfigured, match="licence"):
        read_data_set(tmp_path, cutoff=None)


def test_pairs_come_from_one_basket() -> None:
    behaviour = pytest.importorskip("encoders.training.behaviour")
    baskets = Baskets(np.array([0, 1, 2, 3, 4]), np.array([0, 3, 5]))
    drawn = behaviour.BasketPairs(baskets, 5, np.full(5, -1)).draw(200, np.random.default_rng(0))
    assert (drawn.query_item != drawn.item).all()
    assert ((drawn.query_item < 3) == (drawn.item < 3)).all()


def test_measuring_needs_no_licence_and_unsound_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2.webp").write_bytes(b"x")
    (tmp_path / "items.csv").write_bytes(
        b"\xef\xbb\xbfitem_id,parent_sku,title,color\n1,p,Mug,\n1,p,Other mug,red\n ,p,No id,\n2,p,Tin,red\n"
    )
    data = read_data_set(tmp_path, cutoff=None, licensed=False)
    assert data.skipped == {"no_item_id": 1, "duplicate_item_id": 1}
    assert [(e.item.title, e.product, dict(e.values)) for e in data.examples] == [
        ("Mug", "p", {}),
        ("Tin", "p", {"color": "red"}),
    ]
    assert data.examples[1].images == ("images/2.webp",)
    assert data.rows("all") == [0, 1]
    with pytest.raises(Misconfigured, match="licence"):
        read_data_set(tmp_path, cutoff=None)


def test_a_sender_is_a_group_but_no_product(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("image_id,sender_id\na,7\nb,7\n")
    first, second = read_data_set(tmp_path, cutoff=None, licensed=False).examples
    assert first.group == second.group and (first.product, second.product) == ("a", "b")


def test_a_dataset_json_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\n1\n")
    for body in ("{", "[1]"):
        (tmp_path / "dataset.json").write_text(body)
        with pytest.raises(Misconfigured, match="JSON object"):
            read_data_set(tmp_path, cutoff=None)


def test_without_a_group_letters_after_a_number_are_variants_and_names_stay(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\napple\npear\nP1\nP1XL\n12a-b\n")
    examples = read_data_set(tmp_path, cutoff=None, licensed=False).examples
    assert [e.group.partition("/")[2] for e in examples] == ["apple", "pear", "P1", "P1", "12a-b"]


@pytest.mark.parametrize(
    "spell",
    [
        lambda times: times.dt.tz_localize("UTC"),
        lambda times: times.dt.tz_localize("Europe/London"),
        lambda times: times.dt.date,
        lambda times: times.dt.strftime("%Y-%m-%d %H:%M:%S"),
        lambda times: times.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    ],
    ids=["utc", "zone", "date", "text", "zoned text"],
)
def test_times_of_any_kind_mean_the_same(tmp_path: Path, spell: Callable[[pd.Series], pd.Series]) -> None:
    path = _shop(tmp_path / "shop") / "transactions.parquet"
    plain = read_log(path.parent, "2011-07-01")
    table = pd.read_parquet(path)
    table.assign(event_timestamp=spell(table["event_timestamp"]), Quantity=table["Quantity"].astype(str)).to_parquet(path)
    log = read_log(path.parent, "2011-07-01")
    assert log is not None
    assert plain is not None
    pd.testing.assert_frame_equal(log, plain, check_dtype=False)
    assert log["event_timestamp"].dt.tz is None


def test_a_log_without_titles_has_baskets_and_no_other_wordings(tmp_path: Path) -> None:
    path = _shop(tmp_path / "shop") / "transactions.parquet"
    whole = read_data_set(path.parent, cutoff=None, licensed=False)
    pd.read_parquet(path).drop(columns=["title"]).to_parquet(path)
    data = read_data_set(path.parent, cutoff=None, licensed=False)
    assert whole.variants
    assert data.variants == ()
    assert whole.baskets is not None
    assert data.baskets is not None
    assert data.baskets.items.tolist() == whole.baskets.items.tolist()


def test_only_c_and_digits_alone_is_a_cancellation(tmp_path: Path) -> None:
    path = _shop(tmp_path / "shop") / "transactions.parquet"
    table = pd.read_parquet(path).assign(Quantity=1)
    baskets = ["Cart-17", "C536379", " C4 ", "C", "cart", "c5", "XC6", "C7-1", "C\u0663", "8", "9"]
    table.assign(basket_id=baskets).to_parquet(path)
    log = read_log(path.parent, None)
    assert log is not None
    assert log["basket_id"].tolist() == ["Cart-17", "C", "cart", "c5", "XC6", "C7-1", "C\u0663", "8", "9"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("event_timestamp", "12/1/2010 8:26"), ("event_timestamp", 5), ("event_timestamp", "9999-01-01"), ("Quantity", "six")],
)
def test_values_that_are_no_times_and_no_numbers_name_their_column(tmp_path: Path, column: str, value: object) -> None:
    path = _shop(tmp_path / "shop") / "transactions.parquet"
    pd.read_parquet(path).assign(**{column: value}).to_parquet(path)
    with pytest.raises(Misconfigured, match=f"column {column}.*expected") as found:
        read_data_set(path.parent, cutoff="2011-07-01")
    assert "\n" not in str(found.value)


def test_white_space_around_ids_parts_no_item_from_its_sales(tmp_path: Path) -> None:
    folder = _shop(tmp_path / "shop")
    whole = read_data_set(folder, cutoff="2011-07-01")
    (folder / "items.csv").write_text((folder / "items.csv").read_text().replace("1A,", "1A ,"))
    sales = pd.read_parquet(folder / "transactions.parquet")
    sales.assign(item_id=sales["item_id"].replace("2", " 2")).to_parquet(folder / "transactions.parquet")
    found = read_data_set(folder, cutoff="2011-07-01")
    assert found.examples == whole.examples
    assert found.variants == whole.variants
    assert found.baskets is not None
    assert whole.baskets is not None
    assert found.baskets.items.tolist() == whole.baskets.items.tolist()
