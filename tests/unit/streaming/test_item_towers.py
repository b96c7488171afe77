"""Item events where one space reads images and texts and another reads prices: each is encoded for what it reads."""

import pytest

from encoders import Encoder, ImageLoader, Item
from moontide.views import embedding_view
from streaming.encoding import Encoded
from streaming.gates import COLLAPSE, refused_vectors
from streaming.items import ItemHandler
from tests import tiny_tower
from tests.item_world import BLUE, NOW, World, again, remove, upsert

pytestmark = pytest.mark.unit


class TowerStream:
    """A `StreamEncoder` over an item tower, in this process."""

    def __init__(self, folder):
        self._tower = Encoder.load(folder)
        self.space, self.reads, self.calls = self._tower.space, self._tower.artifact.inputs, []

    def encode(self, items):
        lean = [self.reads.lean(item) for item in items]
        self.calls.append([item.item_id for item in items])
        return Encoded(self._tower.encode(lean), tuple(range(len(items))), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("tower")
    tiny_tower.artifact(home)
    return home / "pre_v1"


@pytest.fixture
def world(folder):
    made = World(spaces=(BLUE,))
    made.encoders.append(TowerStream(folder))
    made.handler = ItemHandler(made.store, made.encoders, ImageLoader(None), made.settings, made.clock)
    return made


def records(world, item):
    blue, tower = world.encoders
    return world.record(item, blue.space), world.record(item, tower.space)


def test_a_price_encodes_the_tower_alone_and_a_title_the_other(world):
    assert world.verdicts([upsert("a", 1, price=2.0, category="hats")]) == ["applied"]
    assert world.encoded() == [1, 1]
    first = records(world, "a")
    world.now += 1_000
    assert world.verdicts([upsert("a", 2, price=3.0, category="hats")]) == ["applied"]
    assert world.encoded() == [1, 2]
    second = records(world, "a")
    assert (second[0]["codes"], second[0]["encoded_at"]) == (first[0]["codes"], first[0]["encoded_at"])
    assert second[0]["content_hash"] == first[0]["content_hash"] and second[0]["source_version"] == 2
    assert second[1]["codes"] != first[1]["codes"] and second[1]["encoded_at"] > first[1]["encoded_at"]
    assert second[1]["content_hash"] != first[1]["content_hash"]
    assert world.features("a")["price"] == 3.0
    assert world.verdicts([upsert("a", 3, title="another", price=3.0, category="hats")]) == ["applied"]
    assert world.encoded() == [2, 2]
    assert records(world, "a")[1]["codes"] == second[1]["codes"]


def test_what_neither_reads_encodes_nothing_and_a_delete_reaches_both(world):
    world.feed([upsert("a", 1, price=2.0)])
    assert world.verdicts([upsert("a", 2, price=2.0)]) == ["unchanged"]
    assert world.encoded() == [1, 1]
    world.feed([remove("a", 3)])
    assert [record["deleted"] for record in records(world, "a")] == [True, True]
    assert world.verdicts([upsert("a", 4, price=2.0)]) == ["applied"]
    assert world.encoded() == [2, 2]


def test_a_replay_changes_nothing_and_content_is_known_since_it_came(world):
    sent = [upsert("a", 1, price=2.0), upsert("b", 1, price=2.0), upsert("a", 2, price=4.0)]
    world.feed(sent)
    before = [records(world, item) for item in "ab"]
    world.now += 1_000_000
    assert set(world.verdicts(again(sent))) <= {"unchanged", "stale"}
    assert [records(world, item) for item in "ab"] == before
    # The second version of the tower's content is new, and so is that of the other: versions hold all of an item.
    assert {r["content_known_at"] for r in before[0]} == {before[0][0]["content_known_at"]}
    tables = [table for view, table in world.offline if view == embedding_view(world.encoders[1].space)]
    assert sum(table.num_rows for table in tables) == 3


def test_the_tower_sees_what_the_backfill_would(world, folder):
    world.feed([upsert("a", 1, NOW, price=19.99, category=" hats", image=b"not opened")])
    tower = records(world, "a")[1]
    reader = Encoder.load(folder)
    item = Item("a", title="a title", price=19.99, category="hats", image="a/path.jpg")
    assert tower["content_hash"] == reader.content_hash(item)
    assert tower["codes"] == reader.encode([item]).codes[0].tobytes()


def test_items_alike_to_a_tower_may_have_one_vector(folder):
    tower = Encoder.load(folder)
    # Different categories that the vocabulary does not have are one input of the model.
    items = [Item(str(n), title=f"title {n}", category=f"new {n}") for n in range(COLLAPSE + 2)]
    vectors = tower.encode(items)
    assert refused_vectors(items, vectors, tower.artifact.inputs) == {}
    assert len(refused_vectors(items, vectors)) == len(items)
