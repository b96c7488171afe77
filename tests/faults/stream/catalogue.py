"""Every scenario, by importing the files that register them."""

from tests.faults.stream import scenarios_events
from tests.faults.stream.scenarios import SCENARIOS

__all__ = ["SCENARIOS", "scenarios_events"]
