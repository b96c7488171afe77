"""What a site's settings mean."""

import pytest

from moontide import views
from moontide.settings import Settings
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
