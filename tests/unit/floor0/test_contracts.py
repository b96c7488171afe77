"""Names, live spaces, settings, schemas and views."""

import pyarrow as pa
import pytest

from moontide import EmbeddingSpace, Misconfigured, Poison, names, schemas, views
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.simtier import SimTierSpec

pytestmark = pytest.mark.unit
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
artifact = "artifacts/moon_v1"
[[simtier]]
space = "moon_v1"
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n20_l50_drop"
item_fields = ["price"]
"""


@pytest.mark.parametrize("bad", ["", "a b", "a'b", "a\\b", "x" * 65, "é", "a\n", "a/b", None, 3])
def test_what_is_no_id(bad):
    assert not names.is_id(bad)
    with pytest.raises(Poison, match="item_id"):
        names.require_ids(["ok", bad])


def test_column_of_ids_agrees_with_the_single_check():
    values = ["a", "", "A.b:c-d_e", "x" * 64, "x" * 65, "a\n", "q'", None]
    assert names.valid_ids(pa.array(values)).tolist() == [names.is_id(v) for v in values]
    assert names.valid_ids(pa.array([], pa.string())).tolist() == []


def test_live_spaces(tmp_path):
    path = tmp_path / "spaces.toml"
    path.write_text(TOML)
    live = load_spaces(path)
    service = live.service("ctr_v1")
    assert service.space == EmbeddingSpace("moon", 1, 8) and service.simtier == SimTierSpec("moon_v1")
    assert live.live("moon_v1").artifact == tmp_path / "artifacts/moon_v1"
    assert [v.name for v in live.views()] == [
        "item_embedding__moon_v1",
        "item_features",
        "user_sequence",
        "user_item_simtier__moon_v1_n20_l50_drop",
    ]
    with pytest.raises(Misconfigured, match="ctr_v1"):
        live.service("ctr_v2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("dim = 8", "dim = 8\ncolour = 1"), "colour"),
        (("dim = 8", ""), "dim"),
        (('space = "moon_v1"\n[[service]]', 'space = "moon_v9"\n[[service]]'), "moon_v9"),
        (('simtier = "moon_v1_n20_l50_drop"', 'simtier = "x"'), "'x'"),
        (('["price"]', '["colour"]'), "colour"),
        (("[[space]]", "[[space]"), "TOML"),
        (("[[simtier]]", "[[other]]\n[[simtier]]"), "other"),
    ],
)
def test_bad_live_spaces_say_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "spaces.toml"
    path.write_text(TOML.replace(*change))
    with pytest.raises(Misconfigured, match=message):
        load_spaces(path)


def test_no_file_and_duplicates(tmp_path):
    with pytest.raises(Misconfigured, match="spaces.toml"):
        load_spaces(tmp_path / "spaces.toml")
    path = tmp_path / "two.toml"
    path.write_text(TOML + '[[simtier]]\nspace = "moon_v1"\n')
    with pytest.raises(Misconfigured, match="once"):
        load_spaces(path)


def test_settings_hide_secrets_and_refuse_unknown_names(monkeypatch, tmp_path):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path))
    monkeypatch.setenv("MOONTIDE_REDIS_URL", "redis://:hunter2@127.0.0.1/0")
    settings = Settings()
    assert settings.home == tmp_path and settings.spaces_path == tmp_path / "spaces.toml"
    assert "hunter2" not in repr(settings)
    with pytest.raises(ValueError, match="extra"):
        Settings(colour="blue")


def test_views_name_their_fields():
    view = views.embedding_view(EmbeddingSpace("moon", 1, 8))
    assert [f.name for f in view.fields] == [
        "source_version", "content_hash", "deleted", "codes", "scale", "inv_norm", "embedding",
    ]  # fmt: skip
    assert view.require_fields(["scale"])[0].type == pa.float32()
    with pytest.raises(Misconfigured, match="colour"):
        view.require_fields(["colour"])
    assert views.simtier_view(SimTierSpec("moon_v1")).entities == ("user_id", "item_id")


def test_schema_check_names_what_is_missing_or_mistyped():
    good = pa.schema([("item_id", pa.large_string()), ("price", pa.int32()), ("extra", pa.int8())])
    schemas.require_columns(good, schemas.CATALOG, ("item_id",), where="x.parquet")
    with pytest.raises(Misconfigured, match="title"):
        schemas.require_columns(good, schemas.CATALOG, ("item_id", "title"), where="x.parquet")
    bad = pa.schema([("item_id", pa.int64())])
    with pytest.raises(Misconfigured, match="item_id.*string.*int64"):
        schemas.require_columns(bad, schemas.CATALOG, ("item_id",), where="x.parquet")
