"""What `open_repo` takes from a Feast repository and from the site."""

import pytest

from moontide import Misconfigured
from moontide.settings import Settings
from moontide.stores.feast_views import ViewBinder
from serving.repository import open_repo

pytestmark = pytest.mark.unit
YAML = """
project: moontide
provider: local
registry: registry.db
online_store:
  type: moontide.stores.feast_plugin.LmdbOnlineStore
  home: {home}
entity_key_serialization_version: 3
"""
SPACE = '[[space]]\nname = "{name}"\nversion = 1\ndim = 8\n'


@pytest.fixture
def repo(tmp_path, monkeypatch):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MOONTIDE_LMDB_MAP_SIZE", str(1 << 24))
    for folder, name in (("elsewhere", "other"), ("site", "moon")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "spaces.toml").write_text(SPACE.format(name=name))
    made = tmp_path / "repo"
    made.mkdir()
    (made / "feature_store.yaml").write_text(YAML.format(home=tmp_path / "site"))
    return made


def test_the_spaces_are_those_of_the_home_the_plugin_opens(repo, tmp_path):
    store, live = open_repo(repo)
    store.close()
    assert live.path == tmp_path / "site" / "spaces.toml" and live.space("moon_v1").dim == 8
    assert (tmp_path / "site" / "online").is_dir() and not (tmp_path / "elsewhere" / "online").exists()


def test_a_spec_longer_than_the_sequences_kept_is_refused(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("MOONTIDE_SEQUENCE_LENGTH", "40")
    spaces = tmp_path / "site" / "spaces.toml"
    spaces.write_text(SPACE.format(name="moon") + '[[simtier]]\nspace = "moon_v1"\nlength = 41\n')
    with pytest.raises(Misconfigured, match="MOONTIDE_SEQUENCE_LENGTH"):
        open_repo(repo)
    with pytest.raises(Misconfigured, match="MOONTIDE_SEQUENCE_LENGTH"):
        ViewBinder(Settings(home=tmp_path / "site"), None).own("moontide", "user_sequence")
    spaces.write_text(spaces.read_text().replace("41", "40"))
    open_repo(repo)[0].close()
