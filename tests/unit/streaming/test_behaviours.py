"""Behaviour events in, merged sequences and verdicts out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import names
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import user_sequence
from streaming.behaviours import BehaviourHandler
from tests.item_world import NOW, again, behaviour, message

pytestmark = pytest.mark.unit
SERVED = user_sequence(names.USER_SERVED)


class Users:
    def __init__(self, length=3):
        self.settings = Settings(online="memory", sequence_length=length)
        self.store = online_store(self.settings, clock=lambda: NOW)
        self.handler = BehaviourHandler(self.store, self.settings, lambda: NOW)
        self.last = None

    def feed(self, messages):
        self.last = self.handler.handle(messages)
        for view, table in self.last.online_only:
            self.store.write_rows(view, table)
        verdicts = {r.message.offset: r.verdict.value for r in self.last.results}
        assert len(self.last.results) == len(messages) == len(verdicts)
        return [verdicts[m.offset] for m in messages]

    def items(self, user, view=None):
        return self.store.read_sequences(view or user_sequence(), [user])[0].item_ids


def test_nothing_in_nothing_out():
    found = Users().handler.handle([])
    assert (found.rows, found.online_only, found.touched, found.results) == ([], [], [], [])


def test_one_behaviour():
    users = Users()
    assert users.feed([behaviour("u", "i", 5)]) == ["applied"]
    assert users.items("u") == ("i",)
    assert users.last.touched == [(user_sequence(), ["u"])]


def test_what_is_there_already_is_redriven_and_what_is_too_old_is_stale():
    users = Users(length=2)
    users.feed([behaviour("u", "a", 5), behaviour("u", "b", 6)])
    sent = [behaviour("u", "a", 5), behaviour("u", "z", 1), behaviour("u", "c", 7)]
    assert users.feed(sent) == ["unchanged", "stale", "applied"]
    assert users.items("u") == ("b", "c")
    assert users.last.online_only[0][1]["item_ids"].to_pylist() == [["c"]]
    assert users.feed([behaviour("u", "z", 1)]) == ["stale"]
    assert (users.last.touched, users.last.online_only) == ([], [])
    assert users.feed([behaviour("u", "c", 7)]) == ["unchanged"]
    assert (users.last.touched, users.last.online_only) == ([(user_sequence(), ["u"])], [])


def test_twice_in_one_batch_is_applied_once():
    assert Users().feed([behaviour("u", "a", 5), behaviour("u", "a", 5)]) == ["applied", "unchanged"]


def test_pushed_out_by_its_own_batch_is_stale():
    users = Users(length=1)
    assert users.feed([behaviour("u", "a", 5), behaviour("u", "b", 6)]) == ["stale", "applied"]


def test_items_shown_enter_a_sequence_of_their_own():
    users = Users()
    assert users.feed([behaviour("u", "shown", 5, "impression"), behaviour("u", "bought", 6, "purchase")]) == ["applied"] * 2
    assert (users.items("u"), users.items("u", SERVED)) == (("bought",), ("shown",))


def test_poison_does_not_disturb_the_others():
    users = Users()
    sent = [message(b"u", b"{"), behaviour("u", "a", 5), behaviour("u", "b", NOW + 301_000_000), message(b"u", None)]
    assert users.feed(sent) == ["dead", "applied", "dead", "dead"]
    assert {r.reason for r in users.last.results if r.verdict == "dead"} == {"not_json", "time_ahead", "wrong_type"}


events = st.tuples(st.sampled_from("uv"), st.sampled_from("abcd"), st.integers(0, 9), st.sampled_from(["click", "impression"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=25), st.randoms(use_true_random=False), st.integers(1, 7))
def test_any_order_any_cut_and_any_replay_end_in_the_same_sequences(drawn, random, cut):
    users, want = Users(), {}
    sent = [behaviour(*event) for event in drawn]
    sent += again(random.sample(sent, len(sent) // 2))
    random.shuffle(sent)
    for start in range(0, len(sent), cut):
        users.feed(sent[start : start + cut])
    for user, item, time, action in drawn:
        want.setdefault((user, action), set()).add((time, item, action))
    for (user, action), seen in want.items():
        view = SERVED if action == "impression" else user_sequence()
        assert users.items(user, view) == tuple(item for _, item, _ in sorted(seen)[-3:])
    assert "applied" not in users.feed(again(sent))
