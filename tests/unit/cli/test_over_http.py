"""The demo's comparison of the server with the client in process: it says so when they differ."""

import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from moontide.cli import over_http
from moontide.cli.process import Program, free_port
from moontide.errors import Transient
from tests.unit.serving.http_site import opened

pytestmark = pytest.mark.unit


class Server:
    """Stands for `moontide.client.Client`: the values of `inside`, with one count of the first row changed where `wrong`."""

    def __init__(self, inside, wrong):
        self._inside, self._wrong = inside, wrong

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def features(self, user_id, item_ids, *, service):
        table = self._inside.features(user_id, item_ids, service=service)
        if not self._wrong:
            return table
        counts = np.array(table["counts"].to_pylist(), np.int32)
        counts[0, 0] += 1
        column = pa.FixedSizeListArray.from_arrays(pa.array(counts.ravel()), counts.shape[1])
        return table.set_column(table.column_names.index("counts"), "counts", column)


@pytest.mark.parametrize(("wrong", "outcome"), [(False, "15 of 15 values equal, bit for bit"), (True, "14 of 15 .*counts: 1")])
def test_the_check_passes_on_equal_values_only(tmp_path, monkeypatch, wrong, outcome):
    client, live = opened(tmp_path)
    monkeypatch.setattr(over_http, "Client", lambda url, timeout: Server(client, wrong))
    site = SimpleNamespace(client=client, service=live.service("ctr_v1"))
    catalog = SimpleNamespace(rows=dict.fromkeys("abcd"))
    check, rows, large = over_http.ask(site, catalog, {"u": ["a", "b", "nobody"]}, "http://127.0.0.1:1")
    assert check.passed is not wrong
    assert re.search(outcome, check.outcome)
    assert rows[0][0] == "4 candidates over HTTP, p50" and large[0][0].endswith(" ms")


def test_a_program_that_ends_before_it_is_ready_is_told_with_its_last_words(tmp_path):
    program = Program(
        "server", ["sh", "-c", "echo no store here; exit 3"], tmp_path, tmp_path / "log", f"http://127.0.0.1:{free_port()}"
    )
    with pytest.raises(Transient, match="expected the server to get ready, got: no store here"), program.running():
        pass
