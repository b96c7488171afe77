"""``POST /v1/features``: the values are those of `RankingClient`, in both formats."""

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.serving.http_site import opened, web

pytestmark = pytest.mark.unit
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture
def site(tmp_path):
    client, live = opened(tmp_path)
    with client:
        yield client, web(client, live)


def arrow_body(ids, **metadata):
    sink = pa.BufferOutputStream()
    table = pa.table({"item_id": pa.array(ids, pa.string())}).replace_schema_metadata(metadata)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def ask(http, ids, accept, body="json", **more):
    headers = {"Accept": accept}
    if body == "json":
        return http.post("/v1/features", json={"user_id": "u", "item_ids": ids, **more}, headers=headers)
    return http.post("/v1/features", content=arrow_body(ids, user_id="u", **more), headers=headers | {"Content-Type": ARROW})


@pytest.mark.parametrize("body", ["json", "arrow"])
@pytest.mark.parametrize("ids", [[], ["a"], ["nobody"], ["b", "nobody", "a", "b", "d"]])
@pytest.mark.parametrize("service", ["ctr_v1", "bare"])
def test_arrow_is_the_very_table_of_the_client(site, ids, body, service):
    client, http = site
    answer = ask(http, ids, ARROW, body, service=service)
    assert answer.status_code == 200 and answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(answer.content).read_all()
    expected = client.features("u", ids, service=service)
    assert table.schema.equals(expected.schema, check_metadata=True)
    assert table.equals(expected)


@pytest.mark.parametrize("body", ["json", "arrow"])
@pytest.mark.parametrize("ids", [[], ["a"], ["nobody"], ["b", "nobody", "a", "b", "d"]])
def test_json_has_the_same_values(site, ids, body):
    client, http = site
    answer = ask(http, ids, "application/json", body)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    said, expected = answer.json(), client.features("u", ids)
    columns = said.pop("columns")
    assert said == {k.decode(): v.decode() for k, v in expected.schema.metadata.items()}
    assert list(columns) == expected.column_names
    for name in columns:
        values = expected.column(name).to_pylist()
        if name == "embedding":
            assert [None if row is None else np.array(row, np.float32).tolist() for row in columns[name]] == values
        else:
            assert columns[name] == values
