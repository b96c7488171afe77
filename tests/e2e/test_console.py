"""The console as a person sees it: a real server on a part of the example data, looked at in a headless Chromium."""

from __future__ import annotations

import json

import pytest

from serving import RankingClient
from tests.browser import Browser, chromium
from tests.console_site import EVIL, USER, ConsoleSite

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(chromium() is None, reason="no chromium: apt-get install chromium"),
]
TOKEN = "a-token-for-the-console-test"
ITEM = "lu:MH07-Green"
READY = "document.body?.dataset.ready === 'yes' && !document.body.dataset.busy"
STATUS = "document.getElementById('status')?.textContent ?? ''"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with ConsoleSite(tmp_path_factory.mktemp("console"), token=TOKEN) as made:
        yield made.start()


@pytest.fixture(scope="module")
def client(site):
    """The same values, read in this process from the same store."""
    return RankingClient(site.store, site.live)


@pytest.fixture(scope="module")
def tab(site, tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def page(tab, site):
    """The console, let in; nothing may have gone wrong when a test is done with it."""
    tab.open(f"{site.address}/console")
    tab.wait("document.readyState === 'complete' && typeof sessionStorage")
    if tab.ask("sessionStorage.length") == 0:
        tab.wait(STATUS, lambda said: "401" in said)
        tab.wait("document.activeElement.id", lambda found: found == "token")
        tab.type(TOKEN)
        tab.press("Enter", 13)
    tab.wait(READY)
    tab.problems.clear()
    yield tab
    tab.wait("!document.body.dataset.busy")
    assert tab.problems == []


def texts(page, selector):
    return page.ask(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")


def search(page, text):
    page.ask("document.getElementById('search').focus(); document.getElementById('search').select()")
    page.type(text)
    page.press("Enter", 13)
    page.wait(STATUS, lambda said: "items" in said or "No item" in said)


def near(page, item):
    page.ask(f"document.querySelector('#found [data-item=\"{item}\"] .face').click()")
    page.wait(STATUS, lambda said: said.endswith(f"neighbours of {item}"))


def test_it_asks_for_a_token_and_keeps_it_in_this_tab_alone(page):
    assert page.ask("Object.values(sessionStorage)") == [TOKEN]
    assert page.ask("localStorage.length") == 0
    assert page.ask("document.cookie") == ""
    assert TOKEN not in page.ask("location.href + document.documentElement.outerHTML")
    assert page.ask("document.getElementById('token').value") == ""


def test_neighbours_are_those_of_the_client_with_titles_and_pictures(page, site, client):
    search(page, "hero hoodie")
    near(page, ITEM)
    expected = client.similar(ITEM, k=12)
    cards = page.ask(
        "[...document.querySelectorAll('#near-cards .card')].map(c => "
        "[c.dataset.item, c.querySelector('.title').textContent, c.querySelector('.badge')?.textContent])"
    )
    assert cards[0] == [ITEM, "Hero Hoodie", None]
    assert [item for item, _, _ in cards[1:]] == expected["item_id"].to_pylist()
    assert [badge for _, _, badge in cards[1:]] == [f"{cosine:.3f}" for cosine in expected["cosine"].to_pylist()]
    assert {title for item, title, _ in cards if item.startswith("lu:MH07")} == {"Hero Hoodie"}
    assert texts(page, "#near-title") == ["Nearest to Hero Hoodie"]
    assert "moon_v2" in texts(page, "#near-note")[0]
    pictured = [item for item, _, _ in cards if item.startswith("lu:")]
    assert len(pictured) >= 10
    page.wait(
        "[...document.querySelectorAll('#near-cards img')].filter(i => i.naturalWidth > 50 && i.src.startsWith('blob:')).length",
        lambda shown: shown == len(pictured),
    )


def test_a_hostile_title_is_text_and_nothing_else(page):
    search(page, "quotes")
    assert texts(page, "#found .title") == [EVIL]
    assert texts(page, "#found .words") == [EVIL]
    near(page, "evil-1")
    assert texts(page, "#near-title") == [f"Nearest to {EVIL}"]
    page.ask("document.querySelector('#found .add').click()")
    assert page.ask("document.getElementById('candidates').value") == "evil-1"
    assert page.ask("window.pwned") is None
    assert page.ask("document.querySelectorAll('main script, main b[onclick], main img[onerror]').length") == 0
    assert page.ask("document.querySelectorAll('script').length") == 1


def test_tier_bars_are_the_counts_of_the_client(page, site, client):
    page.ask("document.getElementById('user-id').focus()")
    page.type(USER)
    page.press("Enter", 13)
    page.wait(STATUS, lambda said: said == "60 behaviours")
    behaviours = client.sequence(USER)["item_id"].to_pylist()[::-1]
    assert page.ask("[...document.querySelectorAll('#history-cards .card')].map(c => c.dataset.item)") == behaviours
    candidates = [behaviours[0], ITEM, "lu:MH01-Black", "nobody", "evil-1"]
    page.ask(f"document.getElementById('candidates').value = {json.dumps(' '.join(candidates))}")
    page.ask("document.querySelector('#tiers-form button').click()")
    page.wait(STATUS, lambda said: said == "Tiers of 5 candidates")
    expected = client.features(USER, candidates)
    shown = page.ask(
        "[...document.querySelectorAll('#bars .candidate')].map(c => ({counts: c.dataset.counts, missing: c.dataset.missing, "
        "labels: [...c.querySelectorAll('g text')].map(t => Number(t.textContent)), "
        "heights: [...c.querySelectorAll('g:not(.none) rect')].map(r => Number(r.getAttribute('height')))}))"
    )
    peak = max(max(map(max, expected["counts"].to_pylist())), max(expected["missing"].to_pylist()))
    for row, counts, missing in zip(shown, expected["counts"].to_pylist(), expected["missing"].to_pylist(), strict=True):
        assert row["counts"] == " ".join(map(str, counts))
        assert row["missing"] == str(missing)
        assert row["labels"] == [count for count in [*counts, missing] if count]
        assert row["heights"] == pytest.approx([84 * count / peak for count in counts])
    assert expected["missing"].to_pylist()[3] == 50
    said = texts(page, "#tiers-note")[0]
    assert "moon_v2_n20_l50_drop" in said and "drop_same_id: a behaviour on the candidate itself is counted nowhere" in said
    notes = texts(page, "#bars .note")
    dropped = behaviours[:50].count(behaviours[0])
    assert f"{dropped} on the item itself, dropped" in notes[0]
    assert "50 without a vector, the candidate has no vector" in notes[3]


def test_the_state_of_the_space(page, site):
    count = len({item for ids in site.store.scan(site.live.views()[0]) for item in ids})
    cells = texts(page, "#states-rows tr:first-child > *")
    assert cells[0] == "moon_v2, 256 dims"
    assert cells[1] == str(count)
    assert cells[2] == f"{count} of {count} (100.0 %)"
    assert cells[4][:4] == cells[3][:4] >= "2025"
    assert "milvus-lite" in cells[6]


def test_an_address_is_a_view_and_errors_are_words(page, site):
    page.open(f"{site.address}/console#q=oslo&user={USER}&candidates={ITEM}")
    page.wait(READY)
    assert texts(page, "#tiers-title") == [f"Tiers of 1 candidates for {USER}"]
    assert set(texts(page, "#found .title")) == {"Oslo Trek Hoodie"}
    page.ask("document.getElementById('user-id').value = 'no id'")
    page.ask("document.querySelector('#user-form button').click()")
    page.wait(STATUS, lambda said: "(422)" in said and "user_id: expected" in said)
    assert page.ask("document.getElementById('status').className") == "problem"
    page.problems[:] = [one for one in page.problems if "422" not in one]


CONTRAST = """(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.disabled || e.closest(".skip")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(e.namespaceURI.endsWith("svg") ? style.fill : style.color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_used_from_the_keyboard(page, site, scheme):
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(f"{site.address}/console#q=hoodie&item={ITEM}&user={USER}&candidates={ITEM}+nobody")
    page.wait(READY)
    assert page.ask("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
    assert page.ask(CONTRAST) == []
    assert page.ask("[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).length") == 0
    assert page.ask("[...document.querySelectorAll('button')].filter(e => !(e.ariaLabel || e.textContent.trim())).length") == 0
    assert page.ask("[...document.querySelectorAll('svg')].filter(e => !e.getAttribute('aria-label')).length") == 0
    page.ask("document.getElementById('search').focus()")
    seen = []
    for _ in range(4):
        page.press("Tab", 9)
        seen.append(page.ask("document.activeElement.ariaLabel || document.activeElement.textContent"))
    assert seen[0] == "Search"
    assert seen[1].startswith("Nearest items of") and seen[2].startswith("Add ") and seen[3].startswith("Nearest items of")
    page.call("Emulation.setEmulatedMedia", features=[])


def test_it_asked_nobody_but_its_own_server(page, site):
    assert len(page.requests) > 30
    foreign = [
        url for url in page.requests if not url.startswith((f"{site.address}/console", "blob:" + site.address, "about:blank"))
    ]
    assert foreign == []
    assert not any(TOKEN in url for url in page.requests)
