"""The items and events of the freshness benchmark: real content, real purchases, a fixed mix, Poisson times.

Everything is drawn before a clock starts: a cell is a list of `Send`s with the second each is due, and the probes among them.
"""

import json
import random
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from kafka.partitioner.default import murmur2

from encoders import Item
from moontide import names
from moontide.events import BehaviourEvent, Content, ItemEvent, behaviour_event_json, item_event_json
from moontide.sequences import Behaviour

DATA = Path(__file__).parents[1] / "examples" / "data"
#: Of item events: content that must be encoded, the same content under a newer version, the very same event again.
CHANGED, SAME_CONTENT = 0.3, 0.35
PROBE_USERS = 200


@dataclass(frozen=True)
class Send:
    """One record to produce, `due` seconds after the start of its cell; its Kafka timestamp is the moment it was due."""

    due: float
    topic: str
    key: str
    value: bytes


@dataclass(frozen=True)
class Probe:
    """What an independent reader looks for: the item at `version` or above, or the behaviour in a current tier row."""

    due: float
    kind: str
    entity: str
    version: int = 0
    other: str = ""
    title: str = ""


@dataclass
class State:
    """Where an item stands at its producer."""

    content: Content
    version: int
    event_us: int


class Catalog:
    """Up to 10,000 items: those of examples/data, then variants of them under ids of their own.

    `searched` of them, with a title, are changed by search probes only: the vector a probe looks for stays the current one.
    """

    def __init__(self, count, *, searched, seed=1):
        self.random = random.Random(seed)
        rows = pq.read_table(DATA / "catalog.parquet").to_pylist()
        self.random.shuffle(rows)
        self.photos = [r["image"] for r in rows if r["image"] and not _has_text(r)]
        self.titles = [r["title"] for r in rows if r["title"]]
        self.items = {}
        now = int(time.time() * 1e6)
        for n in range(count):
            row, lap = rows[n % len(rows)], n // len(rows)
            name = row["item_id"] if not lap else f"{row['item_id']}.{lap}"
            fields = {k: row[k] for k in ("title", "description", "attributes", "image", "category", "price")}
            self.items[name] = State(self._changed(Content(**fields)) if lap else Content(**fields), 1, now)
        ids = list(self.items)
        self.searched = deque([n for n in ids if self.items[n].content.title][:searched])
        self.ordinary = [n for n in ids if n not in set(self.searched)]
        self._count = 0

    def _changed(self, content):
        """Other content of the same kind: another title, or another photo where there is no text."""
        if content.title or content.description or content.attributes:
            words = f"{self.random.choice(self.titles)} {self.random.choice(self.titles)}"
            return replace(content, title=words[:200])
        return replace(content, image=self.random.choice(self.photos))

    def change(self, name, us):
        """A new version of one item with other content, as an event."""
        state = self.items[name]
        self.items[name] = State(self._changed(state.content), state.version + 1, max(us, state.event_us + 1))
        return self.event(name)

    def same_content(self, name, us):
        """A new version with the content as it is."""
        state = self.items[name]
        self.items[name] = State(state.content, state.version + 1, max(us, state.event_us + 1))
        return self.event(name)

    def event(self, name):
        """The last event of one item, (again) as bytes."""
        state = self.items[name]
        self._count += 1
        event = ItemEvent(f"e{self._count}", name, state.version, state.event_us, False, state.content)
        return item_event_json(event)

    def encoder_items(self, ids):
        """Items as the encoder takes them."""
        return [
            Item(n, title=c.title, description=c.description, attributes=c.attributes, image=c.image)
            for n, c in ((n, self.items[n].content) for n in ids)
        ]

    def backlog(self, count, draw):
        """`count` events, each made by `draw(item, microseconds)`; no item comes twice before all came once."""
        at, chosen = int(time.time() * 1e6), []
        while len(chosen) < count:
            chosen += self.random.sample(self.ordinary, min(count - len(chosen), len(self.ordinary)))
        return [Send(0.0, names.TOPIC_ITEM_EVENTS, n, draw(n, at)) for n in chosen]

    def last_of_partitions(self, partitions):
        """(sends, probes): a change of one item in each partition, which is there once all before it is handled."""
        at, picked = int(time.time() * 1e6), {}
        for name in self.ordinary:
            picked.setdefault(partition_of(name, partitions), name)
        sends = [Send(0.0, names.TOPIC_ITEM_EVENTS, n, self.change(n, at)) for n in picked.values()]
        return sends, [Probe(0.0, "readable", n, self.items[n].version) for n in picked.values()]

    def repeat(self, name, _us):
        """The last event of one item again, byte for byte but for its id."""
        return self.event(name)

    def mixed(self, name, us):
        """An event of the fixed mix."""
        return self._drawn(name, us)[0]

    def _drawn(self, name, us):
        """(bytes, whether it must be encoded) of one event of the mix."""
        draw = self.random.random()
        if draw < CHANGED:
            return self.change(name, us), True
        if draw < CHANGED + SAME_CONTENT:
            return self.same_content(name, us), False
        return self.event(name), False


class Shoppers:
    """Users with the sequences of real ones; the first `PROBE_USERS` of them act as probes only."""

    def __init__(self, catalog, *, count=1_000, length=100, seed=2):
        self.random = random.Random(seed)
        self.catalog = catalog
        table = pq.read_table(DATA / "behaviours.parquet")
        found = {}
        for user, item, us in zip(
            table["user_id"].to_pylist(),
            table["item_id"].to_pylist(),
            table["event_timestamp"].cast("int64").to_pylist(),
            strict=True,
        ):
            if item in catalog.items and (user in found or len(found) < count):
                found.setdefault(user, []).append(Behaviour(us, item, "purchase"))
        self.sequences = {user: sorted(set(b))[-length:] for user, b in found.items()}
        # Who buys what, as often as they do.
        self.purchases = [(user, b.item_id) for user, rows in found.items() for b in rows]
        users = list(self.sequences)
        self.probes = users[:PROBE_USERS]
        # The item each probe user was shown: its tier row is the one that is looked at.
        self.shown = {user: self.random.choice(catalog.ordinary) for user in self.probes}
        self._count = 0
        self._turn = 0

    def impressions(self):
        """One per probe user, which puts the item into the user's candidate set."""
        now = int(time.time() * 1e6)
        return [self._send(0.0, user, item, "impression", now) for user, item in self.shown.items()]

    def draw(self, due, us):
        """Somebody buys what somebody bought: users and items as often as in the real purchases, probe users left out."""
        user, item = self.probes[0], self.random.choice(self.purchases)[1]
        while user in self.shown:
            user = self.random.choice(self.purchases)[0]
        return self._send(due, user, item, "purchase", us)

    def probe(self, due, us):
        """(send, probe): a purchase of the next probe user, and the tier row to watch."""
        user = self.probes[self._turn % len(self.probes)]
        self._turn += 1
        item = self.random.choice(self.purchases)[1]
        return self._send(due, user, item, "purchase", us), Probe(due, "tier", user, us, self.shown[user])

    def _send(self, due, user, item, action, us):
        self._count += 1
        event = BehaviourEvent(f"b{self._count}", user, item, action, us)
        return Send(due, names.TOPIC_BEHAVIOUR_EVENTS, user, behaviour_event_json(event))


@dataclass(frozen=True)
class Rates:
    """Events per second: item events of the mix, behaviours; and how many of each kind are watched."""

    items: float
    behaviours: float
    readable: float = 50.0
    searched: float = 2.0
    tiers: float = 4.0


def poisson(rate, seconds, draw):
    """Times of an open-loop stream in [0, seconds)."""
    at, times = 0.0, []
    while rate > 0 and (at := at + draw.expovariate(rate)) < seconds:
        times.append(at)
    return times


def cell(catalog, shoppers, rates, seconds):
    """(sends in order, probes) of one cell. Event times are those of a start two seconds from now; only their order matters."""
    draw, zero = catalog.random, int((time.time() + 2) * 1e6)
    kinds = [
        (poisson(rates.items - rates.searched, seconds, draw), "item"),
        (poisson(rates.searched, seconds, draw), "search"),
        (poisson(rates.behaviours, seconds, draw), "behaviour"),
        (poisson(rates.tiers, seconds, draw), "tier"),
    ]
    watched = min(1.0, rates.readable / max(1.0, rates.items * CHANGED))
    sends, probes = [], []
    for due, kind in sorted((at, kind) for times, kind in kinds for at in times):
        us = zero + int(due * 1e6)
        if kind == "item":
            name = draw.choice(catalog.ordinary)
            value, changed = catalog._drawn(name, us)
            sends.append(Send(due, names.TOPIC_ITEM_EVENTS, name, value))
            if changed and draw.random() < watched:
                probes.append(Probe(due, "readable", name, catalog.items[name].version))
        elif kind == "search":
            name = catalog.searched[0]
            catalog.searched.rotate(-1)
            sends.append(Send(due, names.TOPIC_ITEM_EVENTS, name, catalog.change(name, us)))
            probes.append(Probe(due, "search", name, catalog.items[name].version, title=catalog.items[name].content.title or ""))
        elif kind == "behaviour":
            sends.append(shoppers.draw(due, us))
        else:
            send, probe = shoppers.probe(due, us)
            sends.append(send)
            probes.append(probe)
    return sends, probes


def write_probes(path, probes):
    """As JSON lines, for the process that watches."""
    path.write_text("".join(json.dumps(asdict(p)) + "\n" for p in probes))


def write_sends(path, sends):
    """As JSON lines, for the process that sends."""
    with path.open("w") as out:
        for s in sends:
            out.write(json.dumps([s.due, s.topic, s.key, s.value.decode()], separators=(",", ":")) + "\n")


def partition_of(key, partitions):
    """Where Kafka's default partitioner puts a key."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def _has_text(row):
    return bool(row["title"] or row["description"] or row["attributes"])
