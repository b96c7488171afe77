"""The native kernel: every level of it bit-equal to numpy and to the definition, and refused where it is not what it should be."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, native
from moontide.embeddings import inverse_norms
from moontide.native import MAX_TIERS, Library, choose, first_that_agrees, library_path
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.tier_kernel import Side, count_with_numpy

pytestmark = pytest.mark.unit
PATH = library_path()
LIBRARY = Library(PATH) if PATH else None
LEVELS = LIBRARY.levels() if LIBRARY else []
needs_library = pytest.mark.skipif(LIBRARY is None, reason="no native kernel was built")


def world(rng, table, requests, widths, dim, *, keys=True):
    """Two sides of `requests` over one table with zero rows and absent rows; sizes are drawn below `widths`."""
    codes = (rng.integers(-127, 128, (table, dim)) // rng.integers(1, 60, (table, 1))).astype(np.int8)
    codes[rng.random(table) < 0.1] = 0
    codes[rng.random(table) < 0.2] = codes[0]
    inv_norm = inverse_norms(codes)
    present = (inv_norm > 0) & (rng.random(table) < 0.9)

    def side(width):
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, width + 1, requests))])
        rows = rng.integers(-1, table, offsets[-1])
        return Side(codes, inv_norm, present, rows, offsets, rows % 7 if keys else None)

    return side(widths[0]), side(widths[1])


def check(level, left, right, tiers, threads=1):
    got, wanted = LIBRARY.kernel(level)(left, right, tiers, threads), count_with_numpy(left, right, tiers, 1)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == np.int32 and np.array_equal(ours, theirs)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 300) | st.sampled_from([1040, 1041, 2048]),
    tiers=st.sampled_from([2, 4, 20, 62, 100, 160, 162, 248, 250]),
    requests=st.integers(0, 4),
    widths=st.tuples(st.integers(0, 14), st.sampled_from([0, 1, 15, 63, 64, 65, 200])),
    keys=st.booleans(),
    threads=st.sampled_from([1, 3]),
)
def test_any_level_is_bit_equal_to_numpy(level, seed, dim, tiers, requests, widths, keys, threads):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_THREAD_PAIRS", 1)
        check(level, *world(rng, 40, requests, widths, dim, keys=keys), tiers, threads)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("dim", "tiers"), [(1, 20), (64, 20), (67, 250), (1041, 2), (2048, 20)])
def test_and_to_the_definition(level, dim, tiers):
    rng = np.random.default_rng(dim)
    space = EmbeddingSpace("moon", 1, dim)
    codes = rng.integers(-127, 128, (37, dim)).astype(np.int8)
    codes[::5] = 0
    both = Embeddings.from_codes(space, codes, np.ones(37, np.float32), ids=[f"i{n % 11}" for n in range(37)])
    spec = SimTierSpec(space.id, tiers, 50)
    wanted = reference_tier_counts(both.take(slice(0, 7)), both, spec)
    rows, keys = np.arange(37), np.arange(37) % 11
    table = (both.codes, both.inv_norm, both.present)
    left, right = Side(*table, rows[:7], np.array([0, 7]), keys[:7]), Side(*table, rows, np.array([0, 37]), keys)
    counts, missing = LIBRARY.kernel(level)(left, right, tiers, 1)
    assert np.array_equal(counts, wanted.counts) and np.array_equal(missing, wanted.missing)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("length", [1023, 1024, 1025, 3000])
def test_a_history_of_several_chunks(level, length):
    left, right = world(np.random.default_rng(length), 90, 1, (8, 5), 33)
    rows = np.random.default_rng(0).integers(-1, 90, length)
    check(level, left, replace(right, rows=rows, offsets=np.array([0, length]), keys=rows % 7), 20)
    wide = np.random.default_rng(1).integers(-128, 128, (90, 4096)).astype(np.int8)
    wide_side = {"codes": wide, "inv_norm": inverse_norms(wide)}
    right = replace(right, rows=rows[:300], offsets=np.array([0, 300]), keys=None, **wide_side)
    check(level, replace(left, keys=None, **wide_side), right, 20)


@pytest.mark.parametrize("level", LEVELS)
def test_edges_of_a_tier_fall_into_the_lower_one(level):
    """Multiples of a fifth are exact in codes of 3-4-5 triangles; so are right angles and opposites."""
    codes = np.array([[5, 0], [3, 4], [4, 3], [0, 5], [-3, 4], [-4, 3], [-5, 0]], np.int8)
    side = Side(codes, inverse_norms(codes), np.ones(7, bool), np.arange(7), np.array([0, 7]))
    one = replace(side, rows=np.array([0]), offsets=np.array([0, 1]))
    counts, _ = LIBRARY.kernel(level)(one, side, 10, 1)
    check(level, side, side, 10)
    assert counts[0].tolist() == [2, 1, 0, 0, 1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("level", LEVELS)
def test_dots_beyond_float32(level):
    codes = np.full((4, 5000), 127, np.int8)
    codes[1, ::2] = -127
    codes[2, 0] = 126
    codes[3] = -128
    side = Side(codes, inverse_norms(codes), np.ones(4, bool), np.arange(4), np.array([0, 4]))
    check(level, side, side, 20)


@pytest.mark.parametrize("level", LEVELS)
def test_inverse_norms_that_are_none(level):
    """A damaged record is counted as numpy counts it: no crash, no number out of range."""
    codes = np.full((3, 64), 127, np.int8)
    codes[2] = -127
    side = Side(codes, np.array([1e30, 3e4, 1.0], np.float32), np.ones(3, bool), np.arange(3), np.array([0, 3]))
    with np.errstate(over="ignore"):
        check(level, side, side, 20)


@pytest.mark.parametrize("level", LEVELS)
def test_memory_with_gaps(level):
    """Rows of codes may lie anywhere; a transposed table, other strides and read-only memory are read too."""
    rng = np.random.default_rng(3)
    left, right = world(rng, 30, 2, (6, 70), 64)
    records = np.zeros((30, 100), np.int8)
    records[:, 11:75] = left.codes
    spread = np.repeat(left.inv_norm, 2)[::2]
    gaps = {"codes": records[:, 11:75], "inv_norm": spread}
    wanted = count_with_numpy(left, right, 20, 1)
    for codes in (records[:, 11:75], np.asfortranarray(left.codes), left.codes[::-1].copy()[::-1]):
        codes.flags.writeable = False
        mine = [replace(side, **(gaps | {"codes": codes})) for side in (left, right)]
        got = LIBRARY.kernel(level)(*mine, 20, 1)
        assert all(map(np.array_equal, got, wanted))


@needs_library
def test_what_it_cannot_count_falls_to_numpy(monkeypatch):
    asked = []
    monkeypatch.setattr(native, "count_with_numpy", lambda left, right, tiers, threads: asked.append(tiers))
    left, right = world(np.random.default_rng(4), 9, 1, (3, 3), 8)
    for tiers in (MAX_TIERS, MAX_TIERS + 2, 1000):
        LIBRARY.kernel(LEVELS[0])(left, right, tiers, 1)
    assert asked == [MAX_TIERS + 2, 1000]


@needs_library
def test_threads_that_call_it_at_once_do_not_share_memory():
    worlds = [world(np.random.default_rng(n), 30, 40, (6, 70), 16 + 30 * n) for n in range(4)]
    wanted = [count_with_numpy(*sides, 20, 1)[0] for sides in worlds]
    start, kernel = threading.Barrier(4), LIBRARY.kernel(LEVELS[0])

    def many(n):
        start.wait()
        return all(np.array_equal(kernel(*worlds[n], 20, 1)[0], wanted[n]) for _ in range(30))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


@needs_library
def test_other_threads_run_during_a_call():
    left, right = world(np.random.default_rng(6), 60, 1, (3, 3), 256, keys=False)
    left, right = (replace(s, rows=np.arange(n) % 60, offsets=np.array([0, n])) for s, n in ((left, 500), (right, 1_000)))
    kernel = LIBRARY.kernel("scalar")

    def call():
        begun = time.perf_counter()
        kernel(left, right, 20, 1)
        return begun, time.perf_counter()

    def seen_inside():
        """Whether this thread ran during the call; it asks for the GIL only when it wakes."""
        with ThreadPoolExecutor(1) as pool:
            running, seen = pool.submit(call), []
            while not running.done():
                time.sleep(1e-4)
                seen.append(time.perf_counter())
        begun, ended = running.result()
        return any(begun < at < ended for at in seen)

    before = sys.getswitchinterval()
    # Nobody is made to give the GIL away: it goes from thread to thread only where it is let go of.
    sys.setswitchinterval(100)
    try:
        assert any(seen_inside() for _ in range(20))
    finally:
        sys.setswitchinterval(before)


@needs_library
def test_one_request_is_split_between_threads(monkeypatch):
    left, right = world(np.random.default_rng(5), 30, 1, (90, 40), 24)
    left = replace(left, rows=np.arange(90) % 30, offsets=np.array([0, 90]), keys=np.arange(90) % 7)
    monkeypatch.setattr(native, "_THREAD_PAIRS", 1)
    assert len(native._cuts(left.offsets, np.array([0, 40]), 3)) == 4
    check(LEVELS[0], left, right, 20, threads=3)


@pytest.mark.parametrize(
    "sizes", [([], []), ([0, 0], [5, 5]), ([5], [0]), ([3, 900, 1], [10, 400, 900]), ([7] * 100, [50] * 100)]
)
def test_parts_cover_every_candidate_once(sizes, monkeypatch):
    monkeypatch.setattr(native, "_THREAD_PAIRS", 1)
    left, right = (np.concatenate([[0], np.cumsum(np.array(s, np.int64))]).astype(np.int64) for s in sizes)
    for threads in (1, 2, 5):
        cuts = native._cuts(left, right, threads)
        assert cuts[0] == 0 and cuts[-1] == left[-1] and cuts == sorted(cuts)


def test_no_library_and_one_that_does_not_load_leave_numpy(tmp_path):
    assert choose(None).kernel is count_with_numpy
    broken = tmp_path / "_tiers.so"
    broken.write_bytes(b"\x7fELF no library")
    chosen = choose(broken)
    assert chosen.kernel is count_with_numpy and chosen.name == "numpy" and str(broken) in chosen.why


@needs_library
def test_a_library_of_another_abi_is_refused(monkeypatch):
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    chosen = choose(PATH)
    assert chosen.name == "numpy" and "build it again" in chosen.why


@needs_library
def test_a_library_without_our_functions_is_refused():
    import _ctypes

    chosen = choose(Path(_ctypes.__file__))
    assert chosen.name == "numpy" and "moontide_tiers" in chosen.why


def test_a_kernel_that_counts_wrong_is_refused():
    def one_off(left, right, tiers, threads):
        counts, missing = count_with_numpy(left, right, tiers, threads)
        counts[-1, 3] += 1
        return counts, missing

    def right(left, right, tiers, threads):
        return count_with_numpy(left, right, tiers, threads)

    assert first_that_agrees({"fast": one_off, "slow": right}).name == "slow"
    assert "fast" in first_that_agrees({"fast": one_off, "slow": right}).why
    assert first_that_agrees({"fast": one_off}).kernel is count_with_numpy
    assert first_that_agrees({}).kernel is count_with_numpy


@needs_library
def test_the_fastest_level_is_chosen_in_a_new_process():
    code = "from moontide.native import CHOSEN; print(CHOSEN.name, CHOSEN.why)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert said.strip() == LEVELS[0]


def test_the_sample_reaches_what_can_go_wrong():
    left, right = native._sample()
    counts, missing = count_with_numpy(left, right, 20, 1)
    assert (counts.sum(axis=0) > 0).sum() >= 5 and (missing > 0).any()
    dropped = np.diff(right.offsets)[[0] * 9 + [1] * 2] - counts.sum(axis=1) - missing
    assert (dropped > 0).any() and (left.rows < 0).any() and not left.present[left.rows].all()
    assert {np.abs(side.codes).max() for side in (left, right)} == {127}
