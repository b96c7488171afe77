"""The registry of scenarios."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.stream.figures import Broken, Figures
from tests.faults.stream.harness import Rig
from tests.kafka_broker import KafkaBroker


@dataclass(frozen=True)
class Scenario:
    """One fault, made and then checked.

    Attributes:
        name: of the scenario.
        fault: its number in the list of faults.
        run: makes the fault in a rig; ends with `Rig.finish` or `Rig.conclude`.
        own_broker: it hurts the broker, so it gets one of its own.
        short: factor of the number of events in the short suite; None where it is not part of it.
        prepare: called with an own broker before it starts; what it returns is the rig's `prepared`.
    """

    name: str
    fault: str
    run: Callable[[Rig], Figures]
    own_broker: bool = False
    short: float | None = None
    prepare: Callable[[KafkaBroker], Any] | None = None

    @property
    def what(self):
        return (self.run.__doc__ or "").strip().splitlines()[0]


SCENARIOS: dict[str, Scenario] = {}


def scenario(fault, *, own_broker=False, short=None, prepare=None):
    """Register a function as a scenario of the same name."""

    def registered(run):
        SCENARIOS[run.__name__] = Scenario(run.__name__, fault, run, own_broker, short, prepare)
        return run

    return registered


class Brokers:
    """One broker for all scenarios that leave it alone, and one each for the others. Close it."""

    def __init__(self, folder):
        self.folder = folder
        self._shared = None

    def run(self, chosen, seed, size=1.0):
        """`execute` with the broker that the scenario needs."""
        folder = self.folder / f"{chosen.name}-{seed}"
        if not chosen.own_broker:
            self._shared = self._shared or KafkaBroker(self.folder / "broker").start()
            return execute(chosen, self._shared, folder, seed, size)
        broker = KafkaBroker(self.folder / f"{chosen.name}-{seed}.broker")
        prepared = chosen.prepare(broker) if chosen.prepare else None
        broker.start()
        try:
            return execute(chosen, broker, folder, seed, size, prepared)
        finally:
            broker.kill()

    def close(self):
        if self._shared is not None:
            self._shared.stop()


def execute(chosen, broker, folder, seed, size=1.0, prepared=None):
    """Run one scenario once; whatever goes wrong is in the figures."""
    figures, since = Figures(chosen.name, chosen.fault, seed), time.monotonic()
    rig = None
    try:
        rig = Rig(broker, folder, figures, size)
        rig.prepared = prepared
        chosen.run(rig)
    except Broken as error:
        figures.findings += 1
        figures.explained = f"{error}\n{figures.explained}"
    except Exception:  # noqa: BLE001 - the edge: one scenario must not end the run
        figures.findings += 1
        figures.explained = f"{traceback.format_exc()}\n{figures.explained}"
    finally:
        if rig is not None:
            rig.close()
        figures.seconds = time.monotonic() - since
    return figures
