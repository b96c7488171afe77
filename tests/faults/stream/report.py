"""The fault report: one line per run while it goes on, and one page at the end."""

from __future__ import annotations

import platform
import statistics
from collections import defaultdict
from importlib.metadata import version

from moontide import names

_HEAD = """# Fault report

What became of {events:,} events, {acked:,} of them acknowledged by the broker, in {runs} runs of {scenarios} scenarios: \
**lost {lost}, zombies {zombies}, stale overwrites {stale}, mixed spaces {mixed}, unsafe commits {unsafe}.** \
{verdict}

Made by `make test-faults` (`tests/faults/stream`). Each scenario makes its fault against a real broker and the real stores, with a \
consumer in processes of its own; a ledger that only the harness writes says what was sent and acknowledged. At the end the consumer is \
killed with SIGKILL, whatever the scenario did before, and everything is read with fresh handles.

| | |
|---|---|
| broker | Apache Kafka {broker}, KRaft, one node, loopback |
| client | kafka-python {client} |
| index | milvus-lite {lite}, as a file, or as a server where several processes share it |
| online store | LMDB without fsync, Redis in `redis_down` |
| encoder | a stub of {dim} dims whose vectors follow from the content; the real one in `image_bombs` |
| machine | {machine} |
| seeds | {seeds} |

## What is counted

* **lost**: acknowledged records without a verdict, poison without a dead letter, items that a view does not show although it should.
* **zombies**: deleted items that a view shows. **stale**: views that show an older version than the last one sent.
* **mixed**: vectors that are not those of their content in the space they are stored under.
* **unsafe**: committed offsets ahead of what the audit file proves durable; sampled every 200 ms from outside, /*samples*.
* **repeated**: verdicts beyond the first of a record. Allowed after a kill, bounded, and of no effect on any view.
* Also checked in each run, as findings: item state in four views (online, offline, index by id, index by search) and in the last values of \
`{embeddings}`; sequences against a merge of all behaviours; tiers of the current sequence; scalar features; offline history; dead letters \
byte for byte; `/metrics` of each consumer that lived to the end against its own verdicts; all marks cleared.
* **recovery**: seconds from the end of the fault until all is committed; median and longest.

## Figures

| scenario | fault | runs | events | kills | applied | stale | unchanged | dead | lost | zombies | stale over | mixed | unsafe | repeated | recovery s | findings |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def line(f):
    """One run in one line."""
    verdict = "ok  " if not f.findings else f"FAIL({f.findings})"
    recovery = ", ".join(f"{r:.1f}" for r in f.recovery)
    return (
        f"{verdict} {f.scenario:36} seed {f.seed} events {f.events:6,} acked {f.acked:6,} kills {f.kills:2} applied {f.applied:5,} "
        f"stale {f.stale:5,} unchanged {f.unchanged:5,} dead {f.dead:4,} lost {f.lost} dup {f.duplicated:4,} stale-over "
        f"{f.stale_overwrites} zombie {f.zombies} mixed {f.mixed} unsafe {f.unsafe_commits}/{f.samples} recovery [{recovery}] {f.seconds:.1f} s"
    )


def document(done, scenarios, broker, dim):
    """The page (Markdown).

    Args:
        done: figures of every run.
        scenarios: the registry.
        broker: version of the broker.
        dim: width of the stub's vectors.
    """
    by_name = defaultdict(list)
    for figures in done:
        by_name[figures.scenario].append(figures)
    failed = sum(f.findings > 0 for f in done)
    text = _HEAD.format(
        events=_sum(done, "events"),
        acked=_sum(done, "acked"),
        runs=len(done),
        scenarios=len(by_name),
        lost=_sum(done, "lost"),
        zombies=_sum(done, "zombies"),
        stale=_sum(done, "stale_overwrites"),
        mixed=_sum(done, "mixed"),
        unsafe=_sum(done, "unsafe_commits"),
        verdict="Every run passed." if not failed else f"**{failed} runs failed.**",
        broker=broker,
        client=version("kafka-python"),
        lite=version("milvus-lite"),
        dim=dim,
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        seeds=", ".join(str(seed) for seed in sorted({f.seed for f in done})),
        embeddings=names.TOPIC_ITEM_EMBEDDINGS,
    )
    text += "".join(_row(name, runs) for name, runs in by_name.items())
    text += (
        "\n## Scenarios\n\nNumbers are those of the fault list; 26 and 27 are the two between the online write and the index.\n\n"
    )
    text += "".join(f"* `{name}` ({scenarios[name].fault}): {scenarios[name].what}\n" for name in by_name)
    notes = [f"* `{f.scenario}`, seed {f.seed}: {note}." for f in done for note in f.notes]
    return text + ("\n## Notes\n\n" + "\n".join(notes) + "\n" if notes else "")


def _row(name, runs):
    recovery = [r for f in runs for r in f.recovery]
    times = f"{statistics.median(recovery):.1f} / {max(recovery):.1f}" if recovery else "-"
    kills = _sum(runs, "kills") + _sum(runs, "kills_of_others")
    counts = ("applied", "stale", "unchanged", "dead", "lost", "zombies", "stale_overwrites", "mixed")
    cells = [f"`{name}`", runs[0].fault, len(runs), f"{_sum(runs, 'events'):,}", kills, *(f"{_sum(runs, c):,}" for c in counts)]
    cells += [
        f"{_sum(runs, 'unsafe_commits')} / {_sum(runs, 'samples'):,}",
        f"{_sum(runs, 'duplicated'):,}",
        times,
        _sum(runs, "findings"),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def _sum(runs, name):
    return sum(getattr(f, name) for f in runs)
