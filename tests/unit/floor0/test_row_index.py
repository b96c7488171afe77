"""From ids to rows: machine code and dictionary say the same, whatever the ids, the order of adding, and who looks up meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import row_index
from moontide.native import library_path
from moontide.packed_ids import PackedIds
from moontide.row_index import LIBRARY, DictionaryRows, Library, NativeRows, loaded, picked, rows_over, strings, texts

pytestmark = pytest.mark.unit
needs_library = pytest.mark.skipif(LIBRARY is None, reason="no native rows were built")
ID_BYTES = 64
NOBODY_MEANT = ["nobody", "x" * 65, "a" * 100, "ü", "日本", "a\0", "\0", "a" * 63 + "\0", "a\0b\0"]
IDS = st.text("ab:9\0", min_size=1, max_size=4).filter(lambda i: i[-1] != "\0") | st.sampled_from(
    ["k" * n for n in (0, 15, 16, 17, 31, 32, 33, 63, 64)]
)
#: Under the second every short id has one hash, so that all of them fall on one slot.
SEEDS = [b"\x01\x02\x03\x04\x05\x06\x07\x08" * 2, bytes(16)]


def keys_of(ids):
    return np.array([i.encode() for i in ids] or [b""], f"S{ID_BYTES}")[: len(ids)]


@needs_library
@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=80, deadline=None)
@given(known=st.lists(IDS, unique=True, max_size=60), data=st.data())
def test_both_are_the_dictionary(seed, known, data):
    keys = keys_of(known)
    ours, theirs, truth = NativeRows(LIBRARY, keys, seed), DictionaryRows(keys), {}
    asked = st.lists(IDS | st.sampled_from(NOBODY_MEANT), max_size=40)
    while len(truth) < len(known):
        last = data.draw(st.integers(len(truth) + 1, len(known)))
        truth.update((known[n], n) for n in range(len(truth), last))
        for index in (ours, theirs):
            index.add(last)
            assert index.rows == last
        wanted = data.draw(asked)
        for ids in (wanted, PackedIds.of(wanted), tuple(wanted)):
            for index in (ours, theirs):
                found = index.find(ids)
                assert found.dtype == np.int64 and found.tolist() == [truth.get(i, -1) for i in wanted]


@pytest.mark.parametrize("made", [DictionaryRows, rows_over])
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one(made, count):
    index = made(keys_of(["a"]))
    assert index.rows == 0 and index.find(["a"]).tolist() == [-1] and not len(index.find([]))
    index.add(count)
    assert index.find(["a", "b", "a"]).tolist() == ([0, -1, 0] if count else [-1] * 3)


@needs_library
def test_it_grows_and_stays_sparse():
    ids = [f"item:{n}" for n in range(5_000)]
    index = NativeRows(LIBRARY, keys_of(ids), SEEDS[0])
    for last in (1, 2, 511, 513, 4_999, 5_000):
        index.add(last)
        assert index.find(ids).tolist() == [*range(last), *[-1] * (5_000 - last)]
        assert 2 * last <= len(index._slots)
        assert np.count_nonzero(index._slots) == last


@needs_library
def test_who_looks_up_meanwhile_sees_a_row_or_none():
    ids = [f"i{n}" for n in range(20_000)]
    index, wrong, reads = NativeRows(LIBRARY, keys_of(ids), os.urandom(16)), [], []
    wanted, over = PackedIds.of(ids), threading.Event()

    def look():
        while not over.is_set():
            least = index.rows
            found = index.find(wanted)
            reads.append(least)
            right = (found == np.arange(len(ids))) | (found == -1)
            if not right.all() or (found[:least] < 0).any():
                wrong.append((least, found))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for last in range(1, len(ids) + 1, 7):
        index.add(last)
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong and len(set(reads)) > 2


@needs_library
def test_ids_that_lie_anywhere_in_a_text():
    index = NativeRows(LIBRARY, keys_of(["ab", "b", "abc"]), SEEDS[0])
    index.add(3)
    starts, stops = np.array([0, 9, 1, 9, 0, 9, 2, 9])[::2], np.array([2, 9, 2, 9, 3, 9, 2, 9])[::2]
    assert index.find(PackedIds(b"abc", starts, stops)).tolist() == [0, 1, 2, -1]


def test_what_does_not_fit_is_not_loaded(tmp_path, monkeypatch):
    assert loaded(None) is None
    broken = tmp_path / "_rows.so"
    broken.write_bytes(b"no library")
    assert loaded(broken) is None
    if LIBRARY is None:
        return
    monkeypatch.setattr(row_index, "ABI", row_index.ABI + 1)
    with pytest.raises(OSError, match="expected ABI"):
        Library(library_path("_rows"))
    with pytest.raises(OSError, match="moontide_rows"):
        Library(library_path("_tiers"))


def test_without_the_library_there_is_a_dictionary(monkeypatch):
    monkeypatch.setattr(row_index, "LIBRARY", None)
    assert isinstance(rows_over(keys_of(["a"])), DictionaryRows)


PARTS = st.lists(st.lists(st.text(max_size=4), max_size=5), max_size=4)


@given(PARTS, st.data())
def test_picked_are_those_rows_of_all_parts(parts, data):
    every = [item for part in parts for item in part]
    rows = sorted(data.draw(st.sets(st.integers(0, len(every) - 1))) if every else [])
    mixed = [PackedIds.of(part) if n % 2 else part for n, part in enumerate(parts)]
    assert picked(mixed, np.array(rows, np.int64)) == [every[row] for row in rows]


@given(st.lists(st.text(max_size=5), max_size=9), st.integers(1, 12))
def test_packed_ids_are_the_ids(ids, length):
    packed = PackedIds.of(ids)
    assert len(packed) == len(ids) and packed.strings() == ids and strings(packed) == strings(ids)
    newest = packed.newest(length)
    assert newest.strings() == ids[-length:] and PackedIds.of(newest.strings()).text == "".join(ids[-length:]).encode()


def test_texts_of_keys():
    assert texts(keys_of(["a", "b" * 64])) == ["a", "b" * 64] and texts(keys_of([])) == []


@needs_library
def test_the_code_is_clean_under_the_sanitizers(tmp_path):
    """A build of its own that ends at the first read or write beyond an array, run over every size of id."""
    program = tmp_path / "main.c"
    program.write_text(SANITIZED)
    source = next((p / "native" / "rows.c" for p in library_path("_rows").parents if (p / "native" / "rows.c").is_file()), None)
    if source is None:
        pytest.skip("the sources are not beside the package")
    flags = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(["cc", *flags, str(source), str(program), "-o", str(tmp_path / "run")], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"no compiler with sanitizers: {built.stderr[-200:]}")
    ran = subprocess.run([str(tmp_path / "run")], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "130\n"), ran.stderr


SANITIZED = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void moontide_rows_add(uint64_t *, uint64_t, const uint8_t *, int64_t, int64_t, int64_t, const uint64_t *);
void moontide_rows_find(const uint64_t *, uint64_t, const uint8_t *, int64_t, const uint8_t *, const int64_t *, const int64_t *,
                        int64_t, const uint64_t *, int64_t *);

int main(void)
{
    int64_t right = 0;
    for (int one = 0; one < 2; one++) {
        uint64_t seed[2] = {one ? 0 : 7, one ? 0 : 9};
        uint64_t *slots = calloc(256, sizeof *slots);
        uint8_t *keys = calloc(65, 64);
        for (int n = 0; n < 65; n++)
            memset(keys + 64 * n, 'a', n);
        moontide_rows_add(slots, 255, keys, 64, 0, 32, seed);
        moontide_rows_add(slots, 255, keys, 64, 32, 65, seed);
        for (int64_t size = 0; size <= 64; size++) {
            /* Each id ends where its memory ends. */
            uint8_t *text = malloc(size ? size : 1);
            memset(text, 'a', size);
            int64_t start = 0, found = -2;
            moontide_rows_find(slots, 255, keys, 64, text, &start, &size, 1, seed, &found);
            right += found == size;
            free(text);
        }
        free(slots);
        free(keys);
    }
    printf("%d\n", (int)right);
    return 0;
}
"""
