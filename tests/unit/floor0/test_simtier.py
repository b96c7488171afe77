"""The SimTier definition: bit-equal to the readable reference, and to exact rationals but for 2 ulp at an edge."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, Misconfigured, SpaceMismatch
from moontide.native import CHOSEN
from moontide.simtier import (
    SimTierSpec,
    reference_tier_counts,
    tier_counts,
    tier_counts_at,
    tier_counts_ragged,
)
from moontide.tier_kernel import count_with_numpy, exact_dots, pair_tiers

pytestmark = pytest.mark.unit
KERNELS = {"numpy": count_with_numpy, CHOSEN.name: CHOSEN.kernel}
DIMS = [1, 2, 3, 63, 64, 128, 1040, 1041, 2048]


@pytest.fixture(scope="module", params=KERNELS, autouse=True)
def kernel(request):
    """Every test runs with the kernel that was chosen, and with the one that every machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moontide.simtier.KERNEL", KERNELS[request.param])
        yield request.param


def embeddings(rng, rows, dim, *, ids=None, zeros=0.1, spread=127):
    codes = rng.integers(-spread, spread + 1, (rows, dim)).astype(np.int8)
    codes[rng.random(rows) < zeros] = 0
    space = EmbeddingSpace("moon", 1, dim)
    return Embeddings.from_codes(space, codes, np.ones(rows, np.float32), ids=ids)


def spec(tiers=20, self_match="keep"):
    return SimTierSpec("moon_v1", tiers, 50, self_match=self_match)


def equal(a, b):
    return np.array_equal(a.counts, b.counts) and np.array_equal(a.missing, b.missing)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("tiers", [2, 20, 62])
def test_bit_equal_to_the_reference(dim, tiers):
    rng = np.random.default_rng(dim * 100 + tiers)
    a, b = embeddings(rng, 7, dim), embeddings(rng, 19, dim)
    got = tier_counts(a, b, spec(tiers))
    assert equal(got, reference_tier_counts(a, b, spec(tiers)))
    assert got.counts.dtype == got.missing.dtype == np.int32
    assert got.counts.shape == (7, tiers)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 6),
    length=st.integers(0, 12),
    dim=st.integers(1, 40),
    tiers=st.sampled_from([2, 4, 10, 20, 22, 100]),
    rule=st.sampled_from(["keep", "drop_same_id"]),
    spread=st.sampled_from([1, 2, 127]),
)
def test_any_shape_equals_the_reference_and_adds_up(seed, rows, length, dim, tiers, rule, spread):
    rng = np.random.default_rng(seed)
    pool = [f"i{n}" for n in range(5)]
    a = embeddings(rng, rows, dim, ids=list(rng.choice(pool, rows)), zeros=0.3, spread=spread)
    b = embeddings(rng, length, dim, ids=list(rng.choice(pool, length)), zeros=0.3, spread=spread)
    got = tier_counts(a, b, spec(tiers, rule))
    assert equal(got, reference_tier_counts(a, b, spec(tiers, rule)))
    dropped = np.array([sum(i == j for j in b.ids) for i in a.ids], int) if rule == "drop_same_id" else 0
    assert (got.counts.sum(axis=1) + got.missing + dropped == length).all()


def exact_tier(left, right, tiers):
    """ceil(cos * N/2) + N/2 - 1 over the rationals: compare squares, so no root is taken."""
    dot = int(left.astype(np.int64) @ right.astype(np.int64))
    squares = int(left.astype(np.int64) @ left) * int(right.astype(np.int64) @ right)
    half = tiers // 2
    ratio = Fraction(dot * dot * half * half, squares)
    bound = int(np.floor(np.sqrt(float(ratio)))) - 2
    while Fraction(bound + 1) ** 2 <= ratio:
        bound += 1
    bound = max(bound, 0)
    whole = Fraction(bound) ** 2 == ratio
    ceiling = (bound if whole else bound + 1) if dot > 0 else -bound
    return min(max(ceiling + half - 1, 0), tiers - 1)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 300),
    tiers=st.sampled_from([2, 20, 40]),
    spread=st.sampled_from([1, 3, 127]),
)
def test_differs_from_the_exact_answer_only_within_two_ulp_of_an_edge(seed, dim, tiers, spread):
    rng = np.random.default_rng(seed)
    a, b = embeddings(rng, 6, dim, zeros=0, spread=spread), embeddings(rng, 6, dim, zeros=0, spread=spread)
    got = pair_tiers(a.codes, a.inv_norm, b.codes, b.inv_norm, tiers)
    cos = exact_dots(a.codes, b.codes) * a.inv_norm[:, None] * b.inv_norm[None, :]
    half = np.float32(tiers // 2)
    for i, j in np.argwhere(a.present[:, None] & b.present[None, :]):
        expected = exact_tier(a.codes[i], b.codes[j], tiers)
        if got[i, j] == expected:
            continue
        edge = np.round(cos[i, j] * half) / half
        assert abs(int(got[i, j]) - expected) == 1
        assert abs(float(cos[i, j]) - float(edge)) <= 2 * np.spacing(np.float32(max(abs(edge), abs(cos[i, j]))))


def test_edges_are_right_closed():
    space = EmbeddingSpace("moon", 1, 2)
    one = Embeddings.from_codes(space, np.array([[1, 0]], np.int8), np.ones(1, np.float32))
    others = Embeddings.from_codes(space, np.array([[1, 0], [-1, 0], [0, 1], [3, 4]], np.int8), np.ones(4, np.float32))
    tiers = pair_tiers(one.codes, one.inv_norm, others.codes, others.inv_norm, 20)[0]
    assert tiers.tolist() == [19, 0, 9, 15]  # cos 1, -1, 0 (edge of tier 9), 0.6 (edge of tier 15)


def test_item_in_its_own_history_under_both_rules():
    rng = np.random.default_rng(1)
    item = embeddings(rng, 1, 128, ids=["a"], zeros=0)
    history = Embeddings.from_codes(item.space, np.repeat(item.codes, 3, 0), np.ones(3, np.float32), ids=["a", "b", "a"])
    kept, dropped = tier_counts(item, history, spec()), tier_counts(item, history, spec(self_match="drop_same_id"))
    assert kept.counts[0, 19] == 3
    assert dropped.counts[0].sum() == 1
    assert dropped.missing[0] == 0


def test_same_id_without_a_vector_is_dropped_not_missing():
    space = EmbeddingSpace("moon", 1, 4)
    absent = Embeddings.absent(space, 1, ids=["a"])
    history = Embeddings.absent(space, 2, ids=["a", "b"])
    assert tier_counts(absent, history, spec(self_match="drop_same_id")).missing.tolist() == [1]
    assert tier_counts(absent, history, spec()).missing.tolist() == [2]


def test_empty_history_and_no_candidates():
    rng = np.random.default_rng(2)
    some, none = embeddings(rng, 3, 8, zeros=0), embeddings(rng, 0, 8)
    alone = tier_counts(some, none, spec())
    assert alone.counts.shape == (3, 20) and not alone.counts.any() and not alone.missing.any()
    nobody = tier_counts(none, some, spec())
    assert nobody.counts.shape == (0, 20) and nobody.missing.shape == (0,)


@pytest.mark.parametrize("tiers", [1, 3, 21, 0, -2, 1001])
def test_odd_or_impossible_tiers_are_refused(tiers):
    with pytest.raises(Misconfigured, match="even number"):
        SimTierSpec("moon_v1", tiers)


@pytest.mark.parametrize("field", [{"length": 0}, {"self_match": "drop"}])
def test_other_bad_specs_are_refused(field):
    with pytest.raises(Misconfigured):
        SimTierSpec("moon_v1", **field)


def test_spec_id_changes_with_every_part():
    base = SimTierSpec("moon_v1")
    others = [
        SimTierSpec("moon_v2"),
        SimTierSpec("moon_v1", tiers=10),
        SimTierSpec("moon_v1", length=9),
        SimTierSpec("moon_v1", sequence="clicks"),
        SimTierSpec("moon_v1", self_match="keep"),
    ]
    assert len({base.spec_id, *(o.spec_id for o in others)}) == 6


def test_two_spaces_never_meet():
    rng = np.random.default_rng(3)
    a = embeddings(rng, 2, 8)
    other = Embeddings.from_codes(EmbeddingSpace("moon", 2, 8), a.codes, a.scale)
    with pytest.raises(SpaceMismatch):
        tier_counts(a, other, spec())
    reencoded = Embeddings.from_codes(EmbeddingSpace("moon", 1, 8, "sha256:" + "0" * 64), a.codes, a.scale)
    with pytest.raises(SpaceMismatch, match="digest"):
        tier_counts(a, reencoded, spec())


def test_drop_same_id_needs_ids():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="ids"):
        tier_counts(embeddings(rng, 1, 4), embeddings(rng, 1, 4), spec(self_match="drop_same_id"))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(0, 5), rule=st.sampled_from(["keep", "drop_same_id"]))
def test_ragged_equals_one_call_per_user(seed, users, rule):
    rng = np.random.default_rng(seed)
    cand, hist = rng.integers(0, 4, users), rng.integers(0, 6, users)
    co, ho = np.concatenate([[0], np.cumsum(cand)]), np.concatenate([[0], np.cumsum(hist)])
    pool = [f"i{n}" for n in range(4)]
    a = embeddings(rng, int(co[-1]), 16, ids=list(rng.choice(pool, co[-1])))
    b = embeddings(rng, int(ho[-1]), 16, ids=list(rng.choice(pool, ho[-1])))
    got = tier_counts_ragged(a, co, b, ho, spec(10, rule))
    for u in range(users):
        one = tier_counts(a.take(slice(co[u], co[u + 1])), b.take(slice(ho[u], ho[u + 1])), spec(10, rule))
        assert np.array_equal(got.counts[co[u] : co[u + 1]], one.counts)
        assert np.array_equal(got.missing[co[u] : co[u + 1]], one.missing)


@pytest.mark.parametrize("offsets", [[0, 5], [1, 3], [0, 2, 1, 3], [3]])
def test_ragged_refuses_offsets_that_do_not_cover(offsets):
    rng = np.random.default_rng(5)
    a = embeddings(rng, 3, 4)
    with pytest.raises(ValueError, match="offsets"):
        tier_counts_ragged(a, np.array(offsets), a, np.array(offsets), spec())


@pytest.mark.parametrize("fine", [20, 40, 100])
def test_one_pass_gives_every_resolution(fine):
    rng = np.random.default_rng(7)
    a, b = embeddings(rng, 9, 64), embeddings(rng, 60, 64)
    counted = tier_counts(a, b, spec(fine))
    for tiers in (2, 4, 10, 20):
        assert equal(counted.coarser(tiers), tier_counts(a, b, spec(tiers)))
    assert counted.coarser(2).counts.dtype == np.int32
    assert counted.coarser(fine).counts.tolist() == counted.counts.tolist()
    assert tier_counts(a.take(slice(0, 0)), b, spec(fine)).coarser(2).counts.shape == (0, 2)


@pytest.mark.parametrize("tiers", [0, 1, 5, 8, 40, -2])
def test_tiers_that_are_no_sums_of_the_fine_ones_are_refused(tiers):
    rng = np.random.default_rng(8)
    with pytest.raises(Misconfigured, match="even divisor of 20"):
        tier_counts(embeddings(rng, 1, 4), embeddings(rng, 1, 4), spec()).coarser(tiers)


def test_blocks_do_not_change_the_counts(monkeypatch):
    rng = np.random.default_rng(6)
    a, b = embeddings(rng, 50, 8), embeddings(rng, 30, 8)
    whole = tier_counts(a, b, spec())
    monkeypatch.setattr("moontide.tier_kernel._BLOCK_PAIRS", 64)
    assert equal(tier_counts(a, b, spec()), whole)


def world(rng, requests, rows, *, most=6, dim=16):
    """A table of vectors with gaps, and U requests that point into it; the keys are the items of the pointers."""
    table = embeddings(rng, rows, dim, zeros=0.2)
    item_of = rng.integers(0, max(rows // 2, 1), rows)

    def side():
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, most, requests))])
        pointers = rng.integers(-1, rows, offsets[-1])
        lost = rng.integers(0, max(rows // 2, 1), offsets[-1])
        return pointers, offsets, np.where(pointers >= 0, item_of[pointers] if rows else lost, lost)

    return table, side(), side()


def by_the_reference(table, pointers, keys):
    """The rows a pointer names, gathered and named by their keys, -1 as a row that is not present."""
    codes = np.array([table.codes[p] if p >= 0 else np.zeros(table.space.dim, np.int8) for p in pointers], np.int8)
    return Embeddings.from_codes(
        table.space, codes.reshape(-1, table.space.dim), np.ones(len(pointers), np.float32), ids=[str(k) for k in keys]
    )


def check_against_the_reference(table, ours, theirs, rule, tiers=10, **how):
    (cr, co, ck), (hr, ho, hk) = ours, theirs
    got = tier_counts_at(table, cr, co, hr, ho, spec(tiers, rule), candidate_keys=ck, history_keys=hk, **how)
    assert got.counts.shape == (len(cr), tiers) and got.counts.dtype == got.missing.dtype == np.int32
    for c0, c1, h0, h1 in zip(co[:-1], co[1:], ho[:-1], ho[1:], strict=True):
        a, b = by_the_reference(table, cr[c0:c1], ck[c0:c1]), by_the_reference(table, hr[h0:h1], hk[h0:h1])
        wanted = reference_tier_counts(a, b, spec(tiers, rule))
        assert np.array_equal(got.counts[c0:c1], wanted.counts)
        assert np.array_equal(got.missing[c0:c1], wanted.missing)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    requests=st.integers(0, 6),
    rows=st.integers(1, 12),
    rule=st.sampled_from(["keep", "drop_same_id"]),
    block=st.sampled_from([1, 3, 40, 1 << 18]),
    threads=st.sampled_from([1, 2]),
)
def test_pointers_equal_the_reference_whatever_the_blocks(seed, requests, rows, rule, block, threads):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moontide.tier_kernel._BLOCK_PAIRS", block)
        patch.setattr("moontide.tier_kernel._BLOCK_VALUES", block * 8)
        check_against_the_reference(*world(rng, requests, rows), rule, threads=threads)


@pytest.mark.parametrize("rule", ["keep", "drop_same_id"])
def test_an_empty_table_is_all_missing(rule):
    table = embeddings(np.random.default_rng(0), 0, 4)
    rows, offsets, keys = np.array([-1, -1]), np.array([0, 2]), np.array([7, 8])
    check_against_the_reference(table, (rows, offsets, keys), (rows, offsets, keys), rule)


def test_a_row_marked_absent_is_missing_whatever_its_codes():
    rng = np.random.default_rng(1)
    full = embeddings(rng, 2, 8, zeros=0)
    table = Embeddings(full.space, full.codes, full.scale, full.inv_norm, np.array([True, False]))
    got = tier_counts_at(table, np.array([0, 1]), np.array([0, 2]), np.array([0, 1]), np.array([0, 2]), spec(10))
    assert got.missing.tolist() == [1, 2] and got.counts.sum(axis=1).tolist() == [1, 0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(0, 5))
def test_keys_and_ids_drop_the_same_behaviours(seed, users):
    rng = np.random.default_rng(seed)
    co, ho = (np.concatenate([[0], np.cumsum(rng.integers(0, n, users))]) for n in (4, 6))
    ck, hk = rng.integers(-2, 3, co[-1]), rng.integers(-2, 3, ho[-1])
    a, b = (embeddings(rng, len(k), 16, ids=[f"i{n}" for n in k]) for k in (ck, hk))
    drop = spec(10, "drop_same_id")
    assert equal(
        tier_counts_ragged(a, co, b, ho, drop),
        tier_counts_ragged(a, co, b, ho, drop, candidate_keys=ck.astype(np.int32), history_keys=hk),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidate_rows": np.array([0, 3])}, "rows: expected -1 to 2"),
        ({"history_rows": np.array([-2])}, "rows: expected -1 to 2"),
        ({"cand_offsets": np.array([0, 1])}, "rising offsets"),
        ({"hist_offsets": np.array([0, 0, 1])}, "as many users"),
        ({"history_keys": None}, "history_keys"),
        ({"candidate_keys": np.array([1])}, "candidate_keys: expected 2"),
    ],
)
def test_pointers_that_do_not_fit_are_refused(change, message):
    table = embeddings(np.random.default_rng(2), 3, 4)
    good = {
        "candidate_rows": np.array([0, 1]),
        "cand_offsets": np.array([0, 2]),
        "history_rows": np.array([2]),
        "hist_offsets": np.array([0, 1]),
        "candidate_keys": np.array([5, 6]),
        "history_keys": np.array([5]),
    }
    with pytest.raises(ValueError, match=message):
        tier_counts_at(table, spec=spec(10, "drop_same_id"), **(good | change))


def test_a_long_history_is_counted_in_parts():
    rng = np.random.default_rng(3)
    table = embeddings(rng, 40, 8)
    rows = rng.integers(-1, 40, 3_000)
    ours, theirs = np.array([0, 5, -1, 7, 9]), np.array([0, 2, 5])
    hist = np.array([0, 2_500, 3_000])
    got = tier_counts_at(table, ours, theirs, rows, hist, spec())
    tier = pair_tiers(table.codes, table.inv_norm, table.codes, table.inv_norm, 20)
    for c, pointer in enumerate(ours):
        seen = rows[:2_500] if c < 2 else rows[2_500:]
        both = (seen >= 0) & table.present[seen] & (pointer >= 0) & table.present[pointer]
        assert np.array_equal(got.counts[c], np.bincount(tier[pointer, seen[both]], minlength=20))
        assert got.missing[c] == len(seen) - both.sum()
