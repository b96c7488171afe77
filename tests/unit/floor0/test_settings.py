"""What a site's settings mean."""

import pytest

from moontide import Misconfigured, views
from moontide.settings import Settings, load_settings
from moontide.stores.offline import OfflineTables

pytestmark = pytest.mark.unit


def test_an_offline_uri_stays_a_uri(monkeypatch):
    monkeypatch.setenv("MOONTIDE_OFFLINE", "s3://b/p")
    assert Settings().offline_root == Settings(offline="s3://b/p").offline_root == "s3://b/p"


def test_offline_tables_of_a_uri_are_not_local():
    tables = OfflineTables(Settings(offline="s3://b/p?region=us-east-1").offline_root)  # a region given is not looked up
    assert tables.tree.local is None and tables.tree.system.type_name == "s3" and tables.tree.base == "b/p"
    assert tables.path(views.item_features()) == "s3://b/p/item_features"


def test_offline_tables_lie_below_home_by_default(tmp_path):
    settings = Settings(home=tmp_path)
    assert settings.offline_root == str(tmp_path / "offline")
    assert OfflineTables(settings.offline_root).tree.local == tmp_path / "offline"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LMDB_MAP_SIZE", "lots"),
        ("ONLINE", "mongo"),
        ("PROJECT", "UPPER"),
        ("IMAGE_SCHEMES", "s3"),
        ("IMAGE_SCHEMES", '[["hunter2"]]'),
        ("REDIS_CLUSTER", "hunter2"),
        ("STREAM_HOST", ""),  # sockets take it for every address of the machine
        ("STREAM_ENCODE_SECONDS", "inf"),
        ("STREAM_ENCODE_BYTES", "9999999999999999999"),
        ("STREAM_SESSION_MS", "2147483648"),
        ("STREAM_POLL_INTERVAL_MS", "2147483648"),
        ("STREAM_EVENT_BYTES", "1073741825"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_line_that_names_it_and_shows_no_value(monkeypatch, name, value):
    monkeypatch.setenv(f"MOONTIDE_{name}", value)
    with pytest.raises(Misconfigured, match=f"^MOONTIDE_{name}: ") as stop:
        load_settings()
    assert "\n" not in str(stop.value) and f"'{value}'" not in str(stop.value) and "hunter2" not in str(stop.value)


def test_overrides_come_before_the_environment_and_are_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("MOONTIDE_ONLINE", "redis")
    assert load_settings().online == "redis" and load_settings(online="lmdb", home=tmp_path).online == "lmdb"
    with pytest.raises(Misconfigured, match="^MOONTIDE_SEQUENCE_LENGTH: "):
        load_settings(sequence_length=0)
