"""Packed records: what goes in comes out, and nothing else is taken for one."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.errors import Misconfigured, Poison
from moontide.order import KEY_BYTES, ORDER_DTYPE, WriteOrder
from moontide.stores.record import DELETED, HEAD, STORED, Layout, TagMismatch, heads_of

pytestmark = pytest.mark.unit

SCALARS = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.timestamp("us", tz="UTC"): st.integers(-(2**50), 2**50),
    pa.date32(): st.integers(-100_000, 100_000),
    pa.string(): st.text(max_size=5),
    pa.large_string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.binary(3): st.binary(min_size=3, max_size=3),
}
TYPES = SCALARS | {
    pa.list_(kind): st.lists(values, max_size=3) for kind, values in SCALARS.items() if not pa.types.is_large_string(kind)
}


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES, key=str)), max_size=6))
    rows = draw(st.integers(0, 5))
    columns = [draw(st.lists(st.none() | TYPES[kind], min_size=rows, max_size=rows)) for kind in kinds]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
    return rows, pa.table(arrays, names=[f"c{n}" for n in range(len(kinds))])


def orders_of(rows):
    packed = b"".join(WriteOrder(n - 2, n, -n, bytes([n] * 16)).pack() for n in range(rows))
    return np.frombuffer(packed, ORDER_DTYPE)


def encode(layout, table, rows):
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    return layout.encode(orders_of(rows), np.arange(rows) % 3 == 1, columns)


@settings(max_examples=200, deadline=None)
@given(made=tables(), cut=st.integers(0, 5))
def test_any_table_comes_back_whole_and_in_slices(made, cut):
    rows, table = made
    layout = Layout(table.schema)
    records = encode(layout, table, rows)
    assert [record[:KEY_BYTES] for record in records] == [WriteOrder(n - 2, n, -n, bytes([n] * 16)).pack() for n in range(rows)]
    back = layout.decode(records)
    assert back.heads["flags"].tolist() == [STORED | DELETED if n % 3 == 1 else STORED for n in range(rows)]
    found = pa.table(back.columns, schema=table.schema) if table.num_columns else table
    found.validate(full=True)
    assert found.equals(table)
    if not table.num_columns:
        return
    part = pa.table(
        {n: c.chunk(0).slice(min(cut, rows)) if c.num_chunks else c for n, c in zip(table.column_names, table.columns)}
    )
    again = layout.encode(orders_of(rows)[cut:], np.zeros(part.num_rows, bool), {n: _one(part, n) for n in part.column_names})
    assert [record[HEAD.itemsize :] for record in again] == [record[HEAD.itemsize :] for record in records[cut:]]


def _one(table, name):
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


@settings(max_examples=50, deadline=None)
@given(made=tables(), places=st.lists(st.integers(0, 4), max_size=6))
def test_wanted_fields_of_any_rows_and_blanks(made, places):
    rows, table = made
    layout = Layout(table.schema)
    records = [*encode(layout, table, rows), layout.blank]
    picked = [records[min(place, rows)] for place in places]
    wanted = table.column_names[::2]
    back = layout.decode(picked, wanted)
    assert list(back.columns) == wanted
    for name in wanted:
        values = [*table.column(name).to_pylist(), None]
        assert back.columns[name].to_pylist() == [values[min(place, rows)] for place in places]
    assert ((back.heads["flags"] & STORED) == 0).tolist() == [place >= rows for place in places]


def test_equal_rows_have_equal_bytes_whatever_lies_behind_their_nulls():
    schema = pa.schema([("n", pa.int64()), ("t", pa.string()), ("l", pa.list_(pa.int32()))])
    layout = Layout(schema)
    clean = {name: pa.nulls(1, kind) for name, kind in zip(schema.names, schema.types)}
    mask = np.array([True])
    dirty = {
        "n": pa.array(np.array([7]), mask=mask),
        "t": pa.Array.from_buffers(
            pa.string(), 1, [pa.py_buffer(b"\0"), pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"abc")]
        ),
        "l": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), pa.array([1, 2], pa.int32()), mask=pa.array(mask)),
    }
    assert all(values.null_count == 1 for values in dirty.values())
    one, other = (layout.encode(orders_of(1), np.zeros(1, bool), columns) for columns in (clean, dirty))
    assert one == other


def test_layouts_are_told_apart():
    first, second = (Layout(pa.schema([("n", kind)])) for kind in (pa.int32(), pa.float32()))
    (a,), (b,) = (encode(lay, pa.table({"n": pa.array([1], lay.schema.types[0])}), 1) for lay in (first, second))
    assert len(a) == len(b)
    with pytest.raises(TagMismatch) as raised:
        first.decode([a, b, first.blank])
    assert raised.value.tags.tolist() == [first.tag, second.tag, first.tag]
    assert heads_of([a, b])["tag"].tolist() == [first.tag, second.tag]


@pytest.mark.parametrize("kinds", [[pa.int64()], [pa.string()]])
def test_records_cut_short_or_of_another_program_are_refused(kinds):
    layout = Layout(pa.schema([("c", kinds[0])]))
    (record,) = encode(layout, pa.table({"c": pa.array([5], pa.int64()).cast(kinds[0])}), 1)
    for bad in (b"", b"x", record[:-1], record + b"x", bytes(len(record))):
        with pytest.raises(Misconfigured, match="format"):
            layout.decode([record, bad])
    with pytest.raises(Misconfigured, match="format"):
        layout.decode([record[:-1], record + b"x"])
    for bad in (b"short", record[:40] + b"XX" + record[42:]):
        with pytest.raises(Misconfigured, match="format"):
            heads_of([record, bad])


@pytest.mark.parametrize(
    "kind", [pa.map_(pa.string(), pa.int64()), pa.list_(pa.list_(pa.int64())), pa.struct([("a", pa.int64())])]
)
def test_other_types_are_misconfigured(kind):
    with pytest.raises(Misconfigured, match="serialise"):
        Layout(pa.schema([("c", kind)]))


def test_a_null_inside_a_list_is_poison():
    layout = Layout(pa.schema([("c", pa.list_(pa.string()))]))
    with pytest.raises(Poison, match="null"):
        encode(layout, pa.table({"c": pa.array([["a", None]])}), 1)
