"""What `RankingClient.features` promises, over the in-memory store."""

import numpy as np
import pyarrow as pa
import pytest

from moontide import Embeddings, Misconfigured, Poison, SpaceMismatch, schemas, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.reading import StoreVectors
from tests.served_rows import NOW, TOML, fill, rows_of

pytestmark = pytest.mark.unit


@pytest.fixture
def live(tmp_path):
    (tmp_path / "spaces.toml").write_text(TOML)
    return load_spaces(tmp_path / "spaces.toml")


@pytest.fixture
def client(tmp_path, live):
    store = online_store(Settings(home=tmp_path, online="memory", project=tmp_path.name.replace("-", "_").lower()))
    fill(store, live)
    with RankingClient(store, live) as opened:
        opened.store = store
        yield opened


def test_one_row_per_candidate_in_order_with_everything_the_service_names(client):
    table = client.features("u", ["b", "nobody", "a", "b"])
    assert table.column_names == ["item_id", "embedding", "embedding_present", "counts", "missing", "price", "category"]
    assert table.column("item_id").to_pylist() == ["b", "nobody", "a", "b"]
    assert table.column("embedding_present").to_pylist() == [True, False, True, True]
    assert table.column("embedding").to_pylist()[1] is None
    assert table.column("price").to_pylist() == [None, None, 1.5, None]
    assert table.column("category").to_pylist() == [None, None, "hats", None]
    # the last three behaviours are a, b and one without a vector; a candidate's own behaviour is dropped
    assert table.column("missing").to_pylist() == [1, 3, 1, 1]
    assert [sum(c) for c in table.column("counts").to_pylist()] == [1, 0, 1, 1]
    assert table.schema.metadata[b"space"] == b"moon_v1"
    assert table.schema.metadata[b"simtier"] == b"moon_v1_n10_l3_drop"


def test_unknown_user_and_no_candidates(client):
    table = client.features("stranger", ["a"])
    assert table.column("missing").to_pylist() == [0] and sum(table.column("counts").to_pylist()[0]) == 0
    empty = client.features("u", [])
    assert empty.num_rows == 0 and empty.column_names == table.column_names


def test_bad_service_and_bad_ids(client):
    with pytest.raises(Misconfigured, match="ctr_v9"):
        client.features("u", ["a"], service="ctr_v9")
    with pytest.raises(Poison, match="item_id"):
        client.features("u", ["a'; drop"])
    with pytest.raises(Poison, match="user_id"):
        client.features("", ["a"])


def test_vectors_of_another_encoder_are_refused(tmp_path, client):
    text = TOML.replace("dim = 8", 'dim = 8\nencoder_digest = "sha256:' + "a" * 64 + '"')
    (tmp_path / "other.toml").write_text(text)
    other = RankingClient(client.store, load_spaces(tmp_path / "other.toml"))
    with pytest.raises(SpaceMismatch):
        other.features("u", ["a"])


def test_repeated_requests_give_the_same_table(client):
    assert client.features("u", ["a", "c"]).equals(client.features("u", ["a", "c"]))


def test_vector_and_fields_are_deleted_each_by_their_own_tombstone(client, live):
    space, later = live.space("moon_v1"), NOW + 1
    times = {"event_timestamp": later, "encoded_at": later, "content_known_at": later}
    gone = embedding_rows(Embeddings.absent(space, 1, ids=["a"]), source_version=2, deleted=np.ones(1, bool), **times)
    client.store.write_rows(views.embedding_view(space), gone)
    stamp = pa.array([later], schemas.TIMESTAMP)
    features = rows_of(
        schemas.ITEM_FEATURES, item_id=["b"], source_version=[2], event_timestamp=stamp, created=stamp,
        deleted=[True], price=[9.5], category=["hats"], has_image=[True], has_text=[True],
    )  # fmt: skip
    client.store.write_rows(views.item_features(), features)
    table = client.features("u", ["a", "b"])
    assert table.column("embedding_present").to_pylist() == [False, True]
    assert table.column("embedding").null_count == 1 and table.column("embedding").to_pylist()[1] is not None
    assert table.column("price").to_pylist() == [1.5, None] and table.column("category").to_pylist() == ["hats", None]
    assert table.column("missing").to_pylist()[0] == 2  # its own behaviour is dropped


@pytest.mark.parametrize(
    "ids", [tuple, iter, np.array, pa.array, lambda i: pa.chunked_array([i[:1], i[1:]]), lambda i: np.array(i, object)]
)
def test_any_iterable_of_ids_gives_the_same_table(client, ids):
    for wanted in (["b", "a"], ["b"]):
        assert client.features("u", ids(wanted)).equals(client.features("u", wanted))
    assert client.features("u", pa.array([], pa.string())).num_rows == 0


@pytest.mark.parametrize("wrong", ["abc", b"abc", np.array("abc"), 7, None])
def test_one_string_is_not_a_list_of_ids(client, wrong):
    with pytest.raises(TypeError, match="pass \\[item_id\\]"):
        client.features("u", wrong)
    with pytest.raises(Poison, match="item_id"):
        client.features("u", pa.array(["a", None]))


def test_a_sequence_has_its_vectors_and_the_version_of_the_features(client):
    table = client.sequence("u")
    assert table.column_names == ["item_id", "action", "event_timestamp", "embedding", "embedding_present"]
    assert table.column("item_id").to_pylist() == ["d", "a", "b", "gone"]
    assert table.column("event_timestamp").cast(pa.int64()).to_pylist() == [1, 2, 3, 4]
    assert table.column("embedding_present").to_pylist() == [True, True, True, False]
    features = client.features("u", ["d", "a"])
    assert table.column("embedding").to_pylist()[:2] == features.column("embedding").to_pylist()
    assert table.column("embedding").to_pylist()[3] is None
    assert table.schema.metadata == features.schema.metadata
    assert client.sequence("u", length=2).column("item_id").to_pylist() == ["b", "gone"]
    assert client.sequence("u", length=9).equals(table)
    assert client.sequence("stranger").num_rows == 0
    assert client.sequence("stranger").schema.field("embedding").type == table.schema.field("embedding").type


def test_a_sequence_of_nobody_no_service_and_no_length_is_refused(client):
    with pytest.raises(Misconfigured, match="ctr_v9"):
        client.sequence("u", service="ctr_v9")
    with pytest.raises(Misconfigured, match="1 or more"):
        client.sequence("u", length=0)
    with pytest.raises(Poison, match="user_id"):
        client.sequence("a b")


def test_similar_gives_the_nearest_others_of_the_services_space(client):
    found = client.similar("a", k=2)
    assert found.column_names == ["item_id", "cosine"]
    assert found["item_id"].to_pylist() == ["b", "c"]
    assert found["cosine"].to_pylist()[0] == found["cosine"].to_pylist()[1]
    assert found.schema.metadata[b"source"] == b"scan"
    assert client.similar("a", k=9, space_id="moon_v1")["item_id"].to_pylist() == ["b", "c", "d"]
    with pytest.raises(Misconfigured):
        client.similar("a", space_id="moon_v9")
    with pytest.raises(Misconfigured):
        client.similar("a", service="ctr_v9")
    with pytest.raises(Poison):
        client.similar("nobody")


def test_a_twin_reads_the_same_and_logs_nothing(client):
    class Log:
        def sampled(self):
            raise AssertionError("asked whether to log")

    client._log = Log()
    with pytest.raises(AssertionError):
        client.features("u", ["a"])
    twin = client.unlogged()
    client._log = None
    assert twin.features("u", ["a", "b"]).equals(client.features("u", ["a", "b"]))
    assert twin.similar("a").equals(client.similar("a"))


def test_warming_up_reads_the_vectors_and_logs_nothing(client, monkeypatch):
    monkeypatch.setattr("gc.freeze", lambda: None)
    asked = []

    class Log:
        def sampled(self):
            raise AssertionError("asked whether to log")

    class Watched(StoreVectors):
        def read_keyed(self, space, *ids):
            asked.append(space.id)
            return super().read_keyed(space, *ids)

    client._log, client._vectors = Log(), Watched(client.store)
    client.warm_up()
    assert set(asked) == {"moon_v1"}
