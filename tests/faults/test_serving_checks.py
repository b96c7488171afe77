"""The checks that the serving faults rest on: each wrong answer is found, a right one is not."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tests.faults.serving import report, values
from tests.faults.serving.asking import Answer, judged
from tests.faults.serving.figures import Figures

pytestmark = pytest.mark.faults
NUMBERS = np.array([3, 17, 250])
FLOOR = np.array([1, 40, 700])


def answer(versions=(5, 40, 39_999), prices=(5, 41, 800), **changed):
    found = np.concatenate([values.codes(NUMBERS, versions), np.zeros((1, values.DIM), np.int8)])
    counts = values.tiers(found[:-1]).tolist()
    columns = {
        "item_id": [*map(values.item_id, NUMBERS), "none:0"],
        "embedding": [(row / np.float32(128)).tolist() for row in found[:-1].astype(np.float32)] + [None],
        "embedding_present": [True] * 3 + [False],
        "counts": [*counts, [0] * values.TIERS],
        "missing": [0, 0, 0, values.LENGTH],
        "price": [*map(float, prices), None],
        "category": [*(f"v{p}" for p in prices), None],
    }
    return columns | changed


def problems(columns, ceiling=39_999):
    return values.wrong(pa.table(columns), NUMBERS, FLOOR, ceiling)


def test_a_right_answer_has_no_problem():
    assert problems(answer()) == []
    assert problems(answer(versions=(1, 40, 700), prices=(1, 40, 700)), ceiling=700) == []


def test_every_version_of_every_item_is_told_from_every_other():
    versions = np.array([1, 199, 200, 201, 39_999])
    assert values.versions_of(values.codes(np.full(5, 7), versions)).tolist() == versions.tolist()
    assert len({row.tobytes() for row in values.codes(np.repeat([1, 2, 3], 300), np.tile(np.arange(300), 3))}) == 900


@pytest.mark.parametrize("cut", [1, 2, 3, 16, values.DIM - 1])
def test_a_mixture_of_two_versions_is_found(cut):
    old, new = (values.codes(NUMBERS[:1], [v])[0] for v in (5, 6))
    mixed = np.concatenate([new[:cut], old[cut:]])
    columns = answer(versions=(6, 40, 39_999))
    columns["embedding"][0] = (mixed / np.float32(128)).tolist()
    columns["counts"][0] = values.tiers(mixed[None])[0].tolist()
    assert mixed.tobytes() in (old.tobytes(), new.tobytes()) or "a vector that is no version of its item" in problems(columns)
    assert mixed.tobytes() != new.tobytes()


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        (answer(versions=(5, 39, 39_999)), "older"),
        (answer(prices=(5, 39, 800)), "older"),
        (answer(missing=[0, 1, 0, values.LENGTH]), "is there and is not"),
        (answer(embedding_present=[True, True, False, False]), "is there and is not"),
        (answer(category=["v5", "v41", "v801", None]), "two versions"),
        (answer(counts=[[1] * values.TIERS] * 3 + [[0] * values.TIERS]), "tiers"),
        (answer(item_id=["item:17", "item:3", "item:250", "none:0"]), "never written"),
        (answer(embedding=[[0.1] * values.DIM] * 3 + [None]), "never written"),
    ],
)
def test_each_kind_of_wrong_answer_is_found(columns, word):
    assert any(word in problem for problem in problems(columns))


def test_a_version_that_nobody_has_begun_is_found():
    assert any("no version" in problem for problem in problems(answer(), ceiling=1_000))


def problem(status=503, *, headers=None, kind="application/problem+json", **changed):
    body = {"type": "urn:moontide:transient", "title": "t", "status": status, "detail": "d"} | changed
    return Answer(status, kind, json.dumps(body).encode(), {"retry-after": "1"} if headers is None else headers)


@pytest.mark.parametrize(
    ("got", "sort"),
    [
        (problem(), "typed"),
        (problem(422, headers={}), "typed"),
        (problem(headers={}), "untyped"),
        (problem(500), "untyped"),
        (problem(detail=""), "untyped"),
        (problem(kind="text/html"), "untyped"),
        (Answer(0, "ConnectionResetError", b"", {}), "untyped"),
    ],
)
def test_an_error_is_typed_only_where_it_is_whole(got, sort):
    assert judged(got)[0] == sort


def test_the_report_keeps_what_is_not_its_own():
    figures = Figures("torn_reads", requests=5, right=4, typed=Counter({"503 transient": 1}), recovery=[0.5], notes=["n"])
    made = report.section([figures], {"torn_reads": test_a_right_answer_has_no_problem})
    assert "| `torn_reads` | 1 | 0 | 5 | 4 | 0 | 1 x 503 transient | 0 | - |" in made
    first = report.put("# Fault report\n\nstream\n", made)
    again = report.put(first, "new")
    assert first.startswith("# Fault report\n\nstream\n") and "torn_reads" in first
    assert "torn_reads" not in again and again.count("serving: begin") == 1 and again.endswith("<!-- serving: end -->\n")
    assert report.kept("no section") == "" and "new" in report.kept(again)
