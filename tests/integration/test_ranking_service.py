"""``examples/ranking_service.py``: the order it gives, and what it does without features."""

import importlib.util
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from moontide.client import AsyncClient
from serving import RankingClient
from serving.prefetch import PrefetchCache
from tests.http_server import answering, running
from tests.unit.serving.http_site import opened

pytestmark = pytest.mark.integration
PATH = Path(__file__).parents[2] / "examples" / "ranking_service.py"
ITEMS = ["nobody", "c", "a", "d", "b"]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("ranking_service", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path):
    client, live = opened(tmp_path)
    with client:
        yield RankingClient(client.online, live, prefetched=PrefetchCache(time.monotonic)), live


def oracle(table):
    """The mean centre of the tiers in which behaviours fell, in plain Python."""
    found = []
    for counts in table["counts"].to_pylist():
        weighed = sum(count * ((2 * n + 1) / len(counts) - 1) for n, count in enumerate(counts))
        found.append(weighed / max(sum(counts), 1))
    return found


@pytest.mark.parametrize("items", [[], ["a"], ITEMS])
def test_the_order_follows_the_tiers_and_the_user_side_was_read_ahead(example, site, items):
    came = []

    class Noted(RankingClient):
        def read(self, *args, **values):
            found = super().read(*args, **values)
            came.append(found.metadata["prefetch"])
            return found

    noted = Noted(site[0].online, site[1], prefetched=PrefetchCache(time.monotonic))
    with running(noted, site[1]) as url, answering(example.ranking_app(AsyncClient(url, timeout=10))) as mine:
        answer = httpx.post(f"{mine}/rank", json={"user_id": "u", "item_ids": items}, timeout=10).json()
    expected = oracle(site[0].features("u", items))
    order = sorted(range(len(items)), key=lambda n: -expected[n])
    assert answer["item_ids"] == [items[n] for n in order]
    assert np.allclose(answer["scores"], [expected[n] for n in order])
    assert came == ["hit"]


def test_without_a_server_it_keeps_the_order_of_retrieval(example):
    with answering(example.ranking_app(AsyncClient("http://127.0.0.1:1", timeout=0.5))) as mine:
        answer = httpx.post(f"{mine}/rank", json={"user_id": "u", "item_ids": ITEMS}, timeout=10).json()
    assert answer == {"item_ids": ITEMS, "scores": None}


def test_it_stays_an_example_of_about_fifty_lines():
    code = PATH.read_text().split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 55
