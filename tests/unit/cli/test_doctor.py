import pytest
from pydantic import SecretStr

from moontide import EmbeddingSpace
from moontide.cli import doctor as module
from moontide.cli.doctor import Finding, Level, doctor, guarded, shown
from moontide.cli.doctor_feast import registry
from moontide.cli.doctor_stores import compare, online
from moontide.errors import Misconfigured, Transient
from moontide.live import LiveSpace, LiveSpaces
from moontide.native import Chosen
from moontide.settings import Settings
from moontide.tier_kernel import count_with_numpy

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 8)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://:hunter2@db.example:6380/3", "redis://***@db.example:6380/3"),
        ("rediss://user:hunter2@db.example", "rediss://***@db.example"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
    ],
)
def test_a_url_is_shown_without_its_password(url, text, tmp_path):
    found = {f.name: f.detail for f in shown(Settings(home=tmp_path, redis_url=SecretStr(url)))}
    assert found["MOONTIDE_REDIS_URL"] == text


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("https://root:hunter2@milvus.example:19530/db", "https://***@milvus.example:19530/db"),
        ("http://milvus.example:19530?token=hunter2", "http://milvus.example:19530?***"),
    ],
)
def test_addresses_of_index_and_offline_tables_are_shown_without_credentials(uri, text, tmp_path):
    found = {f.name: f.detail for f in shown(Settings(home=tmp_path, index_uri=uri, offline=uri))}
    assert "hunter2" not in str(found)
    assert found["MOONTIDE_INDEX_URI"] == found["MOONTIDE_OFFLINE"] == text


def test_a_repository_that_reads_another_store_than_is_written_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOONTIDE_ONLINE", "redis")
    (tmp_path / "feature_store.yaml").write_text(
        "project: moontide\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        "online_store:\n  type: moontide.stores.feast_plugin.LmdbOnlineStore\n"
    )
    live = LiveSpaces(tmp_path / "spaces.toml", (), (), ())
    first = next(registry(live, tmp_path))
    assert first.level is Level.BAD and "MOONTIDE_ONLINE=redis" in first.detail and "LmdbOnlineStore" in first.detail
    monkeypatch.setenv("MOONTIDE_ONLINE", "lmdb")
    assert next(registry(live, tmp_path)).level is Level.OK
    file = tmp_path / "feature_store.yaml"
    file.write_text(file.read_text().replace("Lmdb", "Redis"))
    monkeypatch.delenv("MOONTIDE_ONLINE")
    unset = next(registry(live, tmp_path))
    assert unset.level is Level.NOTE and "set MOONTIDE_ONLINE=redis" in unset.detail


def test_a_token_is_only_said_to_be_set(tmp_path):
    found = {f.name: f.detail for f in shown(Settings(home=tmp_path, index_token=SecretStr("root:hunter2")))}
    assert found["MOONTIDE_INDEX_TOKEN"] == "set"
    assert "hunter2" not in str(found)


def test_every_setting_is_shown(tmp_path):
    assert len(list(shown(Settings(home=tmp_path)))) == len(Settings.model_fields)


@pytest.mark.parametrize("error", [Misconfigured("a\nb"), Transient("a b"), OSError("a b"), ImportError("a b")])
def test_a_check_that_fails_is_a_problem_after_what_it_found(error):
    def check():
        yield Finding(Level.OK, "first", "")
        raise error

    found = guarded(check)
    assert [f.level for f in found] == [Level.OK, Level.BAD]
    assert found[1].detail == "a b"


@pytest.mark.parametrize(
    ("offline", "vectors", "rows", "levels"),
    [
        (0, 0, 0, [Level.OK, Level.OK]),
        (5, 5, 5, [Level.OK, Level.OK]),
        (5, 4, 4, [Level.BAD, Level.OK]),
        (5, 5, 4, [Level.OK, Level.BAD]),
        (5, 5, None, [Level.OK, Level.NOTE]),
        (5, 5, 6, [Level.OK, Level.OK]),
    ],
)
def test_what_three_counts_say(offline, vectors, rows, levels):
    found = list(compare(SPACE, offline, vectors, rows))
    assert [f.level for f in found] == levels
    assert all("run the backfill again" in f.detail for f in found if f.level is Level.BAD)


def test_doctor_on_a_new_home_changes_nothing_and_ends_with_1(tmp_path, capsys):
    assert doctor(Settings(home=tmp_path / "home"), tmp_path) == 1
    assert not (tmp_path / "home").exists()
    said = capsys.readouterr().out
    assert "1 problem found" in said
    assert "spaces.toml" in said


def test_an_empty_online_store_is_not_created_by_looking(tmp_path):
    found = list(online(Settings(home=tmp_path), LiveSpaces(tmp_path / "spaces.toml", (), (), ())))
    assert [f.level for f in found] == [Level.NOTE]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", [b"x" * 8192, b"", b"abc"])
def test_an_online_store_that_is_no_lmdb_file_is_a_problem_and_the_report_goes_on(tmp_path, capsys, monkeypatch, held):
    settings = Settings(home=tmp_path)
    settings.lmdb_path.mkdir(parents=True)
    (settings.lmdb_path / "data.mdb").write_bytes(held)
    live = LiveSpaces(tmp_path / "spaces.toml", (), (), ())
    with pytest.raises(Misconfigured, match="expected an LMDB file that can be read, got: .*load the store again"):
        list(online(settings, live))
    monkeypatch.setattr(module, "load_spaces", lambda _: live)
    assert doctor(settings, tmp_path) == 1
    said = capsys.readouterr().out
    assert "BAD  Misconfigured  online store" in said
    assert "\nFeast registry\n" in said and "\ncoverage\n" in said and said.splitlines()[-1] == "1 problem found"


@pytest.mark.parametrize("damaged", ["offline tables", "index"])
def test_a_damaged_store_is_one_problem(tmp_path, capsys, monkeypatch, damaged):
    settings = Settings(home=tmp_path, online="memory", index_uri="http://127.0.0.1:1")
    live = LiveSpaces(tmp_path / "spaces.toml", (LiveSpace(SPACE, None),), (), ())
    monkeypatch.setattr(module, "load_spaces", lambda _: live)

    def broken(*_, **__):
        raise Transient(f"{damaged}: expected an answer")

    monkeypatch.setattr("moontide.stores.vector_index", broken if damaged == "index" else lambda *_: NoIndex())
    if damaged == "offline tables":
        monkeypatch.setattr("moontide.stores.offline.OfflineTables.latest_heads", broken)
        monkeypatch.setattr("moontide.stores.offline_files.FileTree.files", lambda *_: ["a"])
    assert doctor(settings, tmp_path) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "1 problem found", said
    assert said.count("expected an answer") == 1


def test_a_redis_that_does_not_answer_is_one_problem(tmp_path, capsys, monkeypatch):
    settings = Settings(home=tmp_path, online="redis", redis_url=SecretStr("redis://127.0.0.1:1/0"))
    monkeypatch.setattr(module, "load_spaces", lambda _: LiveSpaces(tmp_path / "spaces.toml", (), (), ()))
    assert doctor(settings, tmp_path) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 problem found"


class NoIndex:
    """An index without rows."""

    def count(self, space):
        return 0

    def resolve_alias(self, name):
        return None

    def close(self):
        pass


CONFIG = (
    "project: moontide\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
    "online_store:\n  type: moontide.stores.feast_plugin.LmdbOnlineStore\n"
)


@pytest.mark.parametrize(
    "config",
    ["project: x\n", "- a\n", "a: [\n", "", CONFIG.replace("_version: 3", "_version: x"), CONFIG.replace("moontide", "a b", 1)],
)
def test_a_configuration_that_feast_refuses_is_one_problem(tmp_path, monkeypatch, config):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path / "home"))
    (tmp_path / "feature_store.yaml").write_text(config)
    found = guarded(lambda: registry(LiveSpaces(tmp_path / "spaces.toml", (), (), ()), tmp_path))
    assert [f.level for f in found] == [Level.BAD]
    assert "feature_store.yaml: expected a Feast configuration, got: " in found[0].detail


@pytest.mark.parametrize("kind", ["damaged", "of no known type"])
def test_a_registry_that_feast_cannot_read_is_a_problem(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path / "home"))
    (tmp_path / "registry.db").write_bytes(b"\xff\xff nonsense")
    config = CONFIG if kind == "damaged" else CONFIG.replace("registry.db", "{registry_type: nope, path: a}")
    (tmp_path / "feature_store.yaml").write_text(config)
    found = guarded(lambda: registry(LiveSpaces(tmp_path / "spaces.toml", (), (), ()), tmp_path))
    assert [f.level for f in found] == [Level.OK, Level.BAD]
    assert "registry: expected one that Feast can read, got: " in found[1].detail


@pytest.mark.parametrize("store", ["", "  registry_store_type: moontide.stores.feast_registry.HomeRegistryStore\n"])
def test_looking_writes_no_registry_where_there_is_none(tmp_path, monkeypatch, store):
    home, repo = tmp_path / "home", tmp_path / "repo"
    monkeypatch.setenv("MOONTIDE_HOME", str(home))
    repo.mkdir()
    config = CONFIG.replace("registry: registry.db\n", f"registry:\n{store}  path: registry.db\n")
    (repo / "feature_store.yaml").write_text(config)
    found = guarded(lambda: registry(LiveSpaces(tmp_path / "spaces.toml", (LiveSpace(SPACE, None),), (), ()), repo))
    assert found[0].level is Level.OK and len(found) > 1
    assert all(f.level is Level.BAD and "expected it to be applied, got nothing; run: feast" in f.detail for f in found[1:])
    assert not home.exists() and [path.name for path in repo.iterdir()] == ["feature_store.yaml"]


@pytest.mark.parametrize(("why", "level"), [("", Level.OK), ("no native kernel was built", Level.NOTE)])
def test_the_tier_kernel_is_named(monkeypatch, why, level):
    monkeypatch.setattr(module, "CHOSEN", Chosen("numpy", count_with_numpy, why))
    found = module.kernel()
    assert found.level is level and found.detail == ("numpy: " + why if why else "numpy")


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ('openjdk version "17.0.15" 2025-04-15', Level.OK),
        ('java version "21" 2023', Level.OK),
        ('openjdk version "11.0.2"', Level.NOTE),
        ("", Level.NOTE),
    ],
)
def test_java_versions(monkeypatch, said, level):
    class Done:
        stderr = said

    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: Done)
    assert module.java().level is level
