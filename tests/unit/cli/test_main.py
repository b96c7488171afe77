import subprocess
import sys

import pytest

from moontide import __version__
from moontide.__main__ import main
from moontide.cli.replay import replay
from moontide.settings import Settings

pytestmark = pytest.mark.unit


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"moontide {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["similar"],
        ["similar", "x", "-k", "0"],
        ["similar", "x", "-k", "16384"],
        ["features", "u:1"],
        ["produce"],
        ["produce", "x", "--rate", "0"],
        ["produce", "x", "--topic", "a b"],
        ["replay-dlq", "--limit", "0"],
        ["replay-dlq", "--reason", ""],
        ["replay-dlq", "--reason", " "],
        ["replay-dlq", "--group", ""],
    ],
)
def test_wrong_use_is_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["doctor", "similar", "features", "demo", "produce", "replay-dlq"])
def test_help_says_what_the_exit_codes_mean(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "exit codes: 0 done; 1 failed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("group", "reason", "named"),
    [
        (None, None, "moontide-replay"),
        (None, "not_json", "moontide-replay-not_json"),
        ("g", None, "g"),
        ("g", "not_json", "g-not_json"),
        (None, "", "moontide-replay-"),
    ],
)
def test_a_replay_for_one_reason_never_moves_the_position_of_all(tmp_path, monkeypatch, group, reason, named):
    opened = []

    class Consumer:
        def __init__(self, _, *, group_id, **__):
            opened.append(group_id)

        def partitions_for_topic(self, _):
            return None

        def close(self, autocommit):
            assert not autocommit

    monkeypatch.setattr("streaming.clients.consumer", Consumer)
    assert replay(Settings(home=tmp_path), reason=reason, group=group, dry_run=True) == 0
    assert opened == [named]


def failed(argv, capsys):
    """Run a command that fails; its one line."""
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert said.startswith("moontide: ")
    assert said.count("\n") == 1
    return said


def test_no_live_spaces_is_one_line_that_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path))
    assert "spaces.toml" in failed(["similar", "or:1"], capsys)


def test_no_feature_repository_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path))
    assert "feature_store.yaml" in failed(["features", "u:1", "or:1", "--repo", str(tmp_path)], capsys)


YAML = """
project: moontide
provider: local
registry: registry.db
online_store:
  type: moontide.stores.feast_plugin.LmdbOnlineStore
entity_key_serialization_version: 3
"""


@pytest.mark.parametrize("argv", [["similar", "or:1"], ["features", "u:1", "or:1"]])
def test_a_read_makes_no_store(capsys, monkeypatch, tmp_path, argv):
    home, repo = tmp_path / "home", tmp_path / "repo"
    monkeypatch.setenv("MOONTIDE_HOME", str(home))
    monkeypatch.setenv("MOONTIDE_SPACES_FILE", str(tmp_path / "spaces.toml"))
    (tmp_path / "spaces.toml").write_text('[[space]]\nname = "moon"\nversion = 1\ndim = 8\n')
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(YAML)
    said = failed([*argv, *(["--repo", str(repo)] if argv[0] == "features" else [])], capsys)
    assert str(home) in said and "backfill" in said
    assert not home.exists()


def test_more_neighbours_than_an_index_gives_names_the_limit(capsys):
    with pytest.raises(SystemExit):
        main(["similar", "x", "-k", "100000"])
    assert "expected 1 to 16383, got 100000" in capsys.readouterr().err


def test_an_id_that_cannot_be_one_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path))
    assert "expected 1 to 64 characters" in failed(["similar", "a b"], capsys)


def test_no_checkout_is_one_line(capsys, tmp_path):
    assert "checkout" in failed(["demo", "--checkout", str(tmp_path), "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("IMAGE_SCHEMES", "s3"), ("ONLINE", "mongo")])
@pytest.mark.parametrize("argv", [["doctor"], ["similar", "or:1"], ["features", "u:1", "or:1"]])
def test_a_setting_that_does_not_fit_is_one_line(monkeypatch, capsys, argv, name, value):
    monkeypatch.setenv(f"MOONTIDE_{name}", value)
    assert f"MOONTIDE_{name}: " in failed(argv, capsys)


def test_the_command_line_loads_nothing_heavy_before_it_is_needed(tmp_path):
    code = (
        "import sys, moontide.__main__ as m\n"
        "try: m.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print([x for x in ('torch', 'pyspark', 'feast', 'pymilvus', 'pandas', 'onnxruntime') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
