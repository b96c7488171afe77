"""SimTier: how many of a user's behaviours fall in each tier of cosine similarity to a candidate.

Shapes: C candidates, L behaviours, N tiers, D dims. N equal tiers over [-1, 1], right-closed:
``tier = clip(ceil(cos * N/2) + N/2 - 1, 0, N - 1)`` with cos in float32 as
``float32(dot) * inv_norm_candidate * inv_norm_history``, in that order. This float32 formula is the definition; the exact
rational answer may differ from it within 2 ulp of an edge, by one tier.

Source: SimTier (arXiv 2407.19467, section 4.1). Counts are raw and masked; ``log1p`` and learned weights belong to the
ranking model. MUSE's released code counts padding as cosine 0: add `TierCounts.missing` to tier N/2 - 1 to derive that form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide import names
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.native import CHOSEN
from moontide.tier_inputs import Keys, check_spaces, keys_of_ids, side_of, with_keys
from moontide.tier_kernel import Kernel, Side

MAX_TIERS: Final = 1_000
SELF_MATCH_RULES: Final = ("keep", "drop_same_id")
KERNEL: Kernel = CHOSEN.kernel


@dataclass(frozen=True, slots=True)
class SimTierSpec:
    """What makes one SimTier feature.

    Args:
        space_id: id of the embedding space the cosines are computed in.
        tiers: N, even, 2 to 1,000.
        length: L, how many of the newest behaviours the *caller* passes to the kernel.
        sequence: name of the sequence view the behaviours come from.
        self_match: ``keep``, or ``drop_same_id``: a behaviour on the candidate itself is counted nowhere.

    Raises:
        Misconfigured: a value outside these rules.
    """

    space_id: str
    tiers: int = 20
    length: int = 50
    sequence: str = names.USER_SEQUENCE
    self_match: str = "drop_same_id"

    def __post_init__(self) -> None:
        if self.tiers < 2 or self.tiers > MAX_TIERS or self.tiers % 2:
            raise Misconfigured(f"SimTierSpec.tiers: expected an even number from 2 to {MAX_TIERS}, got {self.tiers}")
        if self.length < 1:
            raise Misconfigured(f"SimTierSpec.length: expected 1 or more, got {self.length}")
        if self.self_match not in SELF_MATCH_RULES:
            raise Misconfigured(f"SimTierSpec.self_match: expected one of {SELF_MATCH_RULES}, got {self.self_match!r}")

    @property
    def spec_id(self) -> str:
        """Names the feature: every part of the spec is in it, e.g. ``moon_v2_n20_l50_drop``."""
        rule = "drop" if self.self_match == "drop_same_id" else "keep"
        tail = "" if self.sequence == names.USER_SEQUENCE else f"_{self.sequence}"
        return f"{self.space_id}_n{self.tiers}_l{self.length}_{rule}{tail}"

    @property
    def view(self) -> str:
        """Feast view of tiers computed ahead for this spec."""
        return names.simtier_view(self.spec_id)


@dataclass(frozen=True, slots=True, eq=False)
class TierCounts:
    """Tiers of C candidates against one history (or of all rows of a ragged batch).

    Attributes:
        counts: (C, N) int32, behaviours per tier.
        missing: (C,) int32, behaviours that fell in no tier: no vector on either side, padding included.
            ``counts.sum(axis=1) + missing`` is L, less the behaviours that `drop_same_id` dropped.
    """

    counts: NDArray[np.int32]
    missing: NDArray[np.int32]

    def coarser(self, tiers: int) -> TierCounts:
        """The same in fewer, wider tiers: each the sum of N / `tiers` neighbours, so that one pass gives every resolution.

        `missing` is the same array. Equal to counting with `tiers` directly, but for cosines within a rounding of an edge.

        Raises:
            Misconfigured: `tiers` is odd, below 2, or does not divide N.
        """
        fine = self.counts.shape[1]
        if tiers < 2 or tiers % 2 or fine % tiers:
            raise Misconfigured(f"TierCounts.coarser: expected an even divisor of {fine} tiers, got {tiers}")
        return TierCounts(merge_tiers(self.counts, fine // tiers).astype(np.int32), self.missing)


def merge_tiers(counts: Any, group: int) -> Any:
    """(..., N // group) sums of `group` neighbours of (..., N) counts, a numpy array or a tensor. A dtype may grow wider.

    Tiers are right-closed, so that a sum of neighbours is the count of the wider tier.
    """
    return counts.reshape(*counts.shape[:-1], counts.shape[-1] // group, group).sum(-1)


def tier_counts(candidates: Embeddings, history: Embeddings, spec: SimTierSpec) -> TierCounts:
    """Count, for each candidate, the behaviours of one user per similarity tier.

    Args:
        candidates: C rows; a row that is not present has counts 0 and everything in `missing`.
        history: the user's behaviours, newest last, already truncated to ``spec.length`` by the caller; a row that is not
            present (unknown item, zero vector, padding) goes to `missing`, never into a tier. One item may occur many times.
        spec: must name the space of both; with `drop_same_id` both must carry ids.

    Returns:
        `TierCounts`: counts (C, N) int32, missing (C,) int32. C = 0 and L = 0 are fine.

    Raises:
        SpaceMismatch: a space other than the spec's.
        ValueError: `drop_same_id` without ids.
    """
    rows = np.array([[0, len(candidates)], [0, len(history)]], np.int64)
    return tier_counts_ragged(candidates, rows[0], history, rows[1], spec)


def tier_counts_ragged(
    candidates: Embeddings,
    cand_offsets: NDArray[np.integer],
    history: Embeddings,
    hist_offsets: NDArray[np.integer],
    spec: SimTierSpec,
    *,
    candidate_keys: NDArray[np.integer] | None = None,
    history_keys: NDArray[np.integer] | None = None,
    threads: int = 1,
) -> TierCounts:
    """`tier_counts` of many users in one call.

    Args:
        candidates: the candidates of all U users, end to end.
        cand_offsets: (U + 1,) rising; user u has rows ``cand_offsets[u]:cand_offsets[u + 1]``.
        history: the behaviours of all users, end to end.
        hist_offsets: (U + 1,) likewise.
        spec: as in `tier_counts`.
        candidate_keys: one integer per candidate row, equal where the items are; with `history_keys`, in place of ids.
        history_keys: one integer per behaviour.
        threads: how many threads share the work; with the numpy kernel more than 1 only where the linear algebra library has one.

    Returns:
        `TierCounts` in candidate row order, equal to U separate calls.

    Raises:
        ValueError: offsets of another length, not rising, or not covering the rows; `drop_same_id` with neither ids nor keys.
        SpaceMismatch: a space other than the spec's.
    """
    check_spaces(candidates, history, spec.space_id)
    keys: Keys = (candidate_keys, history_keys)
    if spec.self_match == "drop_same_id" and candidate_keys is None and history_keys is None:
        keys = keys_of_ids(candidates.ids, history.ids)
    left, right = side_of(candidates, None, cand_offsets), side_of(history, None, hist_offsets)
    return _count(left, right, spec, keys, threads)


def tier_counts_at(
    table: Embeddings,
    candidate_rows: NDArray[np.integer],
    cand_offsets: NDArray[np.integer],
    history_rows: NDArray[np.integer],
    hist_offsets: NDArray[np.integer],
    spec: SimTierSpec,
    *,
    candidate_keys: NDArray[np.integer] | None = None,
    history_keys: NDArray[np.integer] | None = None,
    threads: int = 1,
) -> TierCounts:
    """`tier_counts` of U requests by pointers into one table: a vector that occurs in many requests is never copied whole.

    Args:
        table: V rows of the spec's space; ids are not looked at. A row that is not present is as good as none.
        candidate_rows: (R,) integers in -1..V - 1, the candidates of all requests end to end; -1: no vector.
        cand_offsets: (U + 1,) rising from 0 to R; request u has ``candidate_rows[cand_offsets[u]:cand_offsets[u + 1]]``.
        history_rows: (H,) integers in -1..V - 1, the behaviours of all requests end to end, already truncated to ``spec.length``.
        hist_offsets: (U + 1,) rising from 0 to H.
        spec: names the space of `table`.
        candidate_keys: (R,) integers, equal where the *items* are (two versions of one item are two rows and one key, and an
            item without a vector has a key too). `drop_same_id` needs both keys; `keep` does not look at them.
        history_keys: (H,) likewise.
        threads: as in `tier_counts_ragged`.

    Returns:
        `TierCounts`: counts (R, N) int32 and missing (R,) int32, in the order of `candidate_rows`.

    Raises:
        ValueError: offsets that do not rise or do not cover; a pointer outside the table; keys of another length or absent.
        SpaceMismatch: a space other than the spec's.
    """
    check_spaces(table, table, spec.space_id)
    left, right = side_of(table, candidate_rows, cand_offsets), side_of(table, history_rows, hist_offsets)
    return _count(left, right, spec, (candidate_keys, history_keys), threads)


def reference_tier_counts(candidates: Embeddings, history: Embeddings, spec: SimTierSpec) -> TierCounts:
    """The definition as anyone can read it: one pair at a time. Slow; every implementation must equal it bit for bit."""
    check_spaces(candidates, history, spec.space_id)
    counts = np.zeros((len(candidates), spec.tiers), np.int32)
    missing = np.zeros(len(candidates), np.int32)
    half = np.float32(spec.tiers // 2)
    for c in range(len(candidates)):
        for j in range(len(history)):
            if spec.self_match == "drop_same_id" and candidates.ids and history.ids and candidates.ids[c] == history.ids[j]:
                continue
            if not (candidates.present[c] and history.present[j]):
                missing[c] += 1
                continue
            dot = int(candidates.codes[c].astype(np.int64) @ history.codes[j].astype(np.int64))
            cos = np.float32(dot) * candidates.inv_norm[c] * history.inv_norm[j]
            tier = int(np.ceil(cos * half)) + spec.tiers // 2 - 1
            counts[c, min(max(tier, 0), spec.tiers - 1)] += 1
    return TierCounts(counts, missing)


def _count(left: Side, right: Side, spec: SimTierSpec, keys: Keys, threads: int) -> TierCounts:
    if len(left.offsets) != len(right.offsets):
        raise ValueError(f"expected as many users on both sides, got {len(left.offsets) - 1} and {len(right.offsets) - 1}")
    if spec.self_match == "drop_same_id":
        left, right = with_keys(left, keys[0], "candidate_keys"), with_keys(right, keys[1], "history_keys")
    return TierCounts(*KERNEL(left, right, spec.tiers, threads))


__all__ = [
    "SimTierSpec",
    "TierCounts",
    "merge_tiers",
    "reference_tier_counts",
    "tier_counts",
    "tier_counts_at",
    "tier_counts_ragged",
]
