"""``report.html``: a measurement for people, in one file that loads nothing.

Figures beside baselines, nearest neighbours, heat maps over pictures, vector health, and what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from encoders.evaluation import page
from encoders.evaluation.health import eigenvalue_shares, random_cosines
from encoders.evaluation.measured import MAJORITY, MeasuredData, MeasuredTask, forms_of
from encoders.evaluation.measures import Figure
from encoders.evaluation.neighbours import Answer, choose
from encoders.evaluation.output import notes
from encoders.evaluation.pictures import Pictures, heat_maps
from encoders.evaluation.tasks import Task, text_of
from encoders.evaluation.untrained import UNTRAINED
from encoders.evaluation.vectors import ByCodes, Vectors

SEED: Final = 7
#: One measure a task is drawn as bars: the first of these that the task has.
_DRAWN: Final = ("precision_at_10", "recall_at_10", "accuracy")
_BINS: Final = 80
_LEAD: Final = (
    "Figures are per cent, on groups the encoder never saw unless the split says otherwise; below each its 95 % interval."
)
_TABLE: Final = (
    "A dash: the method cannot read what the task asks about, a text method no pictures and an image method no text. "
    "The best figure of a line is marked ●."
)
_CASES: Final = (
    "The query is on the left; then its nearest items by cosine of the int8 codes, right answers framed in green. Found and "
    "missed cases are drawn under a seed, not picked; the worst are those whose first right answer comes last."
)
_HEAT: Final = (
    "Each region of the picture is covered with the picture's mean colour in turn. Orange: the cosine falls without it, so the "
    "vector lives on it; blue: the cosine rises. Full colour is the change named below each picture. Second, where the item has "
    "a title: the same against the title's vector, or which regions make the picture match its words."
)
_HEALTH: Final = (
    "Left: how the variance spreads over directions, largest first, cut at the last that holds a thousandth of the first. "
    "Right: cosines of random pairs; a healthy space has its hill near 0, and width."
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is reported on: the encoder's vectors, the methods' names (its own first), and a seed for what is drawn."""

    vectors: Vectors
    methods: tuple[str, ...]
    seed: int = SEED


def write_report(folder: Path, found: Sequence[MeasuredData], subject: Subject) -> Path:
    """Write `folder`/report.html, below 5 MB: when the pictures' share is used up, items are shown by their words."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    path.write_text(render(found, subject), encoding="utf-8")
    return path


def render(found: Sequence[MeasuredData], subject: Subject) -> str:
    """The page."""
    encoder = subject.vectors.encoder
    pictures = Pictures()
    sections = []
    for part in found:
        name = f"{part.built.name} [{part.built.split}]"
        if not part.tasks:
            sections.append(page.section(name, page.paragraph("Nothing to measure here."), _left_out(part)))
            continue
        sections += [
            page.section(f"{name}: figures", page.paragraph(_TABLE), _table(part, subject.methods), _bars(part, subject.methods)),
            _heat(part, subject, pictures),
            _cases(part, subject, pictures),
            _health(part, subject),
            page.section(f"{name}: what was left out", _left_out(part)),
        ]
    about = page.section("The encoder", page.table(("", "value"), _about(subject)))
    return page.page(f"{encoder.space.id}: what the encoder is worth", _LEAD, [about, *filter(None, sections)])


def _about(subject: Subject) -> list[list[tuple[str, str]]]:
    manifest = subject.vectors.encoder.artifact.manifest
    data = [str(entry.get("name", "?")) for entry in manifest.provenance.get("data", ()) if isinstance(entry, dict)]
    facts = {
        "space": manifest.space.id,
        "dim": str(manifest.space.dim),
        "digest": manifest.space.encoder_digest,
        "training data": ", ".join(data) or "not said",
        "training cut-off": manifest.training_cutoff or "nothing was dated",
    }
    return [[(name, ""), (str(value), "")] for name, value in facts.items()]


def _table(part: MeasuredData, methods: Sequence[str]) -> str:
    known = {name for task in part.tasks for by in task.figures.values() for name in by}
    names = [name for name in (*methods, MAJORITY) if name in known or name not in (UNTRAINED, MAJORITY)]
    rows = []
    for task in part.tasks:
        for measure, by in task.figures.items():
            best = max((figure.value for figure in by.values()), default=np.nan)
            own = [(f"{task.name.rpartition('/')[2]} · {measure}", f"{task.queries} queries, {task.gallery} in the gallery")]
            rows.append(own + [_cell(by.get(name), best) for name in names] + [(_loss(task, measure), "")])
    return page.table(["task", *names, "lost by int8, points"], rows)


def _cell(figure: Figure | None, best: float) -> tuple[str, str]:
    if figure is None:
        return "–", ""
    return f"{100 * figure.value:.1f}{' ●' if figure.value >= best else ''}", _interval(figure)


def _interval(figure: Figure) -> str:
    return f"{100 * figure.low:.1f}–{100 * figure.high:.1f}" if np.isfinite(figure.low) else "interval not known"


def _loss(task: MeasuredTask, measure: str) -> str:
    return f"{task.loss_by_int8[measure]:+.2f}" if measure in task.loss_by_int8 else "–"


def _bars(part: MeasuredData, methods: Sequence[str]) -> str:
    plots = []
    for task in part.tasks:
        measure = next((name for name in _DRAWN if task.figures.get(name)), None)
        if measure is None:
            continue
        by = task.figures[measure]
        shown = [page.Bar(n, by[n].value, by[n].low, by[n].high, n == methods[0]) for n in (*methods, MAJORITY) if n in by]
        plots.append(f"<div>{page.heading(f'{task.name}: {measure}')}{page.bars(shown)}</div>")
    return f'<div class="bars">{"".join(plots)}</div>'


def _cases(part: MeasuredData, subject: Subject, pictures: Pictures) -> str:
    own = ByCodes("own", subject.vectors)
    parts = []
    for task in part.built.tasks:
        if "accuracy" in task.measures:
            continue
        chosen = choose(task, own, seed=subject.seed)
        parts.append(page.heading(task.name))
        for kind, cases in (("found", chosen.found), ("missed", chosen.missed), ("worst", chosen.worst)):
            parts += [_strip(task, kind, answer, pictures) for answer in cases]
    if not parts:
        return ""
    return page.section(f"{part.built.name}: nearest neighbours", page.paragraph(_CASES), *parts)


def _strip(task: Task, kind: str, answer: Answer, pictures: Pictures) -> str:
    asked = page.figure(text_of(answer.query) or "a picture", image=pictures.of(answer.query, task.folder),
                        badge=kind, caption=f"first right answer: rank {answer.best_right}")  # fmt: skip
    hits = "".join(
        page.figure(text_of(hit.item) or "a picture", image=pictures.of(hit.item, task.folder), badge=f"{hit.score:.2f}",
                    caption=text_of(hit.item)[:80] or " ", mark="right" if hit.right else "")
        for hit in answer.hits
    )  # fmt: skip
    return f'<div class="strip nine"><div class="query">{asked}</div>{hits}</div>'


def _heat(part: MeasuredData, subject: Subject, pictures: Pictures) -> str:
    drawn = heat_maps(part.built, subject.vectors, seed=subject.seed)
    if not drawn:
        return ""
    faces = []
    for one in drawn:
        faces.append(page.figure(one.words, image=pictures.spend(one.plain), caption=one.words[:80]))
        for what, heat, image in one.maps:
            change = f"{what}, cosine {heat.cosine:.2f}; full colour {heat.strongest:.3f}"
            faces.append(page.figure(one.words, image=pictures.spend(image), caption=change))
    legend = '<div class="legend"></div><small>works against the target · no effect · holds it up</small>'
    body = f'<div class="heat">{"".join(faces)}</div>'
    return page.section(f"{part.built.name}: where the vector comes from", page.paragraph(_HEAT), legend, body)


def _health(part: MeasuredData, subject: Subject) -> str:
    parts = []
    for form, items in forms_of(part.built.examples).items():
        vectors = subject.vectors.codes(items, part.built.folder)
        vectors = vectors.take(vectors.present)
        if not len(vectors):
            continue
        unit = vectors.codes.astype(np.float32) * vectors.inv_norm[:, None]
        shares = np.sort(eigenvalue_shares(unit))[::-1]
        shares = shares[shares >= shares[0] / 1000]
        cosines, _ = np.histogram(random_cosines(unit), bins=_BINS, range=(-1.0, 1.0))
        spectrum = page.columns(shares, ("1", f"{100 * shares[0]:.1f} % in the first", str(len(shares))))
        plots = f'<div class="pair"><div>{spectrum}</div><div>{page.columns(cosines, ("−1", "0", "1"))}</div></div>'
        parts += [page.heading(f"{form}: {len(items)} contents"), plots]
    names = list(dict.fromkeys(name for figures in part.health.values() for name in figures))
    forms = part.health.values()
    rows = [[(name, ""), *((f"{form[name]:.4g}" if name in form else "–", "") for form in forms)] for name in names]
    figures = page.table(["", *part.health], rows)
    return page.section(f"{part.built.name}: vector health", page.paragraph(_HEALTH), *parts, figures)


def _left_out(part: MeasuredData) -> str:
    return "".join(page.paragraph(line) for line in notes(part) if not line.startswith("  vectors"))
