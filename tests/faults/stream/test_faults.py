"""The short fault suite: the most telling scenarios at a fraction of their size; `make test-faults` runs all of them whole."""

import pytest

from tests.faults.stream.catalogue import SCENARIOS
from tests.faults.stream.scenarios import Brokers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SHORT = [s for s in SCENARIOS.values() if s.short is not None]
SEED = 11


@pytest.fixture(scope="module")
def brokers(tmp_path_factory):
    made = Brokers(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


@pytest.mark.parametrize("chosen", SHORT, ids=lambda s: s.name)
def test_the_fault_costs_nothing(chosen, brokers):
    figures = brokers.run(chosen, SEED, chosen.short)
    assert not figures.findings, f"seed {SEED}, size {chosen.short}: {figures.explained}"
    assert figures.acked > 0
    assert figures.applied + figures.stale + figures.unchanged + figures.dead >= figures.acked


def test_every_fault_of_the_list_has_a_scenario():
    made = {s.fault for s in SCENARIOS.values()}
    assert made >= {str(n) for n in range(1, 28)}
