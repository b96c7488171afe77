"""Feast's registry file: whole or not there, whatever happens to the process that writes it or to the disk."""

import os
import resource

import pytest
from feast import Project
from feast.infra.registry.registry import Registry
from feast.repo_config import RegistryConfig

from moontide.errors import Misconfigured, Transient
from moontide.stores import offline_files
from moontide.stores.feast_registry import HomeRegistryStore

pytestmark = pytest.mark.unit


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def registry(folder):
    kind = f"{HomeRegistryStore.__module__}.{HomeRegistryStore.__name__}"
    return Registry("moon", RegistryConfig(registry_store_type=kind, path="registry.db"), folder)


def applied(folder, name="moon"):
    found = registry(folder)
    found.apply_project(Project(name=name, description="a" * 100), commit=True)
    return found


def test_feast_reads_what_it_wrote_below_the_home(home, tmp_path):
    applied(tmp_path)
    (home / "registry.db").chmod(0o640)
    applied(tmp_path, "sun")
    assert sorted(p.name for p in registry(tmp_path).list_projects()) == ["moon", "sun"]
    assert [f.name for f in home.iterdir()] == ["registry.db"]
    assert (home / "registry.db").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kept", [0, 5, 0.5, -3])
def test_a_registry_cut_short_is_told_by_its_path_until_it_is_removed(home, tmp_path, kept):
    applied(tmp_path)
    file = home / "registry.db"
    size = file.stat().st_size
    left = int(size * kept) if 0 < kept < 1 else kept % size
    os.truncate(file, left)
    with pytest.raises(
        Misconfigured, match=f"{file}: expected Feast's registry, got {left} bytes .*remove it and run feast apply"
    ):
        registry(tmp_path)
    file.unlink()
    applied(tmp_path)
    assert [p.name for p in registry(tmp_path).list_projects()] == ["moon"]


def test_a_disk_that_takes_a_part_of_the_registry_leaves_the_one_before(home, tmp_path):
    found = applied(tmp_path)
    before = (home / "registry.db").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(Transient, match=f"{home / 'registry.db'}: expected to write"):
            found.apply_project(Project(name="sun"), commit=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (home / "registry.db").read_bytes() == before
    assert [f.name for f in home.iterdir()] == ["registry.db"]


def test_a_reader_sees_a_registry_only_once_it_is_on_the_disk(home, tmp_path, monkeypatch):
    found, seen, fsync = applied(tmp_path), [], os.fsync

    def look(handle):
        seen.append([p.name for p in registry(tmp_path).list_projects()])
        fsync(handle)

    monkeypatch.setattr(offline_files.os, "fsync", look)
    found.apply_project(Project(name="sun"), commit=True)
    assert seen == [["moon"], ["moon", "sun"]]


def test_what_a_link_leads_to_is_written(home, tmp_path):
    (tmp_path / "shared").mkdir()
    home.mkdir()
    (home / "registry.db").symlink_to(tmp_path / "shared" / "registry.db")
    applied(tmp_path)
    assert (home / "registry.db").is_symlink() and (tmp_path / "shared" / "registry.db").stat().st_size


def test_a_process_that_has_read_the_registry_goes_on_with_it(home, tmp_path):
    found = applied(tmp_path)
    (home / "registry.db").write_bytes(b"")
    with pytest.raises(Misconfigured):
        found.list_projects(allow_cache=True)
    assert [p.name for p in found.list_projects(allow_cache=True)] == ["moon"]
