"""Training pairs on real Spark: what is drawn is counted again in plain Python, in both layouts, with 1 and 3 partitions."""

import json
import math
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.training.pairs import read_pairs
from jobs import training_pairs
from jobs._spark import spark_session
from moontide import schemas

pytestmark = pytest.mark.integration
MINUTE = 60_000_000
DAY = 86_400_000_000
START = 15_000 * DAY
CUTOFF = "2011-02-01"
CUTOFF_US = 15_006 * DAY
K = 7
SHOES = [f"s{n}" for n in range(40)]
HATS = ["h0", "h1", "h2"]


@pytest.fixture(scope="module", autouse=True)
def spark():
    # Compiling a plan costs more than running it on so few rows.
    conf = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    with spark_session("tests", "local[2]", conf=conf) as session:
        yield session


def save(folder, name, rows, types):
    table = pa.table({c: pa.array([row.get(c) for row in rows], kind) for c, kind in types.items()})
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=5)


def texts(*names):
    return dict.fromkeys(names, pa.string()) | {"event_timestamp": schemas.TIMESTAMP}


def act(user, item, action, minutes):
    return {"user_id": user, "item_id": item, "action": action, "event_timestamp": START + minutes * MINUTE}


def search(user, minutes, text=None, image=None, item=None, action=None):
    return act(user, item, action, minutes) | {"query_text": text, "query_image": image}


BASKETS = {
    "b1": ["s0", "s1", "s2", "s3", "s4"],
    "b2": ["s0", "s1"],
    "b3": ["s1", "h0", "h1", "h2"],
    "b4": ["s9"],
    "b5": SHOES + [f"x{n}" for n in range(21)],
}
BEHAVIOURS = [
    *[act("u1", item, action, at) for item, action, at in [("s0", "click", 0), ("s5", "Purchase", 30), ("s6", "click", 60)]],
    *[act("u1", item, "click", at) for item, at in [("s7", 91), ("s8", 300), ("s9", 310), ("s9", 311)]],
    *[act("u2", item, action, at) for item, action, at in [("s1", "click", 5), ("s2", "buy", 12), ("s3", "click", 12)]],
    act("u2", "h1", "purchase", 60),
    act("u2", "nothing", "click", 61),
    act("u 2", "s1", "click", 61),
    act("u2", "s4", "click", 60 * 24 * 40),
]
SEARCHES = [
    search("u2", 4, text=" red shoe "),
    search("u3", 0, text="hat", item="h0", action="click"),
    search("u3", 1, text="hat", item="h1", action="order"),
    search("u3", 2, text="hat", item="h2", action="click"),
    search("u3", 2, text="hat", item="h1", action="click"),
    search("u3", 3, image="mine.jpg", item="s5", action="click"),
    search("u3", 3, image="mine.jpg", text="boot", item="s6", action="click"),
    search("u3", 4, image="images/s7.jpg", item="s7", action="purchase"),
    search("u3", 5, item="s7", action="purchase"),
]


def catalog_world(folder):
    """A folder of the catalog layout with everything in it; hats and x-items have the categories hats and none."""
    rows = [
        {"item_id": item, "title": f"Thing {item}", "image": f"images/{item}.jpg", "event_timestamp": START, "source_version": 1,
         "category": {"s": "shoes", "h": "hats"}.get(item[0]), "attributes": "red; leather" if item[0] == "s" else None}
        for item in [*SHOES, *HATS, *(f"x{n}" for n in range(21))]
    ]  # fmt: skip
    rows += [rows[0] | {"title": "newer", "source_version": 2, "event_timestamp": CUTOFF_US}]
    rows += [rows[0] | {"item_id": "gone", "deleted": True}, rows[0] | {"item_id": None}]
    rows += [{"item_id": "plain", "title": "No picture", "event_timestamp": START, "source_version": 1}]
    types = {f.name: f.type for f in schemas.CATALOG if f.name not in ("image_bytes", "price", "description")}
    save(folder, "catalog", rows, types)
    sales = [
        {"basket_id": b, "item_id": i, "event_timestamp": START + n} for b, items in BASKETS.items() for n, i in enumerate(items)
    ]
    sales += [{"basket_id": "C1", "item_id": "s1", "event_timestamp": START}, {"basket_id": "b1", "item_id": "s1"}]
    sales += [
        {"basket_id": "b2", "item_id": "s0", "event_timestamp": START},
        {"basket_id": "b2", "item_id": "s30", "event_timestamp": CUTOFF_US},
    ]
    save(folder, "transactions", [{"title": "t"} | row for row in sales], texts("basket_id", "item_id", "title"))
    save(folder, "behaviours", BEHAVIOURS, texts("user_id", "item_id", "action"))
    save(folder, "searches", SEARCHES, texts("user_id", "query_text", "query_image", "item_id", "action"))


def made(folder, data, *flags):
    out = folder / "pairs"
    flags = ["--home", str(folder), "--data", str(data), "--out", str(out), "--pairs-per-group", str(K), *flags]
    code = training_pairs.main(flags)
    rows = pq.read_table(sorted(out.glob("*.parquet"))).to_pylist()
    return code, rows, json.loads((out / "pairs.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    catalog_world(folder)
    return folder


@pytest.fixture(scope="module")
def once(world):
    code, rows, card = made(world, world, "--cutoff", CUTOFF, "--partitions", "3")
    assert code == 3
    return rows, card


def of_kind(rows, *kinds):
    return [row for row in rows if row["kind"] in kinds]


def brief(row):
    query = row["query_item_id"] or row["query_text"] or row["query_image"]
    minutes = round((row["event_timestamp"].timestamp() * 1_000_000 - START) / MINUTE)
    return query, row["item_id"], row["negative_item_id"], row["purchased"], minutes


def test_partitions_and_leftovers_of_a_killed_run_change_nothing(world, once):
    (world / ".pairs.part").mkdir()
    (world / ".pairs.part" / "part-00009.parquet").write_bytes(b"half")
    (world / "pairs").rename(world / ".pairs.old")
    again = made(world, world, "--cutoff", CUTOFF, "--partitions", "1")
    assert again == (3, *once)
    assert not (world / ".pairs.part").exists() and not (world / ".pairs.old").exists()


def test_searches_pair_the_query_with_what_was_bought_or_else_clicked(once):
    rows, card = once
    found = {brief(row) for row in of_kind(rows, "search")}
    hats = {pair for pair in found if pair[0] == "hat"}
    assert len(hats) == 1 and {pair[:2] + pair[3:] for pair in hats} == {("hat", "h1", True, 1)}
    assert next(iter(hats))[2] in ("h0", "h2")
    [red] = [pair for pair in found if pair[0] == "red shoe"]
    assert (red[1], red[3], red[4]) == ("s2", True, 12) and red[2] in ("s1", "s3")
    assert len(found) == 2
    clicks = {brief(row)[:2] + brief(row)[3:] for row in of_kind(rows, "click")}
    assert clicks == {("mine.jpg", "s5", False, 3), ("mine.jpg", "s6", False, 3), ("boot", "s6", False, 3)}
    assert card["queries"] == 4


def test_at_most_k_pairs_of_a_basket_and_none_of_huge_ones(once):
    rows, card = once
    pairs = Counter((row["query_item_id"], row["item_id"]) for row in of_kind(rows, "basket"))
    possible = {(a, b): name for name in ("b1", "b2", "b3") for a in BASKETS[name] for b in BASKETS[name] if a != b}
    assert set(pairs) <= set(possible)
    assert sum(pairs.values()) == K + 2 + K
    assert all(row["purchased"] for row in of_kind(rows, "basket"))
    assert (card["left_out"]["basket_too_large"], card["left_out"]["basket_of_one_item"]) == (1, 1)


def test_a_session_ends_after_half_an_hour(once):
    rows, _ = once
    sessions = [{"s0", "s5", "s6"}, {"s8", "s9"}, {"s1", "s2", "s3"}]
    pairs = {(row["query_item_id"], row["item_id"]): row for row in of_kind(rows, "session")}
    assert set(pairs) == {(a, b) for session in sessions for a in session for b in session if a != b}
    assert {b for (_, b), row in pairs.items() if row["purchased"]} == {"s5", "s2"}
    assert brief(pairs["s8", "s9"])[4] == 311


def test_log_q_is_the_popularity_under_which_the_job_draws(once):
    rows, _ = once
    for kind, groups in {
        "basket": [BASKETS[n] for n in ("b1", "b2", "b3")],
        "session": [["s0", "s5", "s6"], ["s8", "s9"], ["s1", "s2", "s3"]],
    }.items():
        counts = defaultdict(float)
        for group in groups:
            for item in group:
                counts[item] += min(K, len(group) * (len(group) - 1)) / len(group)
        total = sum(counts.values())
        for row in of_kind(rows, kind):
            assert row["log_q"] == pytest.approx(math.log(counts[row["item_id"]] / total), abs=1e-6)
    titles = of_kind(rows, "title_image")
    assert {row["log_q"] for row in titles} == {np.float32(-math.log(len(titles)))}


def test_negatives_are_of_the_category_and_never_together_with_the_anchor(once):
    rows, _ = once
    together = defaultdict(set)
    groups = [BASKETS[n] for n in ("b1", "b2", "b3")] + [["s0", "s5", "s6"], ["s8", "s9"], ["s1", "s2", "s3"], HATS]
    for group in groups + [["s5", "s6"]]:
        for item in group:
            together[item] |= set(group)
    drawn = [row for row in rows if row["negative_item_id"] and row["kind"] != "search"]
    assert len(drawn) > 60
    for row in drawn:
        anchor = row["query_item_id"] or row["item_id"]
        assert row["negative_item_id"][0] == anchor[0] == "s"
        assert row["negative_item_id"] not in together[anchor] | {anchor}
    assert len({row["negative_item_id"] for row in drawn}) > 10
    hats = [row for row in rows if (row["query_item_id"] or row["item_id"]) in HATS and row["kind"] != "search"]
    assert hats and all(row["negative_item_id"] is None for row in hats)


def test_content_pairs_and_the_card_count_what_is_there(once, world):
    rows, card = once
    items = len(SHOES) + len(HATS) + 21
    assert Counter(row["kind"] for row in rows) == {kind: entry["pairs"] for kind, entry in card["kinds"].items()}
    assert (card["kinds"]["title_image"]["pairs"], card["kinds"]["enriched_title"]["pairs"]) == (items, len(SHOES) + len(HATS))
    assert {row["query_text"] for row in of_kind(rows, "enriched_title")} >= {"Thing s0; red; leather; shoes", "Thing h0; hats"}
    assert card["items"] == {"known": items + 1, "covered": items}
    assert (card["users"], card["cutoff"], card["pairs"]) == (3, CUTOFF, len(rows))
    assert sum(card["files"].values()) == len(rows)
    expected = {"cancelled": 1, "no_event_time": 1, "unknown_item": 1, "invalid_id": 1, "self_pair": 1, "no_query": 1, "no_id": 1}
    assert card["rejects"] == expected
    rejects = pq.read_table(world / "rejects" / "training_pairs.parquet").to_pylist()
    assert Counter(row["reason"] for row in rejects) == expected
    assert [(row["source"].rsplit("/", 1)[1], row["row"]) for row in rejects if row["reason"] == "self_pair"] == [
        ("searches.parquet", 7)
    ]
    assert (card["left_out"]["after_cutoff"], card["left_out"]["deleted_item"]) == (3, 1)
    times = [row["event_timestamp"] for row in rows if row["event_timestamp"]]
    assert card["time_range"] == [min(times).isoformat(), max(times).isoformat()]


def test_the_reader_takes_what_the_job_wrote(once, world):
    rows, _ = once
    ids = [*SHOES, *HATS, *(f"x{n}" for n in range(21))]
    pairs = read_pairs(world / "pairs", ids)
    assert (len(pairs), pairs.dropped) == (len(rows), {})
    assert [ids[i] for i in pairs.item] == [row["item_id"] for row in rows]


def test_a_training_folder_works_under_its_public_names(tmp_path):
    (tmp_path / "items.csv").write_text(
        "StockCode,title,color,main_category,all_images\nA1,Vase,Blue,Home/Vases,images/1.jpg;images/2.jpg;images/1.jpg\n"
        "A2,Bowl,,Home/Vases,\nA3,Cup,,Home/Vases,images/3.jpg\nA4,Lid,,,\n"
    )
    sold = {"InvoiceNo": ["1", "1", "C2", "3", "1"], "StockCode": ["A1", "A2", "A1", "A3", "ZZ"], "Description": ["t"] * 5}
    times = pa.array([START * 1_000] * 5, pa.timestamp("ns"))
    pq.write_table(pa.table(sold | {"InvoiceDate": times}), tmp_path / "transactions.parquet")
    dry = ["--home", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "pairs"), "--dry-run"]
    assert training_pairs.main(dry) == 3
    assert not (tmp_path / "pairs").exists() and not (tmp_path / "rejects").exists()
    code, rows, card = made(tmp_path, tmp_path)
    assert (code, card["rejects"]) == (3, {"cancelled": 1, "unknown_item": 1})
    basket = {(row["query_item_id"], row["item_id"], row["negative_item_id"]) for row in of_kind(rows, "basket")}
    assert basket == {("A1", "A2", "A3"), ("A2", "A1", "A3")}
    assert [(row["query_image"], row["item_id"]) for row in of_kind(rows, "same_product")] == [("images/2.jpg", "A1")]
    assert {row["query_text"] for row in of_kind(rows, "title_image")} == {"Vase", "Cup"}
    assert "Vase; Blue; Vases" in {row["query_text"] for row in of_kind(rows, "enriched_title")}


def test_a_folder_without_a_pair_fails_and_keeps_the_old_folder(tmp_path, capsys):
    (tmp_path / "items.csv").write_text("item_id,title\na,Vase\n")
    assert training_pairs.main(["--home", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "pairs")]) == 1
    assert "expected at least one pair" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()
