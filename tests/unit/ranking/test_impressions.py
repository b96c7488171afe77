from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.purchases import read_purchases
from moontide.errors import Misconfigured
from moontide.pit.impressions import RATIO, make_impressions
from moontide.pit.purchases import DAY
from ranking.splits import microseconds
from tests.unit.ranking.purchases_world import purchases_of, random_purchases, write_shop

pytestmark = pytest.mark.unit

TIMES = st.integers(0, 60).map(lambda day: day * DAY)
SALES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(0, 12), TIMES), min_size=1, max_size=60)


def one_user_a_basket(rows):
    return [(user, item, basket * 5 + user, time) for user, item, basket, time in rows]


@settings(max_examples=40, deadline=None)
@given(SALES, st.sampled_from(["new", "all"]))
def test_labels_mean_bought_in_this_basket(rows, variant):
    purchases = purchases_of(one_user_a_basket(rows))
    made = make_impressions(purchases, variant=variant, seed=1)
    assert len(made.offsets) == len(made.user) + 1
    for row in range(len(made)):
        request = made.request[row]
        user, time = made.user[request], made.time[request]
        baskets = {
            basket for basket in np.unique(purchases.basket)
            if purchases.time[purchases.basket == basket].min() == time and purchases.user[purchases.basket == basket][0] == user
        }  # fmt: skip
        in_basket = any(made.item[row] in purchases.item[purchases.basket == basket] for basket in baskets)
        assert made.label[row] == 0 or in_basket
        if len(baskets) == 1:
            assert bool(made.label[row]) == in_basket
        if variant == "new":
            mine = (purchases.user == user) & (purchases.time < time)
            assert made.item[row] not in purchases.item[mine]


def test_negatives_follow_the_trailing_sales_without_the_excluded():
    draw = np.random.default_rng(0)
    shares = {1: 50, 2: 30, 3: 15, 4: 5}
    rows = [(9, 0, 10_000, 0), (9, 5, 10_001, 0), (9, 0, 10_002, 41 * DAY)]
    number = 0
    for item, count in shares.items():
        for _ in range(count):
            number += 1
            rows.append((100 + number, item, number, int(draw.integers(40, 60)) * DAY + number))
    rows += [(200 + at, 5, 20_000 + at, 2 * DAY + at) for at in range(40)]
    rows += [(8, 1, 30_000, 30 * DAY)]
    buyers = [(1_000 + at, 0, 40_000 + at, 65 * DAY) for at in range(3_000)]
    made = make_impressions(purchases_of(rows + buyers), variant="new", seed=4)
    asked = made.time[made.request] == 65 * DAY
    drawn = Counter(made.item[asked & (made.label == 0)].tolist())
    total = sum(drawn.values())
    assert total == RATIO * 3_000
    assert set(drawn) == set(shares)
    chi = sum((drawn[item] - total * count / 100) ** 2 / (total * count / 100) for item, count in shares.items())
    assert chi < 16.3, "0.999 quantile of chi squared with 3 degrees of freedom"


def test_seeded_and_ratio_held():
    purchases = random_purchases()
    first, again, other = (make_impressions(purchases, variant="all", seed=seed) for seed in (1, 1, 2))
    assert first.item.tolist() == again.item.tolist()
    assert first.item.tolist() != other.item.tolist()
    positives = int(first.label.sum())
    assert len(first) == positives * (1 + RATIO) - first.left_out["negative_not_found"]
    assert (np.diff(first.request) >= 0).all()


def test_a_positive_that_could_not_be_a_negative_is_left_out_and_counted():
    rows = [(0, 0, 0, 0), (1, 0, 1, 50 * DAY), (2, 1, 2, 51 * DAY), (3, 2, 3, 52 * DAY)]
    made = make_impressions(purchases_of(rows), variant="all", seed=0)
    assert len(made) == 0
    assert made.left_out == {"first_days": 1, "unmatched": 3, "folded": 0, "negative_not_found": 0}


@settings(max_examples=40, deadline=None)
@given(SALES, st.sampled_from(["new", "all"]))
def test_every_purchase_is_a_positive_or_counted_under_one_reason(rows, variant):
    purchases = purchases_of(one_user_a_basket(rows))
    made = make_impressions(purchases, variant=variant, seed=1)
    reasons = sum(count for reason, count in made.left_out.items() if reason != "negative_not_found")
    assert reasons + int(made.label.sum()) == len(purchases)


def test_further_lines_of_an_item_in_one_basket_are_folded_and_counted():
    rows = [(0, 0, 0, 0), (1, 0, 1, 20 * DAY), (2, 0, 2, 40 * DAY), (2, 0, 2, 40 * DAY + 1)]
    made = make_impressions(purchases_of(rows), variant="all", seed=0)
    assert (made.left_out["folded"], int(made.label.sum())) == (1, 1)


def test_unknown_variant():
    with pytest.raises(Misconfigured, match="new"):
        make_impressions(random_purchases(), variant="old", seed=0)


def test_reading_leaves_out_and_counts(tmp_path):
    (tmp_path / "items.csv").write_text("StockCode,title,is_product\nA,LAMP,True\nB,POSTAGE,False\n")
    day = pd.Timestamp("2011-01-05 10:00")
    rows = [
        ("1", "A", 1, day, 7), ("1", "A", 1, day, 7), ("1", "A", 3, day, 7), ("C2", "A", -1, day, 7), ("3", "A", 1, day, None),
        ("4", "B", 1, day, 7), ("5", "Z", 1, day, 7), ("6", "A", 1, day, 0), ("7", "A", 1, day, 8),
    ]  # fmt: skip
    columns = ["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "CustomerID"]
    frame = pd.DataFrame(rows, columns=columns).assign(Description="LAMP")
    frame.astype({"CustomerID": "Int64"}).to_parquet(tmp_path / "transactions.parquet")
    found = read_purchases(tmp_path)
    assert [found.user_ids[user] for user in found.user] == ["7", "8"]
    assert found.left_out == {"cancellation": 1, "no_customer": 2, "no_time": 0, "no_product": 2, "repeat": 2}
    assert found.time[0] == microseconds("2011-01-05T10:00:00")


def shop_of(folder, **columns):
    """A shop of rows in whole columns; every item is a product."""
    frame = pd.DataFrame(columns)
    frame.to_parquet(folder / "transactions.parquet")
    (folder / "items.csv").write_text("\n".join(["item_id", *sorted(set(frame["item_id"]))]) + "\n")
    return read_purchases(folder)


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_a_sale_without_a_basket_is_in_the_basket_of_its_user_and_time(tmp_path, nothing):
    first, later = pd.Timestamp("2011-01-05 10:00"), pd.Timestamp("2011-01-05 11:00")
    found = shop_of(
        tmp_path, user_id=["u", "u", "u", "v", "u"], item_id=["a", "b", "a", "a", "c"], basket_id=[nothing] * 4 + ["x"],
        event_timestamp=[first, first, later, first, first],
    )  # fmt: skip
    baskets = {}
    for at in range(len(found)):
        name = found.user_ids[found.user[at]] + found.item_ids[found.item[at]] + str(found.time[at] - found.time[0])
        baskets.setdefault(int(found.basket[at]), set()).add(name)
    assert sorted(map(sorted, baskets.values())) == [["ua0", "ub0"], [f"ua{3_600_000_000}"], ["uc0"], ["va0"]]


def test_a_basket_id_that_is_used_again_after_more_than_a_day_is_another_basket(tmp_path):
    days = [0.0, 1.0, 2.01, 2.02, 0.0]
    found = shop_of(
        tmp_path, user_id=["u"] * 4 + ["v"], item_id=list("abcde"), basket_id=["7"] * 5,
        event_timestamp=[pd.Timestamp("2011-01-05") + pd.Timedelta(days=day) for day in days],
    )  # fmt: skip
    basket = {found.item_ids[item]: int(number) for item, number in zip(found.item, found.basket, strict=True)}
    assert basket["a"] == basket["b"] != basket["c"] == basket["d"]
    assert basket["e"] not in {basket[item] for item in "abcd"}


@pytest.mark.parametrize(("column", "users"), [("user_id", ("0", "1")), ("CustomerID", ("1",))])
def test_number_zero_is_a_user_except_where_customers_are_counted_from_one(tmp_path, column, users):
    day = pd.Timestamp("2011-01-05")
    found = shop_of(
        tmp_path, **{column: [0, 1]}, item_id=["a", "a"], basket_id=["1", "2"], event_timestamp=[day, day],
    )  # fmt: skip
    assert (found.user_ids, found.left_out["no_customer"]) == (users, 2 - len(users))


def test_purchases_need_no_title_and_a_missing_column_is_asked_for_by_the_names_it_may_have(tmp_path):
    with pytest.raises(Misconfigured, match="expected a column basket_id or InvoiceNo, got"):
        shop_of(tmp_path, user_id=["u"], item_id=["a"], event_timestamp=[pd.Timestamp("2011-01-05")])
    shop_of(tmp_path, user_id=["u"], item_id=["a"], basket_id=["1"], event_timestamp=[pd.Timestamp("2011-01-05")])


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(Misconfigured, match="log of sales"):
        read_purchases(tmp_path)
    write_shop(tmp_path)
    (tmp_path / "items.csv").unlink()
    with pytest.raises(Misconfigured, match=r"items\.csv"):
        read_purchases(tmp_path)
