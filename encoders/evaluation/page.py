"""Pieces of a self-contained HTML page: no script, nothing loaded, every text escaped. The look is the demo report's."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

TITLE_CHARS: Final = 160
_WIDTH: Final = 400
_HEIGHT: Final = 96
_STYLE: Final = """
main { max-width: 1320px; }
.wide { overflow-x: auto; }
.wide table { width: auto; min-width: 100%; font-variant-numeric: tabular-nums; }
.wide th, .wide td { padding: 6px 10px 6px 0; white-space: nowrap; }
.wide td { text-align: right; }
.wide td small { font-size: 11px; }
.wide th { width: auto; }
.strip.nine { grid-template-columns: repeat(9, 1fr); gap: 8px; }
.face.right { outline: 2px solid #2a9d43; outline-offset: 1px; }
.bars { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 10px 28px; }
.heat { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: 10px; }
.legend { height: 10px; max-width: 320px; border-radius: 5px;
  background: linear-gradient(90deg, rgb(30, 96, 200), #dddddd, rgb(232, 93, 4)); }
svg text.name { text-anchor: end; } svg text.value { text-anchor: start; }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; }
@media (max-width: 860px) { .strip.nine { grid-template-columns: repeat(4, 1fr); } }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A share in 0..1 with the ends of its interval (NaN: not known); `own` is drawn in the accent colour."""

    name: str
    value: float
    low: float
    high: float
    own: bool


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """The document."""
    # The demo's style is a file of data here: code of the floors above is not imported.
    style = resources.files("moontide").joinpath("cli", "report.css").read_text(encoding="utf-8") + _STYLE
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{text(title)}</h1><p>{text(lead)}</p></header>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A box with a heading; `parts` are HTML."""
    return f"<section><h2>{text(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def text(value: str) -> str:
    """Escaped; what steers a terminal or turns the direction of writing is shown as a sign."""
    return html.escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value))


def paragraph(value: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{text(value)}</p>"


def heading(value: str) -> str:
    """A small heading."""
    return f"<h3>{text(value)}</h3>"


def figure(words: str, *, image: bytes | None = None, badge: str = "", caption: str = "", mark: str = "") -> str:
    """A picture (bytes of a JPEG) or, without one, its words in a box. `mark` is a class such as ``right``."""
    short = words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1] + "…"
    shown = f'<span class="score">{text(badge)}</span>' if badge else ""
    if image is None:
        inner = f'<div class="words">{text(short)}</div>'
    else:
        inner = f'<img alt="{text(short)}" src="data:image/jpeg;base64,{base64.b64encode(image).decode()}">'
    below = f"<figcaption>{text(caption or (short if image is not None else ''))}</figcaption>"
    return f'<figure title="{text(short)}"><div class="face {mark}">{inner}{shown}</div>{below}</figure>'


def table(header: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Rows of (text, small text below it); the first cell of each names it."""
    top = "".join(f"<td><small>{text(name)}</small></td>" for name in header[1:])
    lines = [f"<tr><th><small>{text(header[0])}</small></th>{top}</tr>"]
    for row in rows:
        cells = [text(value) + (f"<small>{text(small)}</small>" if small else "") for value, small in row]
        lines.append(f"<tr><th>{cells[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>")
    return f'<div class="wide"><table><tbody>{"".join(lines)}</tbody></table></div>'


def bars(values: Sequence[Bar]) -> str:
    """An SVG of horizontal bars in per cent, each with its interval."""
    slot, left, width = 17, 120, 230
    parts = []
    for at, bar in enumerate(values):
        y, long = at * slot, max(0.0, min(1.0, bar.value)) * width
        like = "like" if bar.own else "unlike"
        parts.append(
            f'<g class="{like}"><text class="name" x="{left - 6}" y="{y + 11}">{text(bar.name[:22])}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{long:.1f}" height="{slot - 6}" rx="1.5"/></g>'
        )
        end = left + long
        if np.isfinite(bar.low) and np.isfinite(bar.high):
            low, end = left + bar.low * width, max(end, left + bar.high * width)
            middle = y + slot / 2
            parts.append(f'<line class="whisker" x1="{low:.1f}" x2="{left + bar.high * width:.1f}" y1="{middle}" y2="{middle}"/>')
        parts.append(f'<text class="value" x="{end + 5:.1f}" y="{y + 11}">{100 * bar.value:.1f}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {max(1, len(values)) * slot}" role="img" aria-label="bars">{"".join(parts)}</svg>'


def columns(heights: NDArray[np.floating], ticks: tuple[str, str, str]) -> str:
    """An SVG of narrow columns, e.g. a histogram or a spectrum; `ticks` name its left end, middle and right end."""
    peak = float(np.max(heights, initial=0.0)) or 1.0
    slot = _WIDTH / max(1, len(heights))
    parts = [f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/><g class="like">']
    for at, height in enumerate(heights):
        tall = max(0.0, float(height)) / peak * (_HEIGHT - 4)
        parts.append(
            f'<rect x="{at * slot:.2f}" y="{_HEIGHT - tall:.1f}" width="{max(0.4, slot - 0.5):.2f}" height="{tall:.1f}"/>'
        )
    parts.append("</g>")
    for at, name, anchor in zip((0, _WIDTH // 2, _WIDTH), ticks, ("start", "middle", "end"), strict=True):
        parts.append(f'<text style="text-anchor:{anchor}" x="{at}" y="{_HEIGHT + 14}">{text(name)}</text>')
    return f'<svg viewBox="0 -2 {_WIDTH} {_HEIGHT + 20}" role="img" aria-label="columns">{"".join(parts)}</svg>'
