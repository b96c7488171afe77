"""The comparison for people: Markdown of ``table.json``, and ``python -m ranking.results`` to keep it in a document.

The command writes the tables between the lines `BEGIN` and `END` of the document and the plots beside it, so no figure of the
document was typed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from encoders.study.tables import markdown, number, span
from moontide.errors import Misconfigured, MoontideError
from moontide.pit.card import shown
from moontide.pit.layout import read_card

BEGIN: Final = "<!-- results: begin -->"
END: Final = "<!-- results: end -->"

VARIANTS: Final = {"new": "Items new to the user", "all": "All positives"}
TITLES: Final = {
    "id": "ID", "raw": "+ raw vector", "similarity": "+ mean, max similarity", "simtier": "+ SimTier", "make": "+ MAKE",
    "simtier_make": "+ SimTier + MAKE", "sata_simtier": "+ SA-TA + SimTier", "raw_shuffled": "raw vector, shuffled",
    "simtier_shuffled": "SimTier, shuffled",
}  # fmt: skip
#: Column, figure, and what one unit of the figure is shown as: points of AUC, thousandths of a nat.
DIFFERENCES: Final = (
    ("GAUC", "whole gauc", 100.0), ("AUC", "whole auc", 100.0), ("log-loss, 1/1000", "whole log_loss", 1000.0),
    ("new items: GAUC", "new_items gauc", 100.0), ("new items: AUC", "new_items auc", 100.0),
)  # fmt: skip
SLICES: Final = (
    ("tail items: GAUC", "tail_items gauc", 100.0), ("tail items: AUC", "tail_items auc", 100.0),
    ("short histories: GAUC", "short_histories gauc", 100.0), ("short histories: AUC", "short_histories auc", 100.0),
    ("new items: log-loss, 1/1000", "new_items log_loss", 1000.0),
)  # fmt: skip
LEVELS: Final = (
    ("GAUC", "whole gauc", 100.0, 2), ("spread", "", 100.0, 2), ("AUC", "whole auc", 100.0, 2),
    ("log-loss", "whole log_loss", 1.0, 4), ("NE", "whole normalised_entropy", 1.0, 4),
    ("calibration", "whole calibration", 1.0, 3), ("calibration, new items", "new_items calibration", 1.0, 3),
    ("new items: GAUC", "new_items gauc", 100.0, 2), ("new items: AUC", "new_items auc", 100.0, 2),
)  # fmt: skip
#: Column, slice and figure before and after recalibration, and digits.
RECALIBRATED: Final = (
    ("log-loss", "whole", "log_loss", 4), ("NE", "whole", "normalised_entropy", 4), ("calibration", "whole", "calibration", 3),
    ("calibration, new items", "new_items", "calibration", 3),
)  # fmt: skip


def as_markdown(body: Mapping[str, Any]) -> str:
    """Every table of a comparison, a section per variant and length; ends with a new line."""
    return "\n".join(_group(group) for group in body["groups"])


def title(row: Mapping[str, Any]) -> str:
    """Of a row, e.g. ``+ SimTier (moon)``."""
    name = TITLES.get(row["model"], str(row["model"]))
    return f"{name} ({row['space']})" if row["space"] else name


def about(group: Mapping[str, Any]) -> str:
    """What the impressions are: the published set, the variant that was sampled, or, of a training set of others, its labels."""
    card = group["card"]
    given = card.get("input", {})
    sampled = given.get("sampler", {}).get("variant")
    if card.get("source"):
        return str(card["source"])
    if sampled is None and given:
        return "Impressions as they were given"
    return VARIANTS.get(sampled or group["variant"], str(sampled or group["variant"]))


def heading(group: Mapping[str, Any]) -> str:
    """``Items new to the user, L = 50``."""
    return f"{about(group)}, L = {group['length']}"


def document(body: Mapping[str, Any], plots: Sequence[Path], card: Mapping[str, Any] | None = None) -> str:
    """What stands between the markers: command, tables, plots, data card.

    Args:
        body: the comparison.
        plots: pictures that lie beside the document.
        card: of the training set; the first run's own where it is None.
    """
    first = body["groups"][0]
    images = "\n".join(f"![{path.stem.replace('_', ' ')}]({path.name})\n" for path in plots)
    days = [shown(moment) for moment in first["settings"].get("split", ())]
    about = {"scalars of every model": first["settings"].get("scalars", []), "split": days, **(card or first["card"])}
    described = markdown(["", "value"], [[name, _plain(value)] for name, value in _flat(about)])
    seeds = len(first["rows"][0]["seeds"])
    how = f"Seeds: {seeds}, paired; {body['draws']} draws of seeds and users; digest of the data `{body['data_digest']}`."
    return f"```\n{body['command']}\n```\n{how}\n\n{as_markdown(body)}\n{images}\n### Data card\n{described}"


def put(text: str, made: str) -> str:
    """The document `text` with `made` between its markers.

    Raises:
        Misconfigured: not each marker once, in order.
    """
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end or END in before + after or BEGIN in after:
        raise Misconfigured(f"document: expected one line {BEGIN!r} and after it one {END!r}; write them in")
    return f"{before}{begin}{made}{end}{after}"


def _group(group: Mapping[str, Any]) -> str:
    parts = ", ".join(
        f"{name.replace('_', ' ')} {part['rows']:,} ({part['positives']:,} positives, {part['users']:,} users in GAUC)"
        for name, part in group["slices"].items()
    )
    rows = group["rows"]
    others = [row for row in rows if row["model"] != group["base"]]
    differences, slices = (
        markdown(
            [f"less {TITLES.get(group['base'], group['base'])}", *(column for column, _, _ in columns)],
            [[title(row), *_cells(row, columns)] for row in others],
        )
        for columns in (DIFFERENCES, SLICES)
    )
    levels = markdown(
        ["model", "seeds", *(column for column, *_ in LEVELS)],
        [[title(row), str(len(row["seeds"])), *_levels(row)] for row in rows],
    )
    rest = "\n".join((slices, _between(group), _recalibrated(rows)))
    return f"### {heading(group)}\nTest impressions: {parts}.\n\n{differences}\n{levels}\n{rest}"


def _cells(row: Mapping[str, Any], columns: Sequence[tuple[str, str, float]]) -> list[str]:
    return [difference(row["figures"].get(name), unit) for _, name, unit in columns]


def difference(figure: Mapping[str, float | None] | None, unit: float) -> str:
    """A difference with its interval; bold where the interval excludes zero."""
    value, low, high = (_number(figure, key, unit) for key in ("difference", "low", "high"))
    shown = number(value, sign=True)
    if shown == "-":
        return shown
    bold = f"**{shown}**" if low > 0 or high < 0 else shown
    return f"{bold} ({span(low, high)})"


def _levels(row: Mapping[str, Any]) -> list[str]:
    figures = row["figures"]
    return [
        number(_number(figures.get(name or "whole gauc"), "value" if name else "spread", unit), digits)
        for _, name, unit, digits in LEVELS
    ]


def _recalibrated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Test figures before and after a scale fitted on the validation days; empty where no run has them."""
    known = [row for row in rows if row.get("recalibrated") is not None]
    if not known:
        return ""
    head = [f"{column}, {when}" for column, *_ in RECALIBRATED for when in ("before", "after")]
    cells = [[title(row), *_pairs(row["recalibrated"])] for row in known]
    return "Recalibrated on the validation days, AUC and GAUC as they were:\n\n" + markdown(["model", *head], cells)


def _pairs(found: Mapping[str, Any]) -> list[str]:
    tests = [found[when]["test"] for when in ("before", "after")]
    return [
        number(_number(test.get(part), name, 1.0), digits) for _, part, name, digits in RECALIBRATED for test in tests
    ]  # fmt: skip


def _number(figure: Mapping[str, float | None] | None, key: str, unit: float) -> float:
    value = None if figure is None else figure.get(key)
    return float("nan") if value is None else unit * float(value)


def _between(group: Mapping[str, Any]) -> str:
    """GAUC of each row less each other row's, controls apart."""
    shown = [row for row in group["rows"] if not row["control"] and row["model"] != group["base"]]
    if len(shown) < 2:
        return ""
    found: dict[tuple[str, str], str] = {}
    for pair in group["pairs"]:
        figure = pair["figures"].get("whole gauc")
        swapped = figure and {key: -figure[other] if figure[other] is not None else None for key, other in _SWAPPED}
        found[pair["first"], pair["second"]] = difference(figure, 100.0)
        found[pair["second"], pair["first"]] = difference(swapped, 100.0)
    rows = [[title(row), *(found.get((row["name"], other["name"]), "") for other in shown)] for row in shown]
    return "GAUC of the row less that of the column:\n\n" + markdown(["", *(title(row) for row in shown)], rows)


_SWAPPED: Final = (("difference", "difference"), ("low", "high"), ("high", "low"))


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, part in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        found += _flat(part, f"{name}: ") if isinstance(part, Mapping) else [(name, part)]
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m ranking.results", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--table", type=Path, required=True, help="table.json of ranking.compare")
    parser.add_argument("--document", type=Path, required=True, help=f"Markdown with the lines {BEGIN} and {END}")
    parser.add_argument("--set", type=Path, metavar="DIR", help="a training set whose card is shown; default: that of the runs")
    arguments = parser.parse_args(argv)
    path: Path = arguments.document
    from ranking.plots import draw_all

    try:
        body = json.loads(arguments.table.read_text("utf-8"))
        text = path.read_text("utf-8")
        put(text, "")
        card = None if arguments.set is None else read_card(arguments.set)
        plots = draw_all(body, path.parent, prefix=f"{path.stem}_")
        path.write_text(put(text, document(body, plots, card)), encoding="utf-8")
    except (OSError, ValueError, KeyError, MoontideError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
