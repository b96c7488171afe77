"""The products of a shop's sales as a catalog."""

import pytest

from encoders.purchases import read_catalog
from moontide import schemas
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit
DAY = 86_400_000_000
ITEMS = """StockCode,title,median_price,first_seen,is_product
00123,RED HAT,2.5,1970-01-02 00:00:00,True
POST,POSTAGE,18.0,1970-01-02 00:00:00,False
9A,"LAMP, BLUE",0.0,1970-01-03 00:00:01,true
"""


def test_each_product_is_true_from_its_first_sale_on_or_from_one_moment(tmp_path):
    (tmp_path / "items.csv").write_text(ITEMS)
    rows = read_catalog(tmp_path)
    assert rows.schema == schemas.CATALOG
    assert rows["item_id"].to_pylist() == ["00123", "9A"] and rows["title"].to_pylist() == ["RED HAT", "LAMP, BLUE"]
    assert rows["price"].to_pylist() == [2.5, 0.0]
    assert rows["event_timestamp"].cast("int64").to_pylist() == [DAY, 2 * DAY + 1_000_000]
    assert rows["source_version"].to_pylist() == [86_400, 172_801]
    assert read_catalog(tmp_path, known=5 * DAY)["event_timestamp"].cast("int64").to_pylist() == [5 * DAY] * 2


def test_no_products_and_missing_columns(tmp_path):
    (tmp_path / "items.csv").write_text(ITEMS.splitlines()[0] + "\n")
    assert read_catalog(tmp_path).num_rows == 0
    (tmp_path / "items.csv").write_text("StockCode,title\na,b\n")
    with pytest.raises(Misconfigured, match="median_price"):
        read_catalog(tmp_path)
