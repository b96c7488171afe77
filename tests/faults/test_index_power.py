"""milvus-lite's files when the power fails: what is brought to the disk, and what is said of a file that was cut short."""

import os
import shutil

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Misconfigured
from moontide.stores import index_connection
from moontide.stores.index import MilvusIndex
from moontide.stores.index_lite import is_derived

pytestmark = pytest.mark.faults

SPACE = EmbeddingSpace("moon", 1, 64, "sha256:" + "0" * 64)
CUTS = [0, 3, 0.5]


def cut(entry, kept):
    os.truncate(entry, int(entry.stat().st_size * kept) if kept < 1 else kept)


def write(path):
    """Three rows, an alias and a deletion, all flushed."""
    index = MilvusIndex(str(path))
    index.ensure(SPACE)
    rows = Embeddings.from_float(SPACE, np.random.default_rng(0).normal(size=(3, 64)), ids=["a", "b", "c"])
    index.upsert(SPACE, rows, [bytes(40)] * 3)
    index.point_alias(SPACE)
    index.flush(SPACE)
    index.delete(SPACE, ["c"])
    index.flush(SPACE)
    index.close()


def stored(path):
    index = MilvusIndex(str(path))
    try:
        return index.count(SPACE), index.resolve_alias("moon")
    finally:
        index.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "index.db"
    write(path)
    return path


@pytest.fixture
def path(written, tmp_path):
    return shutil.copytree(written, tmp_path / "index.db")


@pytest.fixture
def seen(monkeypatch):
    """Every entry that was brought to the disk, in order."""
    found, fsync = [], index_connection.fsync
    monkeypatch.setattr(index_connection, "fsync", lambda entry: (fsync(entry), found.append(entry)))
    return found


def test_a_flush_brings_every_file_and_every_folder_that_names_one_to_the_disk(tmp_path, seen):
    path = tmp_path / "index.db"
    index = MilvusIndex(str(path))
    try:
        index.ensure(SPACE)
        for number in range(2):
            seen.clear()
            vectors = np.random.default_rng(number).normal(size=(2, 64))
            index.upsert(SPACE, Embeddings.from_float(SPACE, vectors, ids=[f"i{number}", "b"]), [bytes(40)] * 2)
            index.flush(SPACE)
            folder = path / "collections" / SPACE.collection
            above = {tmp_path, path, folder.parent, folder} if not number else set()
            below = [f for f in folder.rglob("*") if f.is_file() and not is_derived(f)]
            assert below and above <= set(seen)
            assert number or set(below) <= set(seen)
            assert any(f in seen for f in below)
        seen.clear()
        index._connection.make_durable(SPACE.collection)
        assert seen == []
    finally:
        index.close()


def test_an_alias_is_on_the_disk_once_it_points(tmp_path, seen):
    path = tmp_path / "index.db"
    index = MilvusIndex(str(path))
    try:
        index.ensure(SPACE)
        index.point_alias(SPACE)
        assert {tmp_path, path, path / "aliases.json"} == set(seen)
        seen.clear()
        index.point_alias(SPACE)
        assert path / "aliases.json" in seen
    finally:
        index.close()


@pytest.mark.parametrize("kept", CUTS)
@pytest.mark.parametrize("name", ["aliases.json", "schema.json", "data/*.parquet", "delta/*.parquet"])
def test_a_file_that_was_cut_short_is_named(path, name, kept):
    (entry,) = path.rglob(name)
    cut(entry, kept)
    said = f"index {entry}: expected (JSON|Parquet), got {entry.stat().st_size} bytes .*; move {path} away and backfill the index"
    for _ in range(2):
        with pytest.raises(Misconfigured, match=said):
            MilvusIndex(str(path))


def test_a_segment_that_is_missing_is_named_and_a_new_index_takes_its_place(path, tmp_path):
    (entry,) = path.rglob("delta/*.parquet")
    entry.unlink()
    with pytest.raises(Misconfigured, match=f"index {entry}: expected Parquet, got no such file; move {path} away"):
        MilvusIndex(str(path))
    path.rename(tmp_path / "away")
    write(path)
    assert stored(path) == (2, "moon_v1")


@pytest.mark.parametrize("kept", CUTS)
def test_a_manifest_that_was_cut_short_has_one_before_it(path, kept):
    (entry,) = path.rglob("manifest.json")
    cut(entry, kept)
    assert stored(path)[1] == "moon_v1"


def test_a_segment_that_a_kill_left_unfinished_stops_nothing(path):
    (entry,) = path.rglob("data/*.parquet")
    unfinished = entry.with_name("data_000900_000901.parquet")
    unfinished.write_bytes(b"PAR1")
    assert stored(path) == (2, "moon_v1") and not unfinished.exists()


@pytest.mark.parametrize("kept", [0, 40, 0.5], ids=["nothing", "a part of the header", "half of the vectors"])
def test_a_search_index_that_a_kill_cut_short_is_made_again(tmp_path, kept):
    path, ids = tmp_path / "index.db", [f"i{n}" for n in range(300)]
    rows = Embeddings.from_float(SPACE, np.random.default_rng(0).normal(size=(300, 64)), ids=ids)
    for written in (False, True):
        index = MilvusIndex(str(path))
        index.ensure(SPACE)
        if not written:
            index.upsert(SPACE, rows, [bytes(40)] * 300)
            index.flush(SPACE)
        assert index.count(SPACE) == 300
        index.close()
    derived = [entry for entry in path.rglob("*") if is_derived(entry)]
    assert derived
    for entry in derived:
        cut(entry, kept)
    index = MilvusIndex(str(path))
    try:
        index.ensure(SPACE)
        assert index.count(SPACE) == 300
        assert index.search(SPACE, rows, 1).ids == [[i] for i in ids]
    finally:
        index.close()
    assert all(np.load(entry).shape == (300, 64) for entry in derived)
