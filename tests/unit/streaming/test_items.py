"""Item events in, verdicts, rows and records out."""

import json

import pytest

from moontide.errors import Transient
from moontide.views import embedding_view
from tests.item_world import BLUE, FEATURES, GREEN, NOW, World, again, message, remove, tombstone, upsert, vector

pytestmark = pytest.mark.unit


def test_no_message_has_no_effects():
    assert list(World().handler.handle([])) == []


def test_one_new_item_gets_its_vector_and_features():
    world = World()
    assert world.verdicts([upsert("i", 3, price=1.5, category="shoes")]) == ["applied"]
    record, features = world.record("i"), world.features("i")
    assert (record["source_version"], record["deleted"], record["space"]) == (3, False, "moon_v1")
    assert record["codes"] == vector(BLUE, record["content_hash"]).tobytes()
    assert (features["price"], features["category"], features["has_image"], features["has_text"]) == (1.5, "shoes", False, True)


def test_a_replay_changes_nothing_encodes_nothing_and_is_redriven():
    world = World(spaces=(BLUE, GREEN))
    sent = [upsert("a", 1), upsert("b", 1), remove("b", 2)]
    world.feed(sent)
    before, encoded = world.record("a"), world.encoded()
    world.now += 10_000_000
    world.effects.clear()
    assert world.verdicts(again(sent)) == ["unchanged", "stale", "unchanged"]
    assert (world.record("a"), world.encoded()) == (before, encoded)
    assert [e.rows for e in world.effects] == [[]]
    touched = {view.name: ids for e in world.effects for view, ids in e.touched}
    assert touched == {
        "item_embedding__moon_v1": ["a", "b"],
        "item_embedding__moon_v2": ["a", "b"],
        "item_features": ["a", "b"],
    }


def test_equal_content_under_a_newer_version_keeps_vector_and_encoding_time():
    world = World()
    world.feed([upsert("i", 1, price=1.0)])
    old = world.record("i")
    world.now += 5
    assert world.verdicts([upsert("i", 2, price=2.0)]) == ["unchanged"]
    new = world.record("i")
    assert (new["source_version"], new["encoded_at"], new["codes"]) == (2, old["encoded_at"], old["codes"])
    assert new["content_known_at"] > old["content_known_at"]
    assert world.features("i")["price"] == 2.0
    assert world.encoded() == [1]


def test_a_price_alone_under_the_same_version_reaches_the_features():
    world = World()
    world.feed([upsert("i", 1, price=1.0)])
    assert world.verdicts([upsert("i", 1, price=2.0)]) == ["unchanged"]
    assert world.features("i")["price"] == 2.0


def test_prices_that_come_and_go_in_one_batch_end_at_the_last():
    world = World()
    world.feed([upsert("i", 1, price=1.0)])
    assert world.verdicts([upsert("i", 1, price=2.0), upsert("i", 1, price=1.0)]) == ["unchanged", "unchanged"]
    assert world.features("i")["price"] == 1.0


def test_several_versions_in_one_batch_all_go_offline_in_rising_order():
    world = World(batch=2)
    sent = [upsert("i", 1, title="a"), upsert("i", 2, title="b"), upsert("i", 3, title="b"), remove("i", 4), upsert("i", 5)]
    assert world.verdicts(sent) == ["applied", "applied", "unchanged", "applied", "applied"]
    rows = [row for view, table in world.offline if view.space == BLUE for row in table.to_pylist()]
    assert [(row["source_version"], row["deleted"]) for row in rows] == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
        (5, False),
    ]
    assert rows[1]["codes"] == rows[2]["codes"] != rows[0]["codes"]
    assert world.record("i")["source_version"] == 5


def test_what_needs_no_encoding_comes_first_and_then_micro_batches():
    world = World(batch=2)
    world.feed([upsert("old", 1)])
    sent = [*(upsert(f"n{k}", 1) for k in range(5)), upsert("old", 2), remove("gone", 1), message(b"x", b"not json")]
    found = list(world.handler.handle(sent))
    assert [len(e.results) for e in found] == [3, 2, 2, 1]
    assert {r.verdict for r in found[0].results} == {"unchanged", "applied", "dead"}


def test_an_older_event_loses_and_reads_nothing():
    world = World()
    world.feed([upsert("i", 5)])
    assert world.verdicts([upsert("i", 4, image="nowhere.png"), remove("i", 4)]) == ["stale", "stale"]
    assert world.record("i")["source_version"] == 5


def test_a_newer_version_with_an_older_clock_wins_and_its_replay_is_known():
    world = World()
    sent = [upsert("i", 1, NOW + 100, title="a"), upsert("i", 2, NOW + 50, title="b")]
    assert world.verdicts(sent) == ["applied", "applied"]
    assert world.heads(["i"])[0][1:3] == (2, NOW + 101)
    assert world.verdicts(again(sent)) == ["stale", "unchanged"]


def test_a_delete_of_the_same_version_and_an_earlier_time_is_stale():
    world = World()
    world.feed([upsert("i", 1, NOW + 10)])
    assert world.verdicts([remove("i", 1, NOW + 5)]) == ["stale"]
    assert world.record("i")["deleted"] is False


class TestTombstoneWithoutVersion:
    def test_it_deletes_what_is_older(self):
        world = World(spaces=(BLUE, GREEN))
        world.feed([upsert("i", 7, NOW - 5_000)])
        sent = [tombstone("i", NOW)]
        assert world.verdicts(sent) == ["applied"]
        assert {world.record("i", space)["deleted"] for space in (BLUE, GREEN)} == {True}
        assert (world.record("i")["source_version"], world.features("i")["deleted"]) == (7, True)
        assert world.verdicts(again(sent)) == ["unchanged"]

    def test_it_does_not_delete_what_is_as_new(self):
        world = World()
        world.feed([upsert("i", 7, NOW)])
        assert world.verdicts([tombstone("i", NOW)]) == ["stale"]

    def test_an_unknown_item_stays_unknown(self):
        world = World()
        assert world.verdicts([tombstone("i", NOW)]) == ["unchanged"]
        assert (world.record("i"), world.features("i"), world.effects[0].touched) == (None, None, [])


class TestDead:
    def test_what_is_no_event_does_not_disturb_the_others(self):
        world = World()
        found = world.feed([message(b"i", b"{"), upsert("j", 1), message(b"k", b'{"schema_version": 9}')])
        assert [(r.verdict.value, r.reason) for r in found] == [("dead", "not_json"), ("applied", ""), ("dead", "unknown_schema")]
        assert found[0].error == "moontide.event_types.BadEvent"

    def test_images_that_cannot_be_read(self, tmp_path):
        (tmp_path / "big.png").write_bytes(b"x" * 1_001)
        world = World(root=tmp_path)
        sent = [upsert("a", 1, image="no.png"), upsert("b", 1, image="big.png"), upsert("c", 1, image="../x.png")]
        sent += [upsert("d", 1, image=b"x" * 1_001), upsert("e", 1, image="http://h/x.png")]
        found = world.feed(sent)
        reasons = ["image_missing", "image_too_large", "image_refused", "image_too_large", "image_refused"]
        assert [(r.verdict.value, r.reason) for r in found] == [("dead", reason) for reason in reasons]
        assert world.encoded() == [0]

    def test_refused_in_one_space_is_applied_to_none(self):
        world = World(spaces=(BLUE, GREEN))
        world.encoders[1]._refuse = "green"
        sent = [upsert("h", 1, title="h"), upsert("i", 1, title="green"), upsert("j", 1), upsert("k", 1, title="green")]
        found = world.feed(sent)
        fine, bad = ("applied", "", 1), ("dead", "encoder_crashed", 3)
        assert [(r.verdict.value, r.reason, r.attempts) for r in found] == [fine, bad, fine, bad]
        for item in "hj":
            record = world.record(item)
            assert record["codes"] == vector(BLUE, record["content_hash"]).tobytes()
        assert (world.record("i"), world.record("i", GREEN), world.features("i")) == (None, None, None)
        assert world.record("j", GREEN)["source_version"] == 1

    def test_what_follows_a_refused_event_is_judged_against_what_was_there(self):
        world = World()
        world.feed([upsert("i", 1, title="good")])
        sent = [
            upsert("i", 5, title="refuse"),
            upsert("i", 6, title="refuse"),
            upsert("i", 3, title="other"),
            upsert("i", 4, title="other"),
        ]
        assert world.verdicts(sent) == ["dead", "dead", "applied", "unchanged"]
        assert world.record("i")["source_version"] == 4

    def test_content_without_image_or_text(self):
        [found] = World().feed([upsert("i", 1, title="  ")])
        assert (found.verdict.value, found.reason) == ("dead", "no_content")


class TestContent:
    def test_images_are_read_hashed_and_not_read_for_a_decoder(self, tmp_path):
        (tmp_path / "x.png").write_bytes(b"one")
        world = World(root=tmp_path)
        assert world.verdicts([upsert("i", 1, image="x.png")]) == ["applied"]
        assert world.verdicts([upsert("i", 2, image="x.png"), upsert("i", 3, image=b"one")]) == ["unchanged", "unchanged"]
        (tmp_path / "x.png").write_bytes(b"two")
        assert world.verdicts([upsert("i", 4, image="x.png")]) == ["applied"]
        assert world.features("i")["has_image"] is True

    def test_a_reference_is_read_under_the_same_rules(self, tmp_path):
        (tmp_path / "c.json").write_text(json.dumps({"title": "t", "price": 2}))
        (tmp_path / "bad.json").write_text("[]")
        world = World(root=tmp_path)
        found = world.feed([upsert("i", 1, ref="c.json"), upsert("j", 1, ref="bad.json"), upsert("k", 1, ref="no.json")])
        assert [r.verdict.value for r in found] == ["applied", "dead", "dead"]
        assert [r.reason for r in found[1:]] == ["wrong_type", "image_missing"]
        assert (world.features("i")["price"], found[1].entity_id) == (2.0, "j")

    def test_much_content_is_taken_in_rounds(self, tmp_path, monkeypatch):
        monkeypatch.setattr("streaming.items.HELD_BYTES", 10)
        world = World()
        sent = [upsert(f"i{k}", 1, image=b"x" * 8) for k in range(7)]
        assert world.verdicts(sent) == ["applied"] * 7
        assert max(len(call) for call in world.encoders[0].calls) == 2
        assert world.verdicts(again(sent)) == ["unchanged"] * 7


class TestSpaces:
    def test_a_space_that_lacks_an_item_gets_it_and_inherits_when_it_was_known(self):
        world = World(spaces=(BLUE, GREEN))
        world.feed([upsert("i", 1)])
        world.store.delete(embedding_view(GREEN), ["i"])
        world.now += 1_000_000
        assert world.verdicts([upsert("i", 1)]) == ["applied"]
        blue, green = world.record("i"), world.record("i", GREEN)
        assert green["content_known_at"] == blue["content_known_at"] < green["encoded_at"]
        assert world.encoded() == [1, 2]
        assert [v.name for v, _ in world.effects[-1].touched] == ["item_embedding__moon_v1", "item_features"]

    def test_stale_in_one_space_is_stale_in_all(self):
        world = World(spaces=(BLUE, GREEN))
        world.feed([upsert("i", 5)])
        world.store.delete(embedding_view(GREEN), ["i"])
        assert world.verdicts([upsert("i", 4)]) == ["stale"]
        assert world.record("i", GREEN) is None

    def test_other_content_of_an_earlier_time_is_stale_also_where_a_space_lacks_the_item(self):
        world = World(spaces=(BLUE, GREEN))
        world.feed([upsert("i", 5, NOW + 9, title="a")])
        world.store.delete(embedding_view(GREEN), ["i"])
        assert world.verdicts([upsert("i", 5, NOW + 8, title="b")]) == ["stale"]
        assert world.record("i", GREEN) is None


def test_an_encoder_that_is_broken_settles_nothing_of_its_batch():
    world = World()
    world.encoders[0].broken = True
    steps = world.handler.handle([upsert("i", 1), remove("j", 1)])
    assert len(next(steps).results) == 1
    with pytest.raises(Transient):
        next(steps)


def test_lost_features_are_written_by_a_replay():
    world = World()
    sent = [upsert("i", 1, price=3.0)]
    world.feed(sent)
    world.store.delete(FEATURES, ["i"])
    assert world.verdicts(again(sent)) == ["unchanged"]
    assert world.features("i")["price"] == 3.0


def test_other_content_under_the_same_version_and_time_rises_even_on_a_slow_clock():
    world = World()
    world.feed([upsert("i", 1, title="a")])
    old = world.record("i")
    world.now -= 60_000_000
    assert world.verdicts([upsert("i", 1, title="b", price=1.0)]) == ["applied"]
    new = world.record("i")
    assert (new["encoded_at"] - old["encoded_at"]).microseconds == 1
    assert new["content_hash"] != old["content_hash"]
    assert world.features("i")["price"] == 1.0


def test_progress_is_told_and_traced():
    world, told, points = World(), [], []
    world.handler.on_encoded = lambda items, seconds: told.append((items, seconds))
    world.feed([upsert(f"i{k}", 1) for k in range(6)], trace=points.append)
    assert told == [(4, 0.0), (2, 0.0)]
    assert points == ["parsed", "planned", "encoded", "encoded"]
