"""Folders in shared memory are this user's alone."""

import tempfile

import pytest

from moontide import Misconfigured
from moontide.settings import Settings
from serving.shared_memory import make_private, passing_folder, shared_folder

pytestmark = pytest.mark.unit


def test_each_site_and_purpose_has_a_folder_of_its_own(tmp_path):
    sites = [Settings(home=tmp_path / "a"), Settings(home=tmp_path / "b"), Settings(home=tmp_path / "a", project="other")]
    folders = {shared_folder(site, what) for site in sites for what in ("tables", "ahead")}
    assert len(folders) == 6 and shared_folder(sites[0], "tables") == shared_folder(Settings(home=tmp_path / "a"), "tables")


def test_a_site_without_shared_memory_has_them_below_its_home(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.shared_memory._SHARED_MEMORY", tmp_path / "none")
    assert shared_folder(Settings(home=tmp_path), "tables") == tmp_path / "tables"


def test_a_folder_is_made_private_and_kept(tmp_path):
    for _ in range(2):
        make_private(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700


def test_a_link_a_file_and_a_folder_open_to_others_are_refused(tmp_path):
    make_private(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir(mode=0o755)
    for name in ("link", "file", "open", "file/below"):
        with pytest.raises(Misconfigured, match="shared memory"):
            make_private(tmp_path / name)


def test_a_passing_folder_goes_with_its_process_or_with_the_next_that_makes_one(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.shared_memory._SHARED_MEMORY", tmp_path)
    for name, file in (("mine-killed", "lock"), ("mine-older", "counts"), ("other", "lock")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "mine-link").symlink_to(tmp_path / "other")
    with passing_folder("mine-") as first:
        (first / "counts").touch()
        with passing_folder("mine-") as second:
            assert first.is_dir() and first != second and second.stat().st_mode & 0o777 == 0o700
            found = {path.name for path in tmp_path.iterdir()}
            assert found == {first.name, second.name, "mine-older", "mine-link", "other"}
        assert not second.exists()
    assert not first.exists() and (tmp_path / "other" / "lock").exists()


def test_the_lock_of_a_passing_folder_goes_last(tmp_path, monkeypatch):
    """So whoever comes next removes the rest, where a signal or a kill ends the removal."""
    monkeypatch.setattr("serving.shared_memory._SHARED_MEMORY", tmp_path)

    def killed(*_, **__):
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(tempfile.TemporaryDirectory, "_rmtree", killed)
        with passing_folder("mine-") as made:
            (made / "workers").mkdir()
            for file in ("workers/counter_1.db", "page"):
                (made / file).touch()
    assert [path.name for path in made.iterdir()] == ["lock"]
    with passing_folder("mine-") as after:
        assert [path.name for path in tmp_path.iterdir()] == [after.name]


def test_passing_folders_need_no_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.shared_memory._SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with passing_folder("mine-") as made:
        assert made.parent == tmp_path
