"""Results of the serving benchmark as Markdown: what was asked for, what was got, also where a peer is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks._report import percentiles, ratio_interval, table

Times = Mapping[str, Sequence[float]]
BEGIN, END = "<!-- serving: begin -->\n", "<!-- serving: end -->\n"
OURS = "moontide"


def put(text: str, made: str) -> str:
    """The document `text` with `made` between its two marks.

    Raises:
        SystemExit: not each mark once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in before + after:
        raise SystemExit(f"document: expected one line {BEGIN!r} and after it one {END!r}; write them in")
    return f"{before}{begin}\n{made.strip()}\n\n{end}{after}"


def timings(times: Times, *, floor: Callable[[str], str], rival: Callable[[str], str], ours: Callable[[str], bool]) -> str:
    """One row per system: percentiles, share of its floor, and by how much ours is faster than it.

    Args:
        times: seconds of each call.
        floor: the cell that is a system's limit, or ``""``.
        rival: our cell that a peer is compared with, or ``""``.
        ours: whether a cell is ours.
    """
    rows = []
    for name, values in times.items():
        least, p50, p99 = percentiles(values)
        under = floor(name)
        share = f"{percentiles(times[under])[1] / p50:.0%}" if under in times and under != name else ""
        against = "" if ours(name) else rival(name)
        faster = claim(values, times[against]) if against in times and against != name else ""
        rows.append([name, f"{least:.2f}", f"{p50:.2f}", f"{p99:.2f}", f"{len(values):,}", share, faster])
    return table(["system", "min ms", "p50 ms", "p99 ms", "calls", "% of floor", "moontide is faster by"], rows)


def claim(peer: Sequence[float], ours: Sequence[float]) -> str:
    """A ratio of medians with its interval; no claim where the interval holds 1."""
    ratio, low, high = ratio_interval(peer, ours)
    digits = 0 if ratio >= 10 else 2
    span = f"[{low:.{digits}f}, {high:.{digits}f}]"
    if low <= 1 <= high:
        return f"level {span}"
    return f"**{ratio:.{digits}f}x** {span}" + (": slower" if high < 1 else "")


def verdicts(found: Sequence[tuple[str, float, float, str]]) -> str:
    """What was asked for and what was got: (what, got, limit, unit); a limit below 0 is a least value."""
    words = []
    for what, got, limit, unit in found:
        met = got >= -limit if limit < 0 else got <= limit
        words.append(
            f"{what} {got:,.2f}{unit}, asked {'at least' if limit < 0 else 'at most'} {abs(limit):,g}{unit}: "
            f"{'met' if met else '**not met**'}"
        )
    return "; ".join(words) + "."


def p50(values: Sequence[float]) -> float:
    """Milliseconds."""
    return percentiles(values)[1]


def tiers(times: Times, off: Mapping[str, float], note: str) -> str:
    """The cell of ids to tiers."""

    def transport(name: str) -> str:
        return "Redis" if "edis" in name or "Feast" in name else "LMDB" if "LMDB" in name else "table"

    floors = {
        "Redis": "floor: raw redis-py MGET + kernel",
        "LMDB": "floor: bare LMDB gets + kernel",
        "table": "floor: gather in process + kernel",
    }
    shown = timings(
        times,
        floor=lambda name: "" if name.startswith("floor") else floors[transport(name)],
        rival=lambda name: "" if name.startswith("floor") else f"{OURS}, {'Redis' if transport(name) == 'Redis' else 'LMDB'}",
        ours=lambda name: name.startswith(OURS),
    )
    limits = {f"{OURS}, table": 1.0, f"{OURS}, LMDB": 2.0, f"{OURS}, Redis": 4.0}
    met = verdicts([(f"{name}: p50", p50(times[name]), limit, " ms") for name, limit in limits.items() if name in times])
    moved = ", ".join(f"{name} {share:.0e}" for name, share in off.items() if share)
    edge = f" Pairs in the next tier, for products in floats: {moved}." if moved else ""
    return f"### Ids to tiers\n\n{note} Every system's counts were equal to the oracle's first.{edge}\n\n{shown}\n\n{met}"


def scalars(times: Times, note: str) -> str:
    """The cell of scalars with a vector."""
    floors = {"Redis": "raw redis-py MGET", "LMDB": "bare LMDB gets"}
    ours = [name for name in times if name.startswith(OURS)]
    feast = next((name for name in times if name.startswith("Feast")), "")

    def floor(name: str) -> str:
        kind = "LMDB" if "LMDB" in name else "Redis"
        return "" if name.startswith("floor") else f"floor: one packed record per item, {floors[kind]}"

    shown = timings(
        times,
        floor=floor,
        rival=lambda name: f"{OURS}, Redis" if name == feast else "",
        ours=lambda name: name.startswith(OURS),
    )
    found: list[tuple[str, float, float, str]] = []
    for name in ours:
        _, middle, last = percentiles(times[name])
        if feast:
            found.append((f"{name}: Feast's p50 over ours", p50(times[feast]) / middle, -30.0, "x"))
        found.append((f"{name}: p99 over p50", last / middle, 3.0, "x"))
    equal = "Every system gave the oracle's matrix, bit for bit, first."
    return f"### 30 scalars and a vector\n\n{note} {equal}\n\n{shown}\n\n{verdicts(found)}"


def added(times: Times, note: str) -> str:
    """The cell of what HTTP adds."""
    kinds = [name.removeprefix("in process, ") for name in times if name.startswith("in process")]

    def floor(name: str) -> str:
        return "floor: a thread that answers as many bytes" if name.startswith("HTTP Arrow") else ""

    shown = timings(
        times,
        floor=floor,
        rival=lambda name: "HTTP Arrow, Redis" if name.startswith("Feast") else "",
        ours=lambda name: not name.startswith("Feast"),
    )
    found = [
        (f"{name} adds at p50", p50(times[name]) - p50(times[f"in process, {kind}"]), 2.0, " ms")
        for kind in kinds
        for name in times
        if name.startswith("HTTP Arrow") and f", {kind}" in name
    ]
    return f"### Over HTTP, one caller\n\n{note}\n\n{shown}\n\n{verdicts(found)}"


def loads(found: Sequence[tuple[str, dict[str, Any]]], note: str, inside: float) -> str:
    """The cell of many callers; `inside` is the processor seconds of one request in process, the floor of one over HTTP."""
    rows = []
    for name, run in found:
        count = len(run["latencies"])
        _, middle, last = percentiles([v / 1e3 for v in run["latencies"]]) if count else (float("nan"),) * 3
        each = run["cpu"] / count if count else float("nan")
        share = f"{inside / each:.0%}" if name.startswith(OURS) and each else ""
        failed = ", ".join(f"{kind} {n}" for kind, n in run["errors"].items()) or "0"
        rows.append(
            [
                name, f"{run['seconds']:.0f}", f"{count:,}", f"{count / run['seconds']:,.0f}", f"{1 / each:,.0f}", share,
                f"{middle:.1f}", f"{last:.1f}", failed, f"{run['wrong']} of {run['checked']:,}",
            ]
        )  # fmt: skip
    head = [
        "server",
        "s",
        "requests",
        "requests/s",
        "requests per core second",
        "% of floor",
        "p50 ms",
        "p99 ms",
        "errors",
        "wrong",
    ]
    ours = [run for name, run in found if name.startswith(OURS)]
    bad = sum(sum(run["errors"].values()) + run["wrong"] for run in ours)
    return f"### Many callers\n\n{note}\n\n{table(head, rows)}\n\n{verdicts([('errors and wrong answers of ours', bad, 0, '')])}"
