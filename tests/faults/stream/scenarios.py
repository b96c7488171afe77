"""The registry of scenarios."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.stream.harness import Broken, Figures, Rig


@dataclass(frozen=True)
class Scenario:
    """One fault, made and then checked.

    Attributes:
        name: of the scenario.
        fault: its number in the list of faults.
        run: makes the fault in a rig; ends with `Rig.finish` or `Rig.conclude`.
        own_broker: it hurts the broker, so it gets one of its own.
        short: factor of the number of events in the short suite; None where it is not part of it.
        broker: further properties of an own broker.
        prepare: called with an own broker before it starts.
    """

    name: str
    fault: str
    run: Callable[[Rig], Figures]
    own_broker: bool = False
    short: float | None = None

    @property
    def what(self):
        return (self.run.__doc__ or "").strip().splitlines()[0]


SCENARIOS: dict[str, Scenario] = {}


def scenario(fault, *, own_broker=False, short=None):
    """Register a function as a scenario of the same name."""

    def registered(run):
        SCENARIOS[run.__name__] = Scenario(run.__name__, fault, run, own_broker, short)
        return run

    return registered


def execute(chosen, broker, folder, seed, size=1.0):
    """Run one scenario once; whatever goes wrong is in the figures."""
    figures, since = Figures(chosen.name, chosen.fault, seed), time.monotonic()
    rig = None
    try:
        rig = Rig(broker, folder, figures, size)
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
