import pytest

from moontide.cli.demo import prepare, shown, write_spaces
from moontide.errors import Misconfigured
from moontide.live import load_spaces

pytestmark = pytest.mark.unit


def test_a_new_folder_is_made(tmp_path):
    assert prepare(tmp_path / "a" / "demo").is_dir()


def test_an_earlier_demo_is_cleared(tmp_path):
    prepare(tmp_path / "demo")
    (tmp_path / "demo" / "home" / "old").touch()
    assert list(prepare(tmp_path / "demo").iterdir()) == []


def test_a_folder_with_other_content_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Misconfigured, match="other content"):
        prepare(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_home_has_live_spaces_of_its_own_that_name_the_artifact_where_it_lies(tmp_path):
    checkout = __import__("pathlib").Path(__file__).parents[3]
    write_spaces(checkout, tmp_path)
    live = load_spaces(tmp_path / "spaces.toml")
    assert live.live("moon_v2").artifact == checkout / "artifacts" / "moon_v2"
    assert live.service("ctr_v1").space.id == "moon_v2"


def test_commands_are_shown_as_one_would_type_them(tmp_path):
    line = shown((str(tmp_path / ".venv/bin/python"), "-m", "jobs.x", "--catalog", str(tmp_path / "a b.parquet")), tmp_path)
    assert line == "python -m jobs.x --catalog 'a b.parquet'"
