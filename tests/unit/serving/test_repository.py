"""What `open_repo` takes from a Feast repository and from the site."""

import pytest

from moontide import Misconfigured
from moontide.settings import Settings
from moontide.stores.feast_views import ViewBinder
from serving import RankingClient
from serving.repository import open_repo, repo_settings

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


@pytest.mark.parametrize("text", ["project: x", "- a", "a: [", YAML.replace("version: 3", "version: x")])
def test_what_feast_refuses_is_named(repo, tmp_path, text):
    (repo / "feature_store.yaml").write_text(text.replace("{home}", str(tmp_path / "site")))
    with pytest.raises(Misconfigured, match=r"feature_store\.yaml: expected"):
        open_repo(repo)


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


def test_a_store_that_is_not_the_one_the_environment_names_is_refused(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("MOONTIDE_ONLINE", "redis")
    for read in (open_repo, repo_settings, RankingClient.from_repo):
        with pytest.raises(Misconfigured, match="MOONTIDE_ONLINE=redis and .*LmdbOnlineStore.*set MOONTIDE_ONLINE=lmdb"):
            read(repo)
    assert not (tmp_path / "site" / "online").exists()
    monkeypatch.setenv("MOONTIDE_ONLINE", "lmdb")
    open_repo(repo)[0].close()


def test_a_setting_that_does_not_fit_is_misconfigured(repo, monkeypatch):
    monkeypatch.setenv("MOONTIDE_ONLINE", "mongo")
    with pytest.raises(Misconfigured, match="^MOONTIDE_ONLINE: "):
        RankingClient.from_repo(repo)


@pytest.mark.parametrize("text", ["", "a: [", "just words", "- a", "project: moontide", "\x00"])
def test_a_broken_configuration_is_misconfigured_in_one_line(repo, text):
    (repo / "feature_store.yaml").write_text(text)
    with pytest.raises(Misconfigured, match="feature_store.yaml") as stop:
        open_repo(repo)
    assert "\n" not in str(stop.value)


def test_a_plugin_nobody_knows_is_misconfigured(repo, tmp_path):
    (repo / "feature_store.yaml").write_text(YAML.format(home=tmp_path).replace("LmdbOnlineStore", "FloppyOnlineStore"))
    with pytest.raises(Misconfigured, match="Floppy"):
        open_repo(repo)
