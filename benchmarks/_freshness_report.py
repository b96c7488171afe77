"""Results of the freshness benchmark as Markdown: what was asked, what was got, also where it is not met."""

import statistics

from benchmarks._report import table

OURS = "moontide"
PROBES = {
    "readable": "produce to readable online",
    "search": "produce to found by search",
    "tier": "behaviour to current tier row",
}
#: Milliseconds at 50 % load: p50, p99.
TARGETS = {"readable": (150, 1_000), "search": (None, 2_000), "tier": (150, 1_000)}


def markdown(results):
    """All sections."""
    parts = [head(results), rates(results), freshness(results), breakdown(results), catch_up(results)]
    if "peers" in results:
        parts.append(peers(results["peers"]))
    return "\n\n".join(parts) + "\n"


def head(results):
    return (
        f"{results['items']:,} items, batches of {results['batch']}, encoder with {results['threads']} thread. "
        f"{results['machine']}; load after {results['load_after']:.2f}; {results['seconds']} s in all."
    )


def middle(values):
    """Median and range, as words."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio(over, under):
    """Median of the ratios of rounds that were run one after the other, and its range."""
    found = [a / b for a, b in zip(over, under, strict=True)]
    return f"**{statistics.median(found):.2f}** ({min(found):.2f} to {max(found):.2f})"


def rates(results):
    work, cells = results["throughput"], []
    cells.append(["bare encoder", middle(work["bare"]), "", ""])
    cells.append(
        ["changes, until readable", middle(work["handled"]), f"{ratio(work['handled'], work['bare'])} of the bare", "0.8"]
    )
    cells.append(
        ["changes, until committed", middle(work["committed"]), f"{ratio(work['committed'], work['bare'])} of the bare", ""]
    )
    for name, found in results["unchanged"].items():
        cells.append([f"{name}, until handled", middle(found["handled"]), "", "5,000"])
        cells.append([f"{name}, until committed", middle(found["committed"]), "", ""])
    note = f"Bare encoder with every core, once: {results['bare_all_cores']:,.0f} items/s."
    return f"### Throughput with a backlog\n\n{table(['events', 'per second', 'ratio', 'target'], cells)}\n\n{note}"


def shown(found, kind):
    """p50 / p90 / p99 of one kind of probe."""
    if "p50_ms" not in found:
        return "none"
    words = " / ".join(f"{found[p]:,.0f}" for p in ("p50_ms", "p90_ms", "p99_ms"))
    lost = f", {found['not_seen']} not seen" if found["not_seen"] else ""
    return f"{words} ({found['probes']}{lost})"


def freshness(results):
    cells = []
    for run in [*results["freshness"], results["embedded"]]:
        name = f"{run['load']:.0%}" + (", milvus-lite in the consumer" if run is results["embedded"] else "")
        found = [shown(run["probes"][kind], kind) for kind in PROBES]
        cells.append(
            [name, f"{run['events_per_second']:,}", f"{run['encoded_per_second']:,}", *found, f"{run['drained_after_s']:.0f}"]
        )
    head_row = [
        "load",
        "events/s",
        "of them encoded/s",
        *(f"{PROBES[k]}, p50 / p90 / p99 ms (probes)" for k in PROBES),
        "empty after s",
    ]
    half = next(run for run in results["freshness"] if run["load"] == 0.5)
    return f"### Freshness\n\n{table(head_row, cells)}\n\n{verdict(half)}"


def verdict(half):
    """Whether the targets at 50 % are met, in words."""
    words = []
    for kind, limits in TARGETS.items():
        found = half["probes"][kind]
        for name, limit in zip(("p50_ms", "p99_ms"), limits, strict=True):
            if limit is not None:
                got = found.get(name, float("inf"))
                words.append(
                    f"{PROBES[kind]} {name[:3]} {got:,.0f} ms of {limit:,} ms: {'met' if got <= limit else '**not met**'}"
                )
    return "At 50 %: " + "; ".join(words) + "."


def breakdown(results):
    """Mean milliseconds of each step at 10 and 50 %, from the consumer's own metrics."""
    runs = [*(r for r in results["freshness"] if r["load"] <= 0.5), results["embedded"]]
    titles = [f"{r['load']:.0%}" + (", embedded" if r is results["embedded"] else "") for r in runs]
    cells = []
    for name in dict.fromkeys(name for run in runs for name in run["stages"]):
        row = [name.replace('stage stage="', "step ").replace('"', "")]
        for run in runs:
            found = run["stages"].get(name)
            row.append(f"{found['mean_ms']:,.1f} x {found['count']:,}" if found else "")
        cells.append(row)
    lines = table(["mean ms x times", *titles], cells)
    return f"### Where the time goes\n\nThe consumer's own metrics over each run, its drain included.\n\n{lines}"


def catch_up(results):
    found = results["catch_up"]
    fresh = found["fresh_after_p50_ms"]
    if fresh is None:
        return f"### Catching up\n\nNot caught up within the run ({found['stopped_s']:.0f} s stop at {found['load']:.0%} load)."
    return (
        "### Catching up\n\n"
        f"Stopped for {found['stopped_s']:.0f} s at {found['load']:.0%} load, which goes on: nothing was older than 1 s from "
        f"{found['caught_up_s']:.0f} s after its start on ({found['start_up_s']:.0f} s of them start-up); "
        f"readable p50 afterwards {fresh:.0f} ms; events lost: {found['not_seen']}."
    )


def peers(found):
    parts = ["### Peers"]
    for kind, systems in found["throughput"].items():
        ours = systems[OURS]
        cells = [
            [name, middle(values), "" if name == OURS else ratio(ours, values).replace("** (", "x** (", 1)]
            for name, values in systems.items()
        ]
        parts.append(f"Backlog, {kind}:\n\n" + table(["system", "item events/s", "moontide is faster by"], cells))
    cells = [
        [rate, name, shown(got["readable"], "readable"), shown(got["search"], "search")]
        for rate, systems in found["freshness"].items()
        for name, got in systems.items()
    ]
    parts.append(table(["rate", "system", "readable, p50 / p90 / p99 ms", "found by search, p50 / p90 / p99 ms"], cells))
    if found["not_run"]:
        parts.append(f"Not run: {', '.join(found['not_run'])} (could not be installed).")
    return "\n\n".join(parts)
