"""Every scenario, by importing the files that register them."""

from tests.faults.stream import (
    scenarios_broker,
    scenarios_content,
    scenarios_events,
    scenarios_group,
    scenarios_process,
    scenarios_sinks,
    scenarios_spaces,
)
from tests.faults.stream.scenarios import SCENARIOS

__all__ = [
    "SCENARIOS",
    "scenarios_broker",
    "scenarios_content",
    "scenarios_events",
    "scenarios_group",
    "scenarios_process",
    "scenarios_sinks",
    "scenarios_spaces",
]
