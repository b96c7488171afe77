"""The demo's report: one HTML file with everything inside it, readable without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

_PLOT_WIDTH: Final = 400
_PLOT_HEIGHT: Final = 96
_HISTORY_SHOWN: Final = 24
_SIMILAR: Final = (
    "Nearest neighbours by cosine, from the vector index; the item asked for is on the left. The encoder was trained on the data "
    "sets these examples come from: how it does on items it never saw is in the section on the space."
)
_CREDIT: Final = (
    "Example data: Online Retail (Daqing Chen, UCI Machine Learning Repository, CC BY 4.0); Magento 2 sample data "
    "(OSL-3.0 or AFL-3.0); Clothing dataset (Alexey Grigorev and contributors, CC0 1.0)."
)


@dataclass(frozen=True, slots=True)
class Card:
    """An item as people see it; `image` is the bytes of a JPEG, or None."""

    item_id: str
    title: str
    note: str = ""
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A query item and its hits in falling order of cosine."""

    query: Card
    hits: Sequence[tuple[Card, float]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate for the user: why it was chosen, behaviours per tier (least similar first), behaviours in no tier."""

    card: Card
    why: str
    counts: Sequence[int]
    missing: int


@dataclass(frozen=True, slots=True)
class Events:
    """What a file of events changed.

    Attributes:
        neighbours: (what, neighbours) of the items that changed.
        tiers: (what, counts) of one user against one item, before and after.
        about: whose tiers these are.
        facts: (what happened, what it did).
    """

    neighbours: Sequence[tuple[str, Neighbours]]
    tiers: Sequence[tuple[str, Sequence[int]]]
    about: str
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Report:
    """What the page shows; every text is plain, and escaped here.

    Attributes:
        headline: (figure, what it is), shown large.
        rows: (what, figure, remark) of the table of the run.
        similar: neighbours, by modality.
        user_id, history: (day, title), newest first, of the user whose candidates are shown.
        candidates: with their tiers.
        identity: (name, value) of the space.
        checks: (what was checked, outcome).
        events: what events from Kafka changed afterwards.
    """

    headline: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, str, str]]
    similar: Sequence[tuple[str, Sequence[Neighbours]]] = ()
    user_id: str = ""
    history: Sequence[tuple[str, str]] = ()
    candidates: Sequence[Candidate] = ()
    identity: Sequence[tuple[str, str]] = ()
    checks: Sequence[tuple[str, str]] = field(default=())
    events: Events | None = None


def render(report: Report) -> str:
    """The page."""
    style = resources.files("moontide.cli").joinpath("report.css").read_text(encoding="utf-8")
    sections = [
        _section("What was done", _run(report)),
        _section("Similar items", _similar(report)),
        _section("A user and five candidates", _user(report)),
        *([_section("What the events changed", _events(report.events))] if report.events else []),
        _section("The embedding space", _pairs(report.identity)),
        _section("What was checked", _pairs(report.checks)),
    ]
    tiles = "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(label)}</span></div>' for value, label in report.headline
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>moontide: report of the demo</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        "<header><h1>moontide</h1><p>A real catalog became features a ranker can read: the report of one run of "
        f'<code>make demo</code>.</p><div class="tiles">{tiles}</div></header>\n'
        + "\n".join(sections)
        + f"\n<footer>{_text(_CREDIT)}</footer>\n</main>\n</body>\n</html>\n"
    )


def tier_plot(counts: Sequence[int]) -> str:
    """An SVG of N bars over the range of the cosine, each with its count on top."""
    peak, slot = max([*counts, 1]), _PLOT_WIDTH / max(len(counts), 1)
    parts = [f'<line class="axis" x1="0" x2="{_PLOT_WIDTH}" y1="{_PLOT_HEIGHT}" y2="{_PLOT_HEIGHT}"/>']
    for tier, count in enumerate(counts):
        tall, x = count / peak * (_PLOT_HEIGHT - 16), tier * slot
        low, high = -1 + 2 * tier / len(counts), -1 + 2 * (tier + 1) / len(counts)
        like = "like" if tier >= len(counts) / 2 else "unlike"
        label = f'<text x="{x + slot / 2:.1f}" y="{_PLOT_HEIGHT - tall - 4:.1f}">{count}</text>' if count else ""
        parts.append(
            f'<g class="{like}"><title>cosine {low:.1f} to {high:.1f}: {count}</title>'
            f'<rect x="{x + 1.5:.1f}" y="{_PLOT_HEIGHT - tall:.1f}" width="{slot - 3:.1f}" height="{tall:.1f}" rx="1.5"/>'
            f"{label}</g>"
        )
    for at, text in ((0.0, "−1"), (0.5, "0"), (1.0, "1")):
        anchor = {0.0: "start", 1.0: "end"}.get(at, "middle")
        parts.append(
            f'<text class="tick" style="text-anchor:{anchor}" x="{at * _PLOT_WIDTH}" y="{_PLOT_HEIGHT + 15}">{text}</text>'
        )
    total = sum(counts)
    return (
        f'<svg viewBox="0 -2 {_PLOT_WIDTH} {_PLOT_HEIGHT + 20}" role="img" '
        f'aria-label="{total} behaviours by similarity">{"".join(parts)}</svg>'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n{body}</section>"


def _run(report: Report) -> str:
    rows = "".join(
        f"<tr><th>{_text(a)}</th><td class='figure'>{_text(b)}</td><td>{_text(c)}</td></tr>" for a, b, c in report.rows
    )
    return f"<table><tbody>{rows}</tbody></table>\n"


def _similar(report: Report) -> str:
    parts = [f"<p>{_text(_SIMILAR)}</p>"]
    for title, groups in report.similar:
        parts.append(f"<h3>{_text(title)}</h3>")
        parts += map(_strip, groups)
    return "\n".join(parts)


def _strip(group: Neighbours) -> str:
    hits = "".join(_card(card, f"{score:.2f}") for card, score in group.hits)
    return f'<div class="strip"><div class="query">{_card(group.query)}</div>{hits}</div>'


def _card(card: Card, score: str = "") -> str:
    badge = f'<span class="score">{score}</span>' if score else ""
    caption = _text(card.title if card.image else card.note)
    return f'<figure title="{_text(card.item_id)}">{_face(card, badge)}<figcaption>{caption}</figcaption></figure>'


def _face(card: Card, badge: str = "") -> str:
    if not card.image:
        return f'<div class="face"><div class="words">{_text(card.title)}</div>{badge}</div>'
    data = base64.b64encode(card.image).decode()
    return f'<div class="face"><img alt="{_text(card.title)}" src="data:image/jpeg;base64,{data}">{badge}</div>'


def _user(report: Report) -> str:
    shown = "".join(f"<li><time>{_text(day)}</time> {_text(title)}</li>" for day, title in report.history[:_HISTORY_SHOWN])
    rest = len(report.history) - _HISTORY_SHOWN
    more = f"<li class='more'>and {rest} earlier</li>" if rest > 0 else ""
    rows = "".join(map(_candidate, report.candidates))
    return (
        f"<p>Of user <code>{_text(report.user_id)}</code> the last {len(report.history)} behaviours count. For each candidate "
        "the bars say how many of them fall in each tier of cosine similarity, from −1 (left) to 1 (right): SimTier, which a "
        f'ranking model reads.</p><div class="user"><ol class="history">{shown}{more}</ol><div>{rows}</div></div>'
    )


def _candidate(candidate: Candidate) -> str:
    card = candidate.card
    counted = f"{sum(candidate.counts)} behaviours counted, {candidate.missing} without a vector"
    words = f"<div><b>{_text(card.title)}</b><small>{_text(card.item_id)}</small><p>{_text(candidate.why)}</p></div>"
    about = f'<div class="about">{_face(card)}{words}</div>' if card.image else words
    return f'<div class="candidate">{about}<div>{tier_plot(candidate.counts)}<small>{counted}</small></div></div>'


def _events(events: Events) -> str:
    strips = "\n".join(f"<h3>{_text(title)}</h3>{_strip(group)}" for title, group in events.neighbours)
    plots = "".join(f"<div><small>{_text(title)}</small>{tier_plot(counts)}</div>" for title, counts in events.tiers)
    return (
        "<p>After all of the above a Kafka broker and the consumer were started, and a file of events was sent: changes, a new "
        "item, deletes, a broken record, purchases. Nothing was computed again but what they touched.</p>"
        f'{_pairs(events.facts)}{strips}<h3>{_text(events.about)}</h3><div class="pair">{plots}</div>'
    )


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{_text(name)}</th><td><code>{_text(value)}</code></td></tr>" for name, value in pairs)
    return f"<table><tbody>{rows}</tbody></table>\n"


def _text(value: str) -> str:
    return html.escape(value)
