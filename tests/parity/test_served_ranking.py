"""A score from the online store is the score of the same row of a training set made as of that moment."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import training_set
from moontide import Embeddings, schemas, views
from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.live import load_spaces
from moontide.pit.training_set import read_training_set
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.offline import OfflineTables
from ranking import export, train
from ranking.config import load_config
from ranking.fit import Fitted, Trial, score
from ranking.models.make import MultimodalDin
from ranking.prepare import prepare
from ranking.served import READS, RankingModel
from ranking.stages import new_model, parts_of
from serving import RankingClient

pytestmark = pytest.mark.parity
HOUR = 3_600_000_000
START = int(datetime(2021, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
NOW = START + 100 * 24 * HOUR
DIM, LENGTH = 8, 6
ITEMS = [f"i{n:02d}" for n in range(40)]
USERS = [f"u{n:02d}" for n in range(25)]
DIGEST = "sha256:" + "7" * 64
SPACES = f"""
[[space]]
name = "moon"
version = 1
dim = {DIM}
encoder_digest = "{DIGEST}"
[[simtier]]
space = "moon_v1"
tiers = 10
length = {LENGTH}
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l{LENGTH}_drop"
item_fields = ["price"]
"""
CONFIG = """
[data]
days = ["2021-05-01", "2021-05-15", "2021-06-30"]
drop = ["sales_30_days", "sales_7_days", "sales_ever", "age_days", "has_image", "has_text"]
[sizes]
width = 8
attention = 8
hidden = [8, 6]
[fit]
epochs = 1
[make]
epochs = 1
[models.id]
[models.everything]
attention = "sata"
sides = ["simtier", "raw", "similarity", "make"]
tiers = 10
[models.shuffled]
sides = ["raw"]
shuffle = true
"""


def stamps(times):
    return pa.array(np.asarray(times, np.int64)).cast(schemas.TIMESTAMP)


class Site:
    """Offline tables and an LMDB store with the same rows; behaviours, labels of the past, and labels of now."""

    def __init__(self, folder):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        (self.home / "spaces.toml").write_text(SPACES)
        (folder / "tiny.toml").write_text(CONFIG)
        self.live = load_spaces(self.home / "spaces.toml")
        self.draw = np.random.default_rng(5)
        self.store = online_store(Settings(home=self.home, online="lmdb"))
        self.client = RankingClient(self.store, self.live)
        self.fill()
        self.acts = self.behaviours()
        self.write_sequences()
        # Mixed users and times in the past, and three users with every item at one moment.
        past = [(u, i, t) for u in USERS for t in self.draw.integers(30 * 24, 95 * 24, 6) for i in self.draw.choice(ITEMS, 4)]
        self.labels("past", [(u, i, START + int(t) * HOUR + 7) for u, i, t in past])
        self.labels("now", [(u, i, NOW) for u in [*USERS[:3], "stranger"] for i in ITEMS])

    def fill(self):
        space, tables = self.live.space("moon_v1"), OfflineTables(self.home / "offline")
        vectors = Embeddings.from_float(space, self.draw.normal(size=(len(ITEMS) - 4, DIM)), ids=ITEMS[4:])
        first = embedding_rows(vectors, source_version=1, event_timestamp=START, encoded_at=START, content_known_at=START)
        # Some vectors changed, and one item was taken down.
        again = Embeddings.from_float(space, self.draw.normal(size=(3, DIM)) * [[1], [1], [0]], ids=ITEMS[4:7])
        deleted = np.array([False, False, True])
        later = START + 60 * 24 * HOUR
        second = embedding_rows(
            again, source_version=2, event_timestamp=later, encoded_at=NOW, content_known_at=later, deleted=deleted
        )  # fmt: skip
        stamp = stamps([START] * len(ITEMS))
        columns = {
            "item_id": ITEMS, "source_version": [1] * len(ITEMS), "event_timestamp": stamp, "created": stamp,
            "deleted": [n == 11 for n in range(len(ITEMS))], "price": [None if n % 7 == 0 else n / 4 for n in range(len(ITEMS))],
            "category": [None] * len(ITEMS), "has_image": [True] * len(ITEMS), "has_text": [True] * len(ITEMS),
        }  # fmt: skip
        fields = pa.table([pa.array(columns[f.name], f.type) for f in schemas.ITEM_FEATURES], schema=schemas.ITEM_FEATURES)
        for view, rows in (
            (views.embedding_view(space), first),
            (views.embedding_view(space), second),
            (views.item_features(), fields),
        ):
            tables.append(view, rows, writer=f"w{rows.num_rows}")
            self.store.write_rows(view, rows)

    def behaviours(self):
        found = {
            (u, str(i), START + int(t) * HOUR)
            for u in USERS[1:] for i, t in zip(self.draw.choice(ITEMS, 12), self.draw.integers(0, 99 * 24, 12), strict=True)
        }  # fmt: skip
        rows = sorted(found)
        columns = [[r[0] for r in rows], [r[1] for r in rows], ["buy"] * len(rows), stamps([r[2] for r in rows])]
        pq.write_table(pa.table(columns, schema=schemas.BEHAVIOURS), self.folder / "behaviours.parquet")
        return rows

    def write_sequences(self):
        for user in USERS:
            mine = [r for r in self.acts if r[0] == user]
            if not mine:
                continue
            one = stamps([NOW - 1])
            rows = {
                "user_id": [user], "event_timestamp": one, "created": one, "item_ids": [[r[1] for r in mine]],
                "actions": [["buy"] * len(mine)], "times": [[r[2] for r in mine]], "sequence_version": [0],
            }  # fmt: skip
            table = pa.table([pa.array(rows[f.name], f.type) for f in schemas.USER_SEQUENCE], schema=schemas.USER_SEQUENCE)
            self.store.write_rows(views.user_sequence(), table)

    def labels(self, name, rows):
        label = self.draw.integers(0, 2, len(rows)).astype(np.float32)
        columns = {
            "user_id": [r[0] for r in rows], "item_id": [str(r[1]) for r in rows], "event_timestamp": stamps([r[2] for r in rows]),
            "label": label, "request_id": [f"{r[0]}-{r[2]}" for r in rows],
        }  # fmt: skip
        table = pa.table([pa.array(columns[f.name], f.type) for f in schemas.IMPRESSIONS], schema=schemas.IMPRESSIONS)
        pq.write_table(table, self.folder / f"{name}.parquet")
        code = training_set.main(
            ["--home", str(self.home), "--impressions", str(self.folder / f"{name}.parquet"), "--engine", "single",
             "--behaviours", str(self.folder / "behaviours.parquet"), "--spec", f"moon_v1_n10_l{LENGTH}_drop",
             "--out", str(self.folder / name)]
        )  # fmt: skip
        assert code == 0

    def export(self, model):
        weights, out = self.folder / f"{model}.safetensors", self.folder / f"served-{model}"
        common = ["--config", str(self.folder / "tiny.toml"), "--data", str(self.folder / "past"), "--model", model]
        common += ["--length", str(LENGTH)]
        assert train.main([*common, "--save", str(weights), "--json", str(self.folder / f"{model}.json")]) == 0
        assert export.main([*common, "--weights", str(weights), "--out", str(out)]) == 0
        return out


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def folder(site):
    return site.export("everything")


@pytest.fixture(scope="module")
def model(folder):
    return RankingModel.load(folder)


def offline_logits(site, name):
    """Torch's logits of the labels of now, from their training set; rows of items as the model learnt them."""
    config = load_config(site.folder / "tiny.toml")
    chosen = config.model(name)
    restored, _ = export.restore(
        config, name, site.folder / "past", site.folder / f"{name}.safetensors", vectors=None, length=LENGTH
    )
    past, now = read_training_set(site.folder / "past"), read_training_set(site.folder / "now")
    rows = {item: row for row, item in enumerate(past.item_ids)}
    place = np.array([rows[item] for item in now.item_ids])
    now = dataclasses.replace(
        now, item_ids=past.item_ids, item=place[now.item],
        history_items=place[now.history_items] if len(now.history_items) else now.history_items,
    )  # fmt: skip
    # Two more days make the three parts of a split; only the labels of now are scored.
    now = dataclasses.replace(now, request_time=np.resize([1, 3, 5], len(now.request_time)).astype(np.int64))
    days = ["1970-01-01T00:00:00.000002", "1970-01-01T00:00:00.000004", "1970-01-01T00:00:00.000006"]
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, days=tuple(days)))
    trial = Trial(prepare(now, config, chosen, length=LENGTH), 0, lambda text: None)
    made = Fitted(MultimodalDin(parts_of(trial, config, chosen)), ()) if "make" in chosen.sides else None
    again = new_model(trial, config, chosen, made)
    again.load_state_dict(restored.state_dict())
    logits = score(again, trial.examples, np.arange(len(now)))
    users = [now.user_ids[now.request_user[r]] for r in now.request]
    return {(u, now.item_ids[i]): float(x) for u, i, x in zip(users, now.item, logits, strict=True)}


@pytest.mark.parametrize("name", ["everything", "id"])
def test_the_store_gives_the_scores_of_the_training_set_as_of_now(site, name, request):
    served = RankingModel.load(request.getfixturevalue("folder") if name == "everything" else site.export("id"))
    wanted = offline_logits(site, name)
    for user in [*USERS[:3], "stranger"]:
        got = served.score(site.client, user, ITEMS)
        assert np.abs(got - [wanted[user, item] for item in ITEMS]).max() < 1e-5
    spread = np.std([wanted[USERS[1], item] for item in ITEMS])
    assert spread > 1e-3


def test_order_repeats_strangers_and_nobody(site, model):
    whole = dict(zip(ITEMS, model.score(site.client, USERS[1], ITEMS), strict=True))
    asked = ["i09", "i05", "i09", "i30"]
    assert model.score(site.client, USERS[1], asked) == pytest.approx([whole[i] for i in asked], abs=1e-5)
    assert model.score(site.client, USERS[1], ["i09"]) == pytest.approx([whole["i09"]], abs=1e-5)
    assert model.score(site.client, USERS[1], []).shape == (0,)
    strange = model.score(site.client, USERS[1], ["never-heard-of", "nor-of-this"])
    assert strange[0] == pytest.approx(strange[1]) and np.isfinite(strange).all()


class Other:
    """A client whose answers are changed on the way."""

    def __init__(self, client, **metadata):
        self._client, self._metadata, self.asked = client, metadata, 0

    def features(self, user_id, item_ids, *, service):
        self.asked += 1
        table = self._client.features(user_id, item_ids, service=service)
        return table.replace_schema_metadata({**table.schema.metadata, **{k.encode(): v for k, v in self._metadata.items()}})

    def sequence(self, user_id, *, service, length):
        return self._client.sequence(user_id, service=service, length=length)


@pytest.mark.parametrize("said", [{"encoder_digest": "sha256:" + "1" * 64}, {"space": "moon_v2"}])
def test_vectors_of_another_encoder_are_refused(site, model, said):
    with pytest.raises(SpaceMismatch, match="expected space moon_v1"):
        model.score(Other(site.client, **said), USERS[1], ITEMS)


def test_other_tiers_are_refused_where_the_model_reads_tiers(site, model):
    other = Other(site.client, simtier="moon_v1_n20_l6_drop")
    with pytest.raises(Misconfigured, match="expected tiers moon_v1_n10_l6_drop"):
        model.score(other, USERS[1], ITEMS)
    assert len(RankingModel.load(site.folder / "served-id").score(other, USERS[1], ITEMS)) == len(ITEMS)


def test_a_user_who_acts_at_every_read_is_transient(site, model):
    other = Other(site.client, sequence_version="1")
    with pytest.raises(Transient, match="ask again"):
        model.score(other, USERS[1], ITEMS)
    assert other.asked == READS


def test_scalars_that_the_store_does_not_hold_come_from_the_caller(site, model):
    with pytest.raises(Misconfigured, match=r"expected scalars \[\] from the caller, got \['sales_ever'\]"):
        model.score(site.client, USERS[1], ITEMS, scalars={"sales_ever": np.zeros(len(ITEMS), np.float32)})
    model = RankingModel.load(site.folder / "served-everything")
    model.contract = dataclasses.replace(model.contract, scalars=("sales_ever", *model.contract.scalars[1:]))
    with pytest.raises(Misconfigured, match=r"expected scalars \['sales_ever'\] from the caller, got \[\]"):
        model.score(site.client, USERS[1], ITEMS)
    with pytest.raises(Misconfigured, match=r"expected scalars of shape \(40,\)"):
        model.score(site.client, USERS[1], ITEMS, scalars={"sales_ever": np.zeros(3, np.float32)})
    model.score(site.client, USERS[1], ITEMS, scalars={"sales_ever": np.zeros(len(ITEMS), np.float32)})
    model.contract = dataclasses.replace(model.contract, scalars=("has_image", *model.contract.scalars[1:]))
    with pytest.raises(Misconfigured, match="add them to item_fields"):
        model.score(site.client, USERS[1], ITEMS)


def test_the_manifest_says_what_must_be_served(folder):
    body = json.loads((folder / "manifest.json").read_text())
    assert body["space"] == {"name": "moon", "version": 1, "dim": DIM, "encoder_digest": DIGEST, "prefix_of": 0}
    assert (body["space_id"], body["simtier"], body["length"], body["tiers"]) == (
        "moon_v1",
        f"moon_v1_n10_l{LENGTH}_drop",
        LENGTH,
        10,
    )
    assert set(body["scalars"]) == {"history_length", "bought_before", "price"}
    assert body["opset"] == 18
    assert body["largest_difference_from_torch"] <= 1e-5
    seen = pq.read_table(folder / "items.parquet")
    past = read_training_set(folder.parent / "past")
    assert [past.item_ids[row - 1] for row in seen["row"].to_pylist()] == seen["item_id"].to_pylist()


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("model.onnx", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "expected digest"),
        ("items.parquet", lambda data: data + b" ", "expected digest"),
        ("manifest.json", lambda data: data.replace(b'"length": 6', b'"length": 7'), "expected digest"),
        ("manifest.json", lambda data: b"[]", "expected a JSON object"),
        ("items.parquet", None, "items.parquet: FileNotFoundError"),
    ],
)
def test_a_folder_that_was_changed_is_refused(folder, tmp_path, name, spoil, said):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if spoil is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
    with pytest.raises(Misconfigured, match=said):
        RankingModel.load(tmp_path)


def test_what_cannot_be_served_is_not_exported(site, folder, capsys):
    common = ["--config", str(site.folder / "tiny.toml"), "--data", str(site.folder / "past"), "--length", str(LENGTH)]
    weights = ["--weights", str(site.folder / "everything.safetensors")]
    assert export.main([*common, *weights, "--model", "id", "--out", str(site.folder / "x")]) == 1
    assert "expected those of this model" in capsys.readouterr().err
    other = [*common, *weights, "--model", "everything", "--set", "fit.epochs=2", "--out", str(site.folder / "x")]
    assert export.main(other) == 1
    assert "give the data, config and length of the training" in capsys.readouterr().err
    (site.folder / "mine").mkdir()
    (site.folder / "mine" / "letter").write_text("x")
    assert export.main([*common, *weights, "--model", "everything", "--out", str(site.folder / "mine")]) == 1
    assert "choose another --out" in capsys.readouterr().err
    shuffled = site.folder / "shuffled.safetensors"
    run = [*common, "--model", "shuffled"]
    assert train.main([*run, "--save", str(shuffled), "--json", str(site.folder / "s.json")]) == 0
    assert export.main([*run, "--weights", str(shuffled), "--out", str(site.folder / "x")]) == 1
    assert "shuffled" in capsys.readouterr().err
    assert not (site.folder / "x").exists()


def test_serving_imports_no_torch():
    code = "import sys, ranking.served; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_prints_ten_titles_and_the_time_of_each_part(site, folder, capsys):
    spec = importlib.util.spec_from_file_location("rank_request", Path(__file__).parents[2] / "examples" / "rank_request.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    place = site.folder
    (place / "served").symlink_to(folder)
    pq.write_table(pa.table({"item_id": ITEMS, "title": [f"TITLE {item}" for item in ITEMS]}), place / "catalog.parquet")
    assert example.main(["--site", str(place), "--user", USERS[1], "--candidates", "15", "--repeat", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    behaviours = pq.read_table(place / "behaviours.parquet")
    recent = example.popular(behaviours, 15)
    scores = dict(zip(recent, RankingModel.load(folder).score(site.client, USERS[1], recent), strict=True))
    best = sorted(recent, key=lambda item: -scores[item])[:10]
    assert [line.split()[2:] for line in lines[1:11]] == [[item, "TITLE", item] for item in best]
    assert lines[0] == f"user {USERS[1]}: {LENGTH} behaviours read, {len(recent)} candidates"
    assert lines[11].startswith("median of 2, one thread: features ")
    since = max(r[2] for r in site.acts) - 30 * 24 * HOUR
    sold = Counter(r[1] for r in site.acts if r[2] > since)
    assert [sold[item] for item in recent] == sorted(sold.values(), reverse=True)[:15]
    assert example.a_user(behaviours) == USERS[1]
