"""Faults of the events themselves: nothing is killed here but by the end of each run."""

from __future__ import annotations

from tests.faults.stream.scenarios import scenario


@scenario("-", short=0.4)
def no_fault(rig):
    """Nothing goes wrong: the figures of all other scenarios are read against these."""
    rig.start()
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(2_500)))
    rig.quiesce()
    return rig.finish(most_duplicates=0)
