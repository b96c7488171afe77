"""What a check found, and its history for whoever has to find out why."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Finding(NamedTuple):
    """Something that must not be. `kind` is counted in the report; `entity` and `place` lead to the history."""

    kind: str
    detail: str
    entity: str = ""
    place: tuple[str, int, int] | None = None


def summary(findings):
    """How many there are of each kind, and of whom, in one line."""
    about = sorted({f.entity or str(f.place) for f in findings})
    return f"{len(findings)} findings: {dict(Counter(f.kind for f in findings))} of {', '.join(about[:20])}"


def explain(e, findings, *, most=5):
    """The first findings with the whole history of what they are about."""
    lines = [summary(findings)]
    for finding in findings[:most]:
        lines.append(f"- {finding.kind} {finding.entity} {finding.place or ''}: {finding.detail}")
        about = [
            s for s in e.sent if (finding.entity and s.entity == finding.entity) or (finding.place and s.place == finding.place)
        ]
        places = {s.place for s in about} | {finding.place}
        lines += [f"    ledger  {s}" for s in about[-12:]]
        lines += [f"    verdict {line}" for line in e.lines if line.place in places][-24:]
        for views in e.views.values():
            for name in ("online", "offline", "tokens", "changes"):
                lines.append(f"    {views.space} {name:8} {getattr(views, name).get(finding.entity)}")
            lines.append(f"    {views.space} found    {finding.entity in views.found}")
    return "\n".join(lines)
