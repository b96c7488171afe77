"""Every scenario of the serving faults by name, and the size at which the test-suite runs it."""

from tests.faults.serving.scenarios import lmdb_writer_killed, redis_restarted, torn_reads, worker_killed
from tests.faults.serving.scenarios_callers import malformed_requests, slow_clients
from tests.faults.serving.scenarios_index import index_gone

SHORT = {
    torn_reads: 0.03,
    lmdb_writer_killed: 0.1,
    redis_restarted: 0.1,
    worker_killed: 0.1,
    slow_clients: 0.05,
    malformed_requests: 0.02,
    index_gone: 0.2,
}
SCENARIOS = {scenario.__name__: scenario for scenario in SHORT}


def run(scenario, sites, size):
    """One run, its time taken."""
    import time

    begun = time.monotonic()
    figures = scenario(sites, size)
    figures.seconds = time.monotonic() - begun
    return figures
