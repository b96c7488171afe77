"""The serving part of the fault report: one line per run while it goes on, and a section at the end."""

from __future__ import annotations

import inspect
import platform
import statistics
from collections import Counter, defaultdict

BEGIN, END = "<!-- serving: begin -->\n", "<!-- serving: end -->\n"

_HEAD = """## Serving

{requests:,} answers in {runs} runs of {scenarios} scenarios, each checked while its fault was made: **{wrong} wrong values**. {verdict}

Made by `python -m tests.faults.serving.run`. The server is `python -m serving` on LMDB with two workers, or on a Redis that appends each \
write to a file; callers ask for features all the time over kept-alive connections and hold every answer against a ledger that only the \
writers' own words fill: each vector is exactly one version of its item, not older than what was committed before the request was \
sent and not newer than what was begun; its tiers are those of the vector beside them; fields of one record are of one version.

* **right**: such an answer. **typed**: `application/problem+json` with a known type, and `Retry-After` where it is a 503. **untyped**: \
anything else, a connection that was cut included.
* **recovery**: seconds until all is right again, median and longest; the notes say from when where it is not from the end of the fault.

Machine: {machine}.

| scenario | runs | faults | answers | right | wrong | typed errors | untyped | batches written | p50 / p99 ms | recovery s | findings |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def line(f):
    """One run in one line."""
    verdict = "ok  " if not f.findings else f"FAIL({len(f.findings)})"
    recovery = ", ".join(f"{r:.2f}" for r in f.recovery)
    return (
        f"{verdict} {f.scenario:20} answers {f.requests:6,} right {f.right:6,} wrong {f.wrong} typed {dict(f.typed)} untyped "
        f"{dict(f.untyped)} faults {f.faults:,} p99 {f.p99_ms:.1f} ms recovery [{recovery}] {f.seconds:.1f} s"
    )


def section(done, scenarios):
    """Markdown between the marks. `done`: figures of every run; `scenarios`: functions by name."""
    by_name = defaultdict(list)
    for figures in done:
        by_name[figures.scenario].append(figures)
    failed = sum(bool(f.findings) for f in done)
    text = _HEAD.format(
        requests=_sum(done, "requests"),
        runs=len(done),
        scenarios=len(by_name),
        wrong=_sum(done, "wrong"),
        verdict="Every run passed." if not failed else f"**{failed} runs failed.**",
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    text += "".join(_row(name, runs) for name, runs in by_name.items())
    text += "\n" + "".join(f"* `{name}`: {inspect.getdoc(scenarios[name])}\n" for name in by_name)
    notes = [f"* `{f.scenario}`: {note}." for f in done for note in f.notes]
    return f"{text}\n" + "\n".join(notes) + "\n"


def put(text, made):
    """The report `text` with `made` as its serving section, at its end where it has none."""
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else ""
    return f"{before.rstrip()}\n\n{BEGIN}\n{made.strip()}\n\n{END}{after}"


def kept(text):
    """The serving section of a report, marks included; empty where it has none."""
    _, begin, rest = text.partition(BEGIN)
    return f"\n{begin}{rest.partition(END)[0]}{END}" if begin else ""


def _row(name, runs):
    recovery = [r for f in runs for r in f.recovery]
    times = f"{statistics.median(recovery):.2f} / {max(recovery):.2f}" if recovery else "-"
    counts = ("requests", "right", "wrong")
    kinds = [_words(sum((getattr(f, sort) for f in runs), Counter())) for sort in ("typed", "untyped")]
    speed = f"{statistics.median(f.p50_ms for f in runs):.1f} / {max(f.p99_ms for f in runs):.1f}"
    cells = [f"`{name}`", len(runs), f"{_sum(runs, 'faults'):,}", *(f"{_sum(runs, c):,}" for c in counts), *kinds]
    cells += [f"{_sum(runs, 'batches'):,}" if _sum(runs, "batches") else "-", speed, times, sum(len(f.findings) for f in runs)]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def _words(counter):
    return ", ".join(f"{count:,} x {what}" for what, count in counter.most_common()) or "0"


def _sum(runs, name):
    return sum(getattr(f, name) for f in runs)
