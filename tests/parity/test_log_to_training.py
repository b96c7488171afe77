"""What was served becomes training rows: the log of a real client, labelled, joined by time, has the values that were served."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import impressions, training_set
from moontide import schemas
from moontide.pit.training_set import read_training_set
from tests.parity.test_audit import ITEMS, NOW, SECOND, Site

pytestmark = pytest.mark.parity


@pytest.fixture
def site(tmp_path):
    """Eight requests of two users, each after a click on something it was served before, and the clicks as behaviours."""
    made = Site(tmp_path)
    made.vectors(ITEMS[:10], 1)
    made.catalog(ITEMS, 1, 2.5)
    clicks = []
    for n in range(8):
        user = f"u{n % 2}"
        made.now += 10 * SECOND
        made.client.features(user, [ITEMS[n], ITEMS[n + 1], ITEMS[(n + 5) % 12]], service="bare", request_id=f"r{n}")
        made.now += 10 * SECOND
        made.behave(user, ITEMS[n + n % 2])
        clicks.append((user, ITEMS[n + n % 2], "click", made.now))
        made.vectors([ITEMS[n]], n + 2)
    made.log.close()
    columns = zip(*clicks, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schemas.BEHAVIOURS, strict=True)], schema=schemas.BEHAVIOURS)
    pq.write_table(table, tmp_path / "behaviours.parquet")
    yield made
    made.store.close()


def test_logged_requests_become_a_training_set_with_the_counts_that_were_served(site, capsys):
    home = site.home
    assert site.audit()[1]["differences"] == 0
    files = ["--home", str(home), "--behaviours", str(home / "behaviours.parquet")]
    until = pa.scalar(NOW + 3_600 * SECOND, schemas.TIMESTAMP).as_py().isoformat()
    found = home / "impressions.parquet"
    flags = ["--log", str(home / "log"), "--actions", "click", "--within", "15s", "--until", until, "--out", str(found)]
    assert impressions.main([*files, *flags]) == 0
    assert "24 from 8 requests, 8 labelled 1" in capsys.readouterr().out
    out = home / "set"
    assert training_set.main([*files, "--impressions", str(found), "--spec", "moon_v1_n10_l3_drop", "--out", str(out)]) == 0
    made, rows = read_training_set(out), pq.read_table(found).to_pylist()
    served = logged(home)
    assert len(rows) == len(made.label) == 24
    for at, row in enumerate(rows):
        assert made.label[at] == row["label"] == float(row["position"] == int(row["request_id"][1:]) % 2)
        counts, missing = served[row["request_id"], row["item_id"]]
        assert (made.counts[at].tolist(), made.missing[at]) == (counts, missing), row
    # Histories were not empty, and some candidates had no vector: the comparison was of something.
    assert sum(sum(counts) for counts, _ in served.values()) > 20
    assert any(missing for _, missing in served.values())
    assert site.audit("--by", "time")[1]["differences"] == 0


def logged(home):
    """(request, item) -> counts and missing, as they were served."""
    out = {}
    for path in (home / "log").rglob("date=*/*.parquet"):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            counts = np.array(row["counts"]).reshape(len(row["item_ids"]), -1).tolist()
            out |= {(row["request_id"], item): (counts[n], row["missing"][n]) for n, item in enumerate(row["item_ids"])}
    return out
