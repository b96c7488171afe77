"""The fault report: one line per run while it goes on, one table at the end."""

from __future__ import annotations


def line(f):
    """One run in one line."""
    verdict = "ok  " if not f.findings else f"FAIL({f.findings})"
    recovery = ", ".join(f"{r:.1f}" for r in f.recovery)
    return (
        f"{verdict} {f.scenario:28} seed {f.seed} events {f.events:6,} acked {f.acked:6,} kills {f.kills:2} applied {f.applied:5,} "
        f"stale {f.stale:5,} unchanged {f.unchanged:5,} dead {f.dead:4,} lost {f.lost} dup {f.duplicated:4,} stale-over "
        f"{f.stale_overwrites} zombie {f.zombies} mixed {f.mixed} unsafe {f.unsafe_commits}/{f.samples} recovery [{recovery}] {f.seconds:.1f} s"
    )


def document(done, scenarios):
    return ""
