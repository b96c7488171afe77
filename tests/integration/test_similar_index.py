"""Nearest items from a real milvus-lite file: taken for one call, given back, and done without where another process has it."""

import subprocess
import sys

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace, views
from moontide.errors import Transient
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store, vector_index
from serving.similar import SharedIndex, SimilarItems

pytestmark = pytest.mark.integration
SPACE = EmbeddingSpace("moon", 1, 16, "sha256:" + "0" * 64)
NOW = 1_700_000_000_000_000
OWNER = """
import sys
from pathlib import Path
from moontide.settings import Settings
from moontide.stores import vector_index
index = vector_index(Settings(home=Path(sys.argv[1])))
print("mine", flush=True)
sys.stdin.readline()
index.close()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Settings and a store of 50 items that are in the index too."""
    settings = Settings(home=tmp_path_factory.mktemp("similar"), online="memory")
    items = Embeddings.from_float(SPACE, np.random.default_rng(1).normal(size=(50, 16)), ids=[f"i{n}" for n in range(50)])
    store = online_store(settings)
    rows = embedding_rows(items, source_version=1, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW)
    store.write_rows(views.embedding_view(SPACE), rows)
    index = vector_index(settings)
    index.ensure(SPACE)
    index.upsert(SPACE, items, [bytes(40)] * 50)
    index.flush(SPACE)
    index.close()
    return settings, store


def test_index_and_scan_agree_and_the_file_is_free_in_between(site):
    settings, store = site
    by_scan = SimilarItems(store, index=SharedIndex(settings)).of(SPACE, "i7", 10)
    similar = SimilarItems(store, index=SharedIndex(settings), scan_rows=49)
    for _ in range(2):
        by_index = similar.of(SPACE, "i7", 10)
        assert (by_scan.source, by_index.source) == ("scan", "index")
        assert by_index.hits == by_scan.hits
        done = subprocess.run(
            [sys.executable, "-c", OWNER, settings.home], input="\n", text=True, capture_output=True, timeout=120
        )
        assert done.stdout == "mine\n", done.stderr[-2000:]
    similar.close()


def test_a_file_that_another_process_has_is_done_without(site):
    settings, store = site
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, settings.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(Transient, match=r"at most 49 vectors.*another process has open"):
            SimilarItems(store, index=SharedIndex(settings), scan_rows=49).of(SPACE, "i7", 10)
        assert SimilarItems(store, index=SharedIndex(settings)).of(SPACE, "i7", 10).source == "scan"
    finally:
        owner.communicate("\n", timeout=60)


def test_a_server_that_is_not_there_is_done_without(site):
    settings, store = site
    gone = SharedIndex(settings.model_copy(update={"index_uri": "http://127.0.0.1:9"}))
    assert SimilarItems(store, index=gone).of(SPACE, "i7", 10).source == "scan"
    with pytest.raises(Transient, match="less than 5 s ago"):
        SimilarItems(store, index=gone, scan_rows=49).of(SPACE, "i7", 10)
