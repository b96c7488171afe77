"""Feast values to columns and back, and how Feast views bind to the store's."""

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from feast import FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Float32, Int64, String, UnixTimestamp
from hypothesis import given
from hypothesis import strategies as st

from moontide import Misconfigured, Poison, schemas
from moontide.settings import Settings
from moontide.stores.feast_foreign import ForeignView
from moontide.stores.feast_values import codec_of, micros
from moontide.stores.feast_views import ViewBinder, spaces_file

pytestmark = pytest.mark.unit

PLAIN = {
    pa.string(): st.text(),
    pa.binary(): st.binary(),
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
}
KINDS = [*PLAIN, *(pa.list_(kind) for kind in PLAIN)]


@st.composite
def columns(draw):
    """A column of any kind, with nulls, cut out of a longer one."""
    kind = draw(st.sampled_from(KINDS))
    one = st.lists(PLAIN[kind.value_type], max_size=4) if pa.types.is_list(kind) else PLAIN[kind]
    values = draw(st.lists(st.none() | one, max_size=6))
    start = draw(st.integers(0, len(values)))
    return pa.array(values, kind).slice(start)


@given(columns())
def test_a_column_comes_back_from_feast_as_it_was(column):
    codec = codec_of(column.type)
    messages = codec.unpack(column)
    assert [m.WhichOneof("val") for m in messages] == [None if v is None else codec.field for v in column.to_pylist()]
    assert codec.pack(messages, where="view.field").to_pylist() == column.to_pylist()


@given(st.lists(st.none() | st.integers(-(10**9), 10**10), max_size=5))
def test_times_keep_their_seconds(seconds):
    codec = codec_of(schemas.TIMESTAMP)
    assert codec.feast == UnixTimestamp
    column = pa.array([None if s is None else s * 1_000_000 + 999_999 for s in seconds], pa.int64()).cast(schemas.TIMESTAMP)
    messages = codec.unpack(column)
    assert [m.unix_timestamp_val if m.WhichOneof("val") else None for m in messages] == seconds
    assert codec.pack(messages, where="t").cast(pa.int64()).to_pylist() == [None if s is None else s * 1_000_000 for s in seconds]


def test_feasts_null_time_is_null():
    assert codec_of(schemas.TIMESTAMP).pack([Value(unix_timestamp_val=-(2**63))], where="t").to_pylist() == [None]


def test_every_field_of_every_schema_has_a_feast_type():
    for schema in (schemas.ITEM_EMBEDDING, schemas.ITEM_FEATURES, schemas.USER_SEQUENCE, schemas.USER_ITEM_SIMTIER):
        assert all(codec_of(field.type).feast for field in schema)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (pa.int64(), Value(string_val="1"), "string_val"),
        (pa.float32(), Value(double_val=1.0), "double_val"),
        (schemas.FLOATS, Value(float_val=1.0), "float_val"),
        (schemas.TIMESTAMP, Value(unix_timestamp_val=2**62), "too large|range|bounds|int"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_poison(kind, value, says):
    with pytest.raises(Poison, match=says):
        codec_of(kind).pack([value], where="view.field")


def test_a_type_feast_does_not_have_is_misconfigured():
    with pytest.raises(Misconfigured, match="map"):
        codec_of(pa.map_(pa.string(), pa.string()))


@given(st.integers(0, 2_000_000_000_000_000), st.integers(-14, 14))
def test_times_become_microseconds_of_utc_and_naive_ones_are_utc(moment, hours):
    aware = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)
    elsewhere, naive = aware.astimezone(timezone(timedelta(hours=hours))), aware.replace(tzinfo=None)
    assert micros([aware, elsewhere, naive, None]).cast(pa.int64()).to_pylist() == [moment, moment, moment, 0]


SPACES = '[[space]]\nname = "moon"\nversion = 1\ndim = 4\n'


def feature_view(name, *fields, ttl=None):
    return FeatureView(name=name, source=None, entities=[], schema=[Field(name=n, dtype=t) for n, t in fields], ttl=ttl)


@pytest.fixture
def binder(tmp_path):
    (tmp_path / "spaces.toml").write_text(SPACES)
    return ViewBinder(Settings(home=tmp_path), None)


EMBEDDING = [(f.name, codec_of(f.type).feast) for f in schemas.ITEM_EMBEDDING if f.name in (
    "source_version", "content_hash", "deleted", "codes", "scale", "inv_norm", "embedding")]  # fmt: skip


def test_a_view_of_another_project_is_foreign_whatever_it_is_called(binder):
    bound = binder.bind("shop", feature_view("user_sequence", ("x", String), ttl=timedelta(hours=1)))
    assert isinstance(bound, ForeignView)
    assert (bound.spec.name, bound.spec.ttl) == ("feast:shop:user_sequence", timedelta(hours=1))
    with pytest.raises(Misconfigured, match="MOONTIDE_PROJECT"):
        binder.bind("shop", feature_view("item_embedding__moon_v1", *EMBEDDING))


def test_a_space_declared_later_is_found(binder, tmp_path):
    with pytest.raises(Misconfigured, match="moon_v2"):
        binder.bind("moontide", feature_view("item_embedding__moon_v2", *EMBEDDING))
    (tmp_path / "spaces.toml").write_text(SPACES + SPACES.replace("version = 1", "version = 2"))
    assert binder.bind("moontide", feature_view("item_embedding__moon_v2", *EMBEDDING)).spec.space.version == 2


def test_a_sequence_declared_later_is_found(binder, tmp_path):
    fields = [("item_ids", Array(String)), ("actions", Array(String)), ("times", Array(Int64)), ("sequence_version", Int64)]
    assert isinstance(binder.bind("moontide", feature_view("views_only", *fields)), ForeignView)
    declared = SPACES + '[[simtier]]\nspace = "moon_v1"\nsequence = "views_only"\n'
    (tmp_path / "spaces.toml").write_text(declared)
    assert binder.bind("moontide", feature_view("views_only", *fields)).spec.name == "views_only"
    (tmp_path / "spaces.toml").write_text("no = 1")  # not read again for a name that is known
    assert binder.bind("moontide", feature_view("views_only", *fields)).spec.name == "views_only"


def test_shared_views_need_no_spaces(tmp_path):
    empty = ViewBinder(Settings(home=tmp_path), None)
    fields = [("item_ids", Array(String)), ("actions", Array(String)), ("times", Array(Int64)), ("sequence_version", Int64)]
    assert empty.bind("moontide", feature_view("user_sequence", *fields)).spec.name == "user_sequence"
    with pytest.raises(Misconfigured, match="times"):
        empty.bind("moontide", feature_view("user_sequence", *fields[:2]))


def test_the_feast_views_ttl_counts(binder):
    view = feature_view("item_embedding__moon_v1", *EMBEDDING, ttl=timedelta(days=2))
    assert binder.bind("moontide", view).spec.ttl == timedelta(days=2)
    view.ttl = timedelta(0)
    assert binder.bind("moontide", view).spec.ttl is None


def test_the_sites_spaces_win_over_the_repositorys(tmp_path):
    repo, settings = tmp_path / "repo", Settings(home=tmp_path / "home")
    assert spaces_file(settings, repo) == repo / "spaces.toml"
    assert spaces_file(settings, None) == tmp_path / "home" / "spaces.toml"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "spaces.toml").write_text(SPACES)
    assert spaces_file(settings, repo) == tmp_path / "home" / "spaces.toml"
    named = Settings(home=tmp_path / "home", spaces_file=tmp_path / "named.toml")
    assert spaces_file(named, repo) == tmp_path / "named.toml"


def test_a_write_of_no_rows_and_a_key_without_its_entity(binder):
    bound = binder.bind("moontide", feature_view("item_embedding__moon_v1", *EMBEDDING))
    assert bound.rows([]).schema == schemas.ITEM_EMBEDDING
    assert bound.ids([]) == []
    with pytest.raises(Misconfigured, match="item_id"):
        bound.ids([EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="u")])])


def test_float_lists_of_another_feature_type_do_not_pass(binder):
    assert codec_of(schemas.FLOATS).feast == Array(Float32)
    packed = codec_of(schemas.FLOATS).pack([Value(float_list_val=FloatList(val=[])), Value()], where="v")
    assert packed.to_pylist() == [[], None]
