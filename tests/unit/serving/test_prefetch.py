"""What `prefetch` keeps, for whom and how long; and that features are the same however the user side came."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moontide import Embeddings, Misconfigured, Poison, Transient, schemas, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.row_index import strings
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.prefetch import Prefetch, PrefetchCache
from serving.prefetch_folder import PrefetchFolder
from serving.prefetch_key import PrefetchKey

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
NOW = 1_700_000_000_000_000
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
[[simtier]]
space = "moon_v1"
tiers = 10
length = 4
[[simtier]]
space = "moon_v1"
tiers = 20
length = 4
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l4_drop"
[[service]]
name = "ctr_v2"
space = "moon_v1"
simtier = "moon_v1_n20_l4_drop"
"""


class World:
    """A site in memory whose reads are counted, with a clock one sets."""

    def __init__(self, folder):
        self.now, self.reads = 100.0, 0
        (folder / "spaces.toml").write_text(TOML)
        self.live = load_spaces(folder / "spaces.toml")
        self.store = online_store(Settings(home=folder, online="memory"))
        space = self.live.space("moon_v1")
        self.put("abcd", 1)
        one = pa.array([NOW] * 2, schemas.TIMESTAMP)
        sequences = {
            "user_id": ["u", "v"], "event_timestamp": one, "created": one, "item_ids": [["d", "a", "a", "b", "gone"], ["c"]],
            "actions": [["buy"] * 5, ["buy"]], "times": [[1, 2, 3, 4, 5], [1]], "sequence_version": [0, 0],
        }  # fmt: skip
        self.store.write_rows(
            views.user_sequence(), pa.table([sequences[f.name] for f in schemas.USER_SEQUENCE], schema=schemas.USER_SEQUENCE)
        )
        self.space = space
        ask = self.store.read_sequences

        def counted(view, ids):
            self.reads += 1
            return ask(view, ids)

        self.store.read_sequences = counted

    def put(self, ids, version):
        space = self.live.space("moon_v1")
        rng = np.random.default_rng(version)
        vectors = Embeddings.from_float(space, rng.normal(size=(len(ids), 8)), ids=list(ids))
        times = {"event_timestamp": NOW + version, "encoded_at": NOW, "content_known_at": NOW}
        self.store.write_rows(views.embedding_view(space), embedding_rows(vectors, source_version=version, **times))

    def clock(self):
        return self.now

    def client(self, **limits):
        return RankingClient(self.store, self.live, prefetched=PrefetchCache(self.clock, **limits))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


CANDIDATES = ["b", "nobody", "a", "b", "gone"]


def outcome(features):
    return features.metadata["prefetch"]


def assert_equal(one, other):
    assert (one.counts == other.counts).all() and (one.missing == other.missing).all()
    assert (one.embeddings == other.embeddings).all() and (one.present == other.present).all()
    assert one.metadata["sequence_version"] == other.metadata["sequence_version"]


@pytest.mark.parametrize("candidates", [[], ["a"], CANDIDATES])
def test_a_hit_gives_the_same_features_without_reading_the_sequence(world, candidates):
    client = world.client()
    plain = client.read("u", candidates)
    assert outcome(plain) == "off" and outcome(client.read("u", candidates, request_id="r0")) == "miss"
    client.prefetch("u", request_id="r1")
    world.reads = 0
    for _ in range(2):
        found = client.read("u", candidates, request_id="r1")
        assert outcome(found) == "hit" and world.reads == 0
        assert_equal(found, plain)
    assert client.features("u", candidates, request_id="r1").schema.metadata[b"prefetch"] == b"hit"


def test_another_user_or_service_is_a_miss(world):
    client = world.client()
    client.prefetch("u", request_id="r")
    assert_equal(client.read("v", CANDIDATES, request_id="r"), client.read("v", CANDIDATES))
    assert outcome(client.read("v", CANDIDATES, request_id="r")) == "miss"
    other = client.read("u", CANDIDATES, request_id="r", service="ctr_v2")
    assert outcome(other) == "miss" and other.counts.shape == (5, 20)
    assert outcome(client.read("u", CANDIDATES, request_id="r")) == "hit"


def test_what_is_too_old_is_read_again(world):
    client = world.client(seconds=2)
    client.prefetch("u", request_id="r")
    world.put("ab", 2)
    world.now += 2
    assert outcome(client.read("u", CANDIDATES, request_id="r")) == "hit"
    world.now += 0.1
    again = client.read("u", CANDIDATES, request_id="r")
    assert outcome(again) == "stale"
    assert_equal(again, client.read("u", CANDIDATES))
    client.prefetch("v", request_id="other")  # frees what is stale
    assert outcome(client.read("u", CANDIDATES, request_id="r")) == "stale"


def test_what_was_read_before_the_clock_began_anew_is_stale(world, tmp_path):
    first, second = (world.client(folder=PrefetchFolder(tmp_path / "ahead")) for _ in range(2))
    first.prefetch("u", request_id="r")
    world.now = 1.0
    assert [outcome(client.read("u", CANDIDATES, request_id="r")) for client in (first, second)] == ["stale"] * 2


def test_a_folder_that_vanishes_is_made_again(world, tmp_path):
    folder = PrefetchFolder(tmp_path / "ahead")
    first, second = world.client(folder=folder), world.client(folder=folder)
    shutil.rmtree(tmp_path / "ahead")
    world.now += 3  # a purge is due
    first.prefetch("u", request_id="lost")
    assert (tmp_path / "ahead").stat().st_mode & 0o777 == 0o700
    first.prefetch("u", request_id="r")
    assert [outcome(second.read("u", [], request_id=name)) for name in ("lost", "r")] == ["miss", "hit"]


def test_the_oldest_of_too_many_is_forgotten(world):
    client = world.client(entries=2)
    for name in "rst":
        client.prefetch("u", request_id=name)
    assert [outcome(client.read("u", [], request_id=name)) for name in "rst"] == ["miss", "hit", "hit"]


class Slow:
    """Vectors that come when a test lets them."""

    def __init__(self, store):
        self.store, self.begun, self.go = store, threading.Event(), threading.Event()

    def read_keyed(self, space, *parts):
        self.begun.set()
        assert self.go.wait(10)
        ids = [item for part in parts for item in strings(part)]
        found = self.store.read_embeddings(space, ids)
        return found, np.unique(np.array(ids, object), return_inverse=True)[1]


@pytest.mark.parametrize("in_time", [True, False])
def test_what_is_still_being_read_is_waited_for_a_short_time(world, in_time):
    slow = Slow(world.store)
    cache = PrefetchCache(world.clock, wait_seconds=10 if in_time else 0)
    ahead, plain = (RankingClient(world.store, world.live, vectors=v, prefetched=cache) for v in (slow, None))
    thread = threading.Thread(target=ahead.prefetch, args=("u",), kwargs={"request_id": "r"})
    thread.start()
    assert slow.begun.wait(10)
    world.reads = 0
    if in_time:
        threading.Timer(0.02, slow.go.set).start()
    found = plain.read("u", CANDIDATES, request_id="r")
    slow.go.set()
    thread.join(10)
    assert outcome(found) == "late" and world.reads == (0 if in_time else 1)
    assert_equal(found, plain.read("u", CANDIDATES))
    assert outcome(plain.read("u", CANDIDATES, request_id="r")) == "hit"


def test_a_read_that_failed_leaves_nothing(world):
    cache = PrefetchCache(world.clock)
    key = PrefetchKey("r", "u", world.live.service("ctr_v1"))

    def fail():
        raise Transient("no answer")

    with pytest.raises(Transient):
        cache.fill(key, fail)
    assert cache.take(key) == (None, Prefetch.MISS)


def test_ids_and_limits_are_checked(world):
    client = world.client()
    for user, request in (("a b", "r"), ("u", ""), ("u", "x" * 65)):
        with pytest.raises(Poison):
            client.prefetch(user, request_id=request)
    with pytest.raises(Misconfigured, match="ctr_v9"):
        client.prefetch("u", request_id="r", service="ctr_v9")
    for limits in ({"entries": 0}, {"seconds": -1}, {"wait_seconds": -1}):
        with pytest.raises(Misconfigured, match="prefetch"):
            PrefetchCache(world.clock, **limits)
    RankingClient(world.store, world.live).prefetch("u", request_id="r")


def test_a_folder_carries_it_to_another_worker(world, tmp_path):
    first, second, apart = (
        world.client(**({"folder": PrefetchFolder(tmp_path / "ahead")} if shared else {})) for shared in (True, True, False)
    )
    first.prefetch("u", request_id="r")
    world.reads = 0
    found = second.read("u", CANDIDATES, request_id="r")
    assert outcome(found) == "hit" and world.reads == 0
    assert_equal(found, first.read("u", CANDIDATES))
    assert outcome(apart.read("u", CANDIDATES, request_id="r")) == "miss"
    assert outcome(second.read("v", CANDIDATES, request_id="r")) == "miss"
    assert outcome(second.read("u", CANDIDATES, request_id="r", service="ctr_v2")) == "miss"
    world.now += 3
    assert outcome(second.read("u", CANDIDATES, request_id="r")) == "stale"
    first.prefetch("stranger", request_id="nobody")
    empty = second.read("stranger", CANDIDATES, request_id="nobody")
    assert outcome(empty) == "hit" and not empty.missing.any()


def test_a_space_of_another_encoder_is_a_miss(world, tmp_path):
    folder = PrefetchFolder(tmp_path / "ahead")
    world.client(folder=folder).prefetch("u", request_id="r")
    (tmp_path / "other.toml").write_text(TOML.replace("dim = 8", 'dim = 8\nencoder_digest = "sha256:' + "a" * 64 + '"'))
    service = load_spaces(tmp_path / "other.toml").service("ctr_v1")
    assert folder.get(PrefetchKey("r", "u", service)) is None
    assert folder.get(PrefetchKey("r", "u", world.live.service("ctr_v1"))) is not None


def test_a_damaged_file_is_as_good_as_none(world, tmp_path):
    client = world.client(folder=PrefetchFolder(tmp_path / "ahead"))
    other = world.client(folder=PrefetchFolder(tmp_path / "ahead"))
    client.prefetch("u", request_id="r")
    (file,) = (tmp_path / "ahead").iterdir()
    whole = file.read_bytes()
    assert len(file.name) == 32 and file.stat().st_mode & 0o777 == 0o600
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        assert outcome(other.read("u", ["a"], request_id="r")) == "miss"
    for text in (whole + b"x", b"x" + whole[1:], whole[:8] + b"\2" + whole[9:]):
        file.write_bytes(text)
        assert outcome(other.read("u", ["a"], request_id="r")) == "miss"
    file.write_bytes(whole)
    assert outcome(other.read("u", ["a"], request_id="r")) == "hit"


def test_old_files_and_too_many_are_removed(world, tmp_path):
    folder = PrefetchFolder(tmp_path / "ahead", entries=3)
    client = world.client(folder=folder)
    for name in "rst":
        client.prefetch("u", request_id=name)
    for age, path in enumerate(sorted((tmp_path / "ahead").iterdir())):
        os.utime(path, (1_000 - 50 * age, 1_000 - 50 * age))
    folder.purge(60)
    assert len(list((tmp_path / "ahead").iterdir())) == 2
    world.now += 3  # a purge is due
    client.prefetch("u", request_id="new")
    assert len(list((tmp_path / "ahead").iterdir())) == 1


def test_a_folder_that_others_can_open_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    for name in ("open", "file/below"):
        with pytest.raises(Misconfigured, match="shared memory"):
            PrefetchFolder(tmp_path / name)


def test_another_process_finds_it(world, tmp_path):
    world.client(folder=PrefetchFolder(tmp_path / "ahead")).prefetch("u", request_id="r")
    code = (
        "import sys; from pathlib import Path; from moontide.live import load_spaces\n"
        "from serving.prefetch_folder import PrefetchFolder; from serving.prefetch_key import PrefetchKey\n"
        "service = load_spaces(Path(sys.argv[1])).service('ctr_v1')\n"
        "ahead, started = PrefetchFolder(Path(sys.argv[2])).get(PrefetchKey('r', 'u', service))\n"
        "print(started, list(ahead.ids), ahead.side.sequence_version, ahead.side.history.present.tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "spaces.toml"), str(tmp_path / "ahead")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    version = world.store.read_sequences(views.user_sequence(), ["u"])[0].version
    assert done.stdout.strip() == f"100.0 ['a', 'a', 'b', 'gone'] {version} [True, True, True, False]"
