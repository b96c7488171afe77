"""The serving faults at a fraction of their size; ``python -m tests.faults.serving.run`` runs them whole."""

import pytest

from tests.faults.serving.catalogue import SHORT, run
from tests.faults.serving.sites import Sites

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    made = Sites(tmp_path_factory.mktemp("serving"))
    yield made
    made.close()


@pytest.mark.parametrize(("scenario", "size"), SHORT.items(), ids=[s.__name__ for s in SHORT])
def test_no_wrong_value_and_every_error_has_a_type(scenario, size, sites):
    figures = run(scenario, sites, size)
    assert not figures.findings, figures
    assert figures.right > 0 and figures.wrong == 0
