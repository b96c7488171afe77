"""What the console answers: the values of `RankingClient`, bounded, with titles as they are and never as markup."""

import threading
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from moontide import Embeddings, SpaceMismatch, schemas, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.http.app import Parts, Site
from serving.http.console import OPEN_PAGES, Console
from serving.http.console_spaces import SpaceStates
from serving.http.tokens import Tokens
from serving.reading import StoreVectors
from serving.table import TableState, VectorTables
from serving.table_load import load
from serving.table_writer import TableWriter
from tests.pictures import picture

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000
TOKEN = "a-token-of-24-characters"
EVIL = "<script>alert('title')</script>"
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
encoder_digest = "sha256:{digest}"
[[simtier]]
space = "moon_v1"
tiers = 10
length = 3
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l3_drop"
item_fields = ["price"]
"""


class World:
    """A store of four items of which three have vectors, one user, a catalog of five, and the pages over them."""

    def __init__(self, folder, *, tokens="", catalog=True):
        (folder / "spaces.toml").write_text(TOML.format(digest="a" * 64))
        self.live = load_spaces(folder / "spaces.toml")
        space = self.live.space("moon_v1")
        store = online_store(Settings(home=folder, online="memory"))
        values = np.eye(8, dtype=np.float32)[:4] + 0.2
        values[3] = 0
        vectors = Embeddings.from_float(space, values, ids=["hat-1", "hat-2", "cap", "bare"])
        times = {"event_timestamp": NOW, "encoded_at": NOW + 5, "content_known_at": NOW}
        store.write_rows(views.embedding_view(space), embedding_rows(vectors, source_version=1, **times))
        items = ["hat-1", "hat-2", "nobody", "hat-2"]
        one = pa.array([NOW], schemas.TIMESTAMP)
        columns = {
            "user_id": ["u:1"], "event_timestamp": one, "created": one, "item_ids": [items], "actions": [["buy"] * 4],
            "times": [[NOW + n for n in range(4)]], "sequence_version": [0],
        }  # fmt: skip
        store.write_rows(
            views.user_sequence(), pa.table([columns[f.name] for f in schemas.USER_SEQUENCE], schema=schemas.USER_SEQUENCE)
        )
        pq.write_table(
            pa.table({
                "item_id": ["hat-1", "hat-2", "cap", "new", "gone"],
                "title": ["Red hat", EVIL, "Blue cap", "New hat", "Gone"],
                "image_bytes": [picture(1, (300, 200)), b"<svg/>", None, None, None],
                "deleted": [False, False, False, False, True],
            }),
            folder / "catalog.parquet",
        )  # fmt: skip
        settings = Settings(home=folder, online="memory", serving_catalog=folder / "catalog.parquet" if catalog else None)
        self.client = RankingClient(store, self.live)
        self.now = 0.0
        self.console = Console(self.client, self.live, settings, lambda: self.now)
        site = Site(Parts(self.client, self.live, settings, Tokens(tokens)), self.console.router(), OPEN_PAGES)
        self.http = TestClient(site.app)
        self.close = lambda: (self.console.close(), site.close())

    def get(self, path, **params):
        return self.http.get(f"/console/api/{path}", params=params)

    def tiers(self, **body):
        return self.http.post("/console/api/tiers", json=body)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def test_the_page_is_whole_and_asks_nobody_else(world):
    page = world.http.get("/console")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    for name, media in (("console.js", "text/javascript"), ("console.css", "text/css"), ("icon.svg", "image/svg")):
        found = world.http.get(f"/console/static/{name}")
        assert found.status_code == 200 and found.headers["content-type"].startswith(media)
        assert f"console/static/{name}" in page.text
        assert "http:" not in found.text.replace("http://www.w3.org/2000/svg", "") and "https:" not in found.text
        assert "innerHTML" not in found.text and "eval(" not in found.text
    assert "<style" not in page.text and " style=" not in page.text and " on" + "click" not in page.text
    assert world.http.get("/console/static/other.js").status_code == 404
    assert world.http.get("/console/static/../console.py").status_code in (404, 401)


def test_the_site(world):
    said = world.get("site").json()
    assert said["catalog"] is True and said["spaces"] == ["moon_v1"]
    assert said["services"][0] == {
        "name": "ctr_v1", "space": "moon_v1", "simtier": "moon_v1_n10_l3_drop", "tiers": 10, "length": 3,
        "self_match": "drop_same_id",
    }  # fmt: skip


def test_items_with_titles_as_they_are(world):
    answer = world.get("items", q="hat")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = answer.json()["items"]
    assert [item["item_id"] for item in found] == ["hat-1", "hat-2", "new"]
    assert found[1]["title"] == EVIL
    assert world.get("items", q="hat", limit=1).json()["items"] == found[:1]
    assert world.get("items", q="").json() == {"items": []}


def test_similar_is_what_the_client_gives(world):
    said = world.get("similar", item_id="hat-1", k=5).json()
    expected = world.client.similar("hat-1", k=5)
    assert [hit["item_id"] for hit in said["hits"]] == expected["item_id"].to_pylist()
    assert [hit["cosine"] for hit in said["hits"]] == pytest.approx(expected["cosine"].to_pylist(), abs=0)
    assert (said["source"], said["space"], said["item"]["title"]) == ("scan", "moon_v1", "Red hat")
    assert world.get("similar", item_id="hat-1", space="moon_v1").json() == said


def test_tiers_are_what_the_client_gives(world):
    items = ["hat-1", "hat-2", "cap", "nobody", "hat-1"]
    said = world.tiers(user_id="u:1", item_ids=items).json()
    expected = world.client.features("u:1", items)
    assert [row["counts"] for row in said["candidates"]] == expected["counts"].to_pylist()
    assert [row["missing"] for row in said["candidates"]] == expected["missing"].to_pylist() == [1, 1, 1, 2, 1]
    assert [row["present"] for row in said["candidates"]] == expected["embedding_present"].to_pylist()
    assert (said["self_match"], said["behaviours"], said["tiers"]) == ("drop_same_id", 3, 10)
    assert world.tiers(user_id="nobody", item_ids=[]).json()["candidates"] == []


def test_a_sequence_newest_first(world):
    said = world.get("sequence", user_id="u:1").json()
    assert [row["item_id"] for row in said["behaviours"]] == ["hat-2", "nobody", "hat-2", "hat-1"]
    assert [row["time"] for row in said["behaviours"]] == [NOW + 3, NOW + 2, NOW + 1, NOW]
    assert [row["present"] for row in said["behaviours"]] == [True, False, True, True]
    assert world.get("sequence", user_id="u:1", limit=1).json()["behaviours"] == said["behaviours"][:1]
    assert world.get("sequence", user_id="u:2").json()["behaviours"] == []
    assert world.get("users").json() == {"users": ["u:1"]}
    assert world.get("users", q="x").json() == {"users": []}


def test_the_state_of_a_space_is_counted_and_remembered(world):
    first = world.get("spaces").json()["spaces"]
    assert len(first) == 1
    state = first[0]
    assert (state["space"], state["records"], state["vectors"], state["whole"]) == ("moon_v1", 4, 3, True)
    assert (state["catalog_items"], state["catalog_vectors"]) == (4, 3)
    assert (state["newest_event"], state["newest_encoded"]) == (NOW, NOW + 5)
    assert state["index_rows"] is None and "expected one" in state["index_problem"]
    space = world.live.space("moon_v1")
    more = Embeddings.from_float(space, np.ones((1, 8), np.float32), ids=["new"])
    rows = embedding_rows(more, source_version=1, event_timestamp=NOW + 9, encoded_at=NOW + 9, content_known_at=NOW + 9)
    world.client.online.write_rows(views.embedding_view(space), rows)
    assert world.get("spaces").json()["spaces"] == first
    world.now = 5.0
    state = world.get("spaces").json()["spaces"][0]
    assert (state["vectors"], state["catalog_vectors"], state["newest_event"]) == (4, 4, NOW + 9)


def test_a_large_space_is_counted_up_to_a_bound(world, monkeypatch):
    monkeypatch.setattr("serving.http.console_spaces.COUNTED", 3)
    state = world.get("spaces").json()["spaces"][0]
    assert state["whole"] is False and state["records"] <= 3


def test_only_thumbnails_are_served(world):
    answer = world.get("picture", item_id="hat-1", side=96)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert answer.content.startswith(b"\xff\xd8\xff") and len(answer.content) < 10_000
    for item in ("hat-2", "cap", "nobody", "gone"):
        assert world.get("picture", item_id=item).status_code == 404
    assert world.get("picture", item_id="hat-1", side=97).status_code == 422


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("items", {"q": "a" * 101}, 422), ("items", {"q": "a", "limit": "61"}, 422), ("items", {"q": "a", "limit": "1e9"}, 422),
        ("items", {"q": "a", "limit": "٣"}, 422), ("similar", {}, 422), ("similar", {"item_id": "../x"}, 422),
        ("similar", {"item_id": "nobody"}, 422), ("similar", {"item_id": "bare"}, 422),
        ("similar", {"item_id": "hat-1", "k": "0"}, 422), ("similar", {"item_id": "hat-1", "space": EVIL}, 404),
        ("similar", {"item_id": "hat-1", "service": "x"}, 404), ("sequence", {"user_id": ""}, 422),
        ("sequence", {"user_id": "u:1", "limit": "201"}, 422), ("sequence", {"user_id": "u:1", "service": EVIL}, 404),
        ("picture", {"item_id": "a b"}, 422), ("nothing", {}, 404), ("tiers", {}, 405),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(world, path, params, status):
    answer = world.get(path, **params)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"[1]", 422), (b"{}", 422), (b'{"user_id": "u", "item_ids": "hat-1"}', 422),
        (b'{"user_id": "u", "item_ids": [1]}', 422), (b'{"user_id": 1, "item_ids": []}', 422),
        (b'{"user_id": "u", "item_ids": [], "service": 3}', 404),
        (b'{"user_id": "u", "item_ids": [' + b'"a",' * 60 + b'"a"]}', 413), (b" " * 20_000, 413),
    ],
)  # fmt: skip
def test_what_tiers_are_not_counted_of(world, body, status):
    answer = world.http.post("/console/api/tiers", content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_catalog_items_are_their_ids(tmp_path):
    world = World(tmp_path, catalog=False)
    try:
        assert world.get("site").json()["catalog"] is False
        found = world.get("items", q="hat").json()["items"]
        assert sorted(item["item_id"] for item in found) == ["hat-1", "hat-2"]
        assert {item["title"] for item in found} == {""}
        assert world.get("spaces").json()["spaces"][0]["catalog_items"] is None
        assert world.get("picture", item_id="hat-1").status_code == 404
    finally:
        world.close()


def test_a_catalog_that_is_gone_is_said_and_nothing_of_the_path(tmp_path):
    world = World(tmp_path)
    try:
        (tmp_path / "catalog.parquet").unlink()
        answer = world.get("items", q="hat")
        assert answer.status_code == 501
        assert str(tmp_path) not in answer.text
        assert world.get("spaces").json()["spaces"][0]["vectors"] == 3
    finally:
        world.close()


def test_the_page_needs_no_token_and_what_it_reads_does(tmp_path):
    world = World(tmp_path, tokens=TOKEN)
    try:
        assert world.http.get("/console").status_code == 200
        for name in ("console.js", "console.css", "icon.svg"):
            assert world.http.get(f"/console/static/{name}").status_code == 200
        for path in ("site", "items", "users", "similar", "sequence", "spaces", "picture"):
            assert world.get(path).status_code == 401
        assert world.tiers(user_id="u:1", item_ids=[]).status_code == 401
        world.http.headers["Authorization"] = f"Bearer {TOKEN}"
        assert world.get("site").status_code == 200
        assert world.tiers(user_id="u:1", item_ids=[]).status_code == 200
    finally:
        world.close()


def test_the_state_of_a_table_is_shown_beside_its_space(world):
    state = TableState("moon_v1", 3, 100, True, 0, 2, NOW, NOW + 7, NOW + 9)

    class Tables:
        def states(self, spaces):
            return [state for space in spaces if space.id == "moon_v1"]

    states = SpaceStates(world.client, world.live, None, lambda: 0.0, Tables()).read()
    assert states[0].table == asdict(state)
    assert world.get("spaces").json()["spaces"][0]["table"] is None


def test_a_table_of_another_encoder_is_a_problem_of_its_space(world):
    class Tables:
        def states(self, _):
            raise SpaceMismatch("table moon_v1: another encoder")

    states = SpaceStates(world.client, world.live, None, lambda: 0.0, Tables()).read()
    assert states[0].problem == "table moon_v1: another encoder"


def test_a_store_that_is_walked_whole_is_not_walked_when_it_is_large(world, monkeypatch):
    def never(view):
        raise AssertionError("scanned")

    monkeypatch.setattr(world.client.online, "foreign_keys", lambda: 1_000_001)
    monkeypatch.setattr(world.client.online, "scan", never)
    state = world.get("spaces").json()["spaces"][0]
    assert (state["whole"], state["records"], state["vectors"], state["newest_event"]) == (False, 3, 3, NOW)
    assert world.get("users").json() == {"users": []}
    assert world.get("similar", item_id="hat-1").status_code == 503


def test_the_table_a_client_reads_from_is_the_one_that_is_shown(world, tmp_path):
    space = world.live.space("moon_v1")
    writer = TableWriter(tmp_path, space, 10, lambda: NOW)
    assert load(world.client.online, writer, threading.Event())
    writer.polled()
    tables = VectorTables(tmp_path, StoreVectors(world.client.online), clock=lambda: NOW)
    client = RankingClient(world.client.online, world.live, vectors=tables)
    console = Console(client, world.live, Settings(home=tmp_path, online="memory"))
    http = TestClient(Site(Parts(client, world.live), console.router(), OPEN_PAGES).app)
    table = http.get("/console/api/spaces").json()["spaces"][0]["table"]
    assert (table["rows"], table["loaded"], table["polled_at"]) == (4, True, NOW)
    assert http.get("/console/api/similar?item_id=hat-1").json()["source"] == "table"
    console.close()
    writer.close()
