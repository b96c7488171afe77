"""The vector index goes away and comes back: neighbours from elsewhere or a typed error meanwhile, features as ever."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from moontide.errors import Transient
from moontide.order import KEY_BYTES
from moontide.settings import Settings
from moontide.stores import vector_index
from tests.faults.serving import values
from tests.faults.serving.asking import Callers, Connection, judged
from tests.faults.serving.figures import Figures

#: Most a caller may wait for neighbours while there is no index.
PATIENCE = 5.0
K = 5


def index_gone(sites, size):
    """The Milvus server is absent, then there, then killed, then there again."""
    figures, site = Figures("index_gone"), sites.lmdb()
    rounds = max(1, round(5 * size))
    answered: dict[str, list[float]] = {"with the index": [], "without it": []}
    with Callers(site.port, site.ledger, count=2, pause=0.01) as callers:
        _ask(site, figures, answered["without it"])
        for _ in range(rounds):
            server = _start(sites)
            try:
                _load(sites, site)
                _ask(site, figures, answered["with the index"])
            finally:
                server.kill()
                server.wait()
            figures.faults += 1
            _ask(site, figures, answered["without it"])
        callers.wait("right", after=time.monotonic(), count=5)
    features = Figures("")
    callers.count(features)
    figures.requests += features.requests
    figures.right += features.right
    figures.p50_ms, figures.p99_ms = features.p50_ms, features.p99_ms
    figures.expect(not features.wrong and not features.typed and not features.untyped, f"features noticed: {features}")
    figures.expect(not figures.untyped, f"errors of no type: {figures.untyped}")
    for name, took in answered.items():
        if took:
            figures.notes.append(f"neighbours {name}: {len(took)} right answers, slowest {max(took) * 1e3:,.0f} ms")
            figures.expect(max(took) < PATIENCE, f"neighbours {name} took {max(took):.1f} s")
    return figures


def _ask(site, figures, took, times=10):
    """Neighbours of some items: exactly the nearest by cosine, or a typed error."""
    connection = Connection(site.port)
    for number in range(0, 10 * times, 10):
        asked = values.item_id(values.OLD + number % values.LENGTH)
        begun = time.monotonic()
        body = json.dumps({"item_id": asked, "k": K}).encode()
        answer = connection.ask("/v1/similar", body, "application/json", "application/json")
        figures.requests += 1
        if answer.status != 200:
            sort, what = judged(answer)
            getattr(figures, sort)[what] += 1
            continue
        took.append(time.monotonic() - begun)
        found = json.loads(answer.body)["columns"]
        if _right(site, asked, found):
            figures.right += 1
        else:
            figures.wrong += 1
            figures.findings.append(f"neighbours of {asked}: {found}")
    connection.close()


def _right(site, asked, found):
    """Whether these are the nearest items of the store, whose records nobody writes meanwhile."""
    store = site.table()
    with contextlib.closing(store):
        numbers = [*range(values.ITEMS), *range(values.OLD, values.OLD + values.LENGTH)]
        ids = [values.item_id(n) for n in numbers]
        vectors = store.read_embeddings(values.SPACE, ids)
    wide = vectors.codes.astype(np.int64)
    norms = np.sqrt((wide * wide).sum(axis=1))
    row = ids.index(asked)
    cosines = wide @ wide[row] / norms / norms[row]
    cosines[row] = -2.0
    nearest = np.sort(cosines)[::-1][:K]
    got = np.array(found["cosine"])
    said = np.array([cosines[ids.index(i)] for i in found["item_id"]])
    return len(got) == K and np.allclose(got, nearest, atol=1e-5) and np.allclose(got, said, atol=1e-5)


def _start(sites):
    command = [str(Path(sys.executable).with_name("milvus-lite")), "server", "--host", "127.0.0.1"]
    options = ["--port", str(sites.index_port), "--data-dir", str(sites.folder / "milvus")]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _load(sites, site):
    """Every vector of the store into the index, as soon as it answers."""
    ends = time.monotonic() + 60
    store = site.table()
    with contextlib.closing(store):
        ids = [values.item_id(n) for n in (*range(values.ITEMS), *range(values.OLD, values.OLD + values.LENGTH))]
        vectors = store.read_embeddings(values.SPACE, ids)
        while not _filled(sites, vectors, len(ids)):
            assert time.monotonic() < ends, "the index server did not start"
            time.sleep(0.2)


def _filled(sites, vectors, count):
    """Whether the server took them all; a client may find it gone at the first call, or already when it connects."""
    try:
        index = vector_index(Settings(index_uri=f"http://127.0.0.1:{sites.index_port}"))
    except Exception:  # noqa: BLE001 - until it is up
        return False
    with contextlib.closing(index), contextlib.suppress(Transient):
        index.ensure(values.SPACE)
        index.upsert(values.SPACE, vectors, [b"0" * KEY_BYTES] * count)
        index.flush(values.SPACE)
        return True
    return False
