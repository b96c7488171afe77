"""Paired bootstrap over users and seeds of every figure of a comparison.

I impressions, U users, D draws, S seeds. A draw takes U users with replacement, each with all of its impressions, and S - 1
seeds with replacement (one where S is 1): with S of S the spread over few seeds would come out too small (Rao and Wu,
"Resampling inference with complex survey data", JASA 1988, section 2). All models of a comparison see the same draws, so their
differences are paired. AUC is no mean over users, so it is computed anew for every draw, exactly, from how often each user was
drawn: after one sort of the scores a draw costs two passes over the impressions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from ranking.evaluation import WHOLE
from ranking.metrics import Interval, entropy, interval, log_losses, probabilities, user_aucs
from ranking.run_file import TestRows, read_arrays, write_arrays

MEASURES: Final = ("auc", "gauc", "log_loss", "normalised_entropy", "calibration")
DRAWS: Final = 1000
#: Elements of one block of drawn multiplicities: bounds memory for many users.
BLOCK: Final = 1 << 24

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Positives of one run in order of score, and for each how many negatives lie below (`low`) and not above (`high`)."""

    positive: Ints
    negative: Ints
    low: Ints
    high: Ints

    @classmethod
    def of(cls, users: Ints, labels: NDArray[np.floating], scores: NDArray[np.floating]) -> PairCounts:
        """From (I,) numbers of users, labels and scores."""
        order = np.argsort(scores, kind="stable")
        up = labels[order] > 0
        score, user = scores[order], users[order]
        return cls(
            user[up], user[~up], np.searchsorted(score[~up], score[up], "left"), np.searchsorted(score[~up], score[up], "right")
        )

    def auc(self, times: Ints) -> float:
        """AUC where user u's impressions are there `times[u]` times; NaN without a pair. Equal to repeating the rows."""
        below = np.concatenate([np.zeros(1, np.int64), np.cumsum(times[self.negative])])
        weight = times[self.positive]
        pairs = int(weight.sum()) * int(below[-1])
        # Twice the pairs won, so that a tie's half stays an integer and the sum is exact.
        return float(int(weight @ (below[self.low] + below[self.high])) / (2 * pairs)) if pairs else float("nan")


class Resampler:
    """Figures of runs over the same test impressions, under the same draws of users.

    Args:
        rows: the test impressions; its slices are resampled beside the whole.
        draws: D.
        seed: of the draws.
    """

    def __init__(self, rows: TestRows, *, draws: int = DRAWS, seed: int = 11) -> None:
        self.rows, self._draws, self._seed = rows, draws, seed
        names, self._user = np.unique(rows.user, return_inverse=True)
        self._users = len(names)
        self._seeds: dict[int, Floats] = {}
        self._masks = {WHOLE: np.ones(len(rows.user), bool), **rows.slices}

    def figures(self, logits: NDArray[np.float32]) -> dict[str, Floats]:
        """(1 + D,) values by ``"<slice> <measure>"`` for each of `MEASURES`: of the set as it is, then of every draw.

        A value that does not exist under a draw, e.g. AUC where no positive of the slice was drawn, is NaN.
        """
        pairs, sums = {}, []
        for name, mask in self._masks.items():
            label, logit, user = self.rows.label[mask], logits[mask], self._user[mask]
            pairs[name] = PairCounts.of(user, label, logit)
            sums.append(self._sums(user, label, logit))
        columns = np.concatenate(sums, axis=1)
        step = max(1, BLOCK // max(self._users, 1))
        parts = [self._block(at, min(at + step, self._draws + 1), pairs, columns) for at in range(0, self._draws + 1, step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def kept_figures(self, path: Path, logits: NDArray[np.float32]) -> dict[str, Floats]:
        """`figures`, from the file `path` (``.npz``) where it holds those of these logits, rows and draws; else written there.

        A file that is damaged is made anew.
        """
        key = hashlib.sha256(f"{self.rows.digest} {self._draws} {self._seed} {MEASURES} ".encode() + logits.tobytes()).hexdigest()
        if path.exists():
            with suppress(Misconfigured):
                kept = read_arrays(path)
                if str(kept.pop("key", "")) == key:
                    return kept
        found = self.figures(logits)
        write_arrays(path, {"key": np.array(key), **found})
        return found

    def seeds(self, count: int) -> Floats:
        """(D, S) weights of S = `count` seeds, each row with sum 1."""
        if count not in self._seeds:
            generator = np.random.default_rng([self._seed, count])
            taken = generator.integers(count, size=(self._draws, max(count - 1, 1)))
            times = np.stack([np.bincount(row, minlength=count) for row in taken])
            self._seeds[count] = np.asarray(times / taken.shape[1], np.float64)
        return self._seeds[count]

    def _sums(self, user: Ints, label: NDArray[np.float32], logit: NDArray[np.float32]) -> Floats:
        """(U, 6) per user: rows, positives, loss, probability, impressions that count in GAUC, and those times AUC."""
        found = user_aucs(user, label, logit)
        counted, won = np.zeros(self._users), np.zeros(self._users)
        counted[found.user] = found.impressions
        won[found.user] = found.impressions * found.auc
        summed = (np.ones(len(user)), label > 0, log_losses(label, logit), probabilities(logit))
        return np.column_stack([*(np.bincount(user, part, self._users) for part in summed), counted, won])

    def _block(self, first: int, stop: int, pairs: Mapping[str, PairCounts], columns: Floats) -> dict[str, Floats]:
        times = np.stack([self._times(at) for at in range(first, stop)])
        sums = times.astype(np.float64) @ columns
        found: dict[str, Floats] = {}
        with np.errstate(divide="ignore", invalid="ignore"):
            for at, name in enumerate(self._masks):
                rows, positives, loss, probability, counted, won = sums[:, 6 * at : 6 * at + 6].T
                least = entropy(positives / rows)
                found[f"{name} auc"] = np.array([pairs[name].auc(row) for row in times])
                found[f"{name} gauc"] = won / counted
                found[f"{name} log_loss"] = loss / rows
                found[f"{name} normalised_entropy"] = np.where(least > 0, loss / rows / least, np.nan)
                found[f"{name} calibration"] = np.where(positives > 0, probability / positives, np.nan)
        return found

    def _times(self, draw: int) -> Ints:
        """(U,) how often each user is in a draw; draw 0 is the set as it is. Does not depend on blocks."""
        if draw == 0 or not self._users:
            return np.ones(self._users, np.int64)
        drawn = np.random.default_rng([self._seed, draw]).integers(self._users, size=self._users)
        return np.bincount(drawn, minlength=self._users).astype(np.int64)


def mean_of(runs: Sequence[Floats]) -> float:
    """Mean over seeds of one figure, each (1 + D,), of the set as it is."""
    return float(np.mean([run[0] for run in runs]))


def paired(base: Sequence[Floats], other: Sequence[Floats], seeds: Floats) -> Interval:
    """`other` less `base`, with its 95 % interval; NaN ends where half of the draws or more have no value.

    Args:
        base, other: (1 + D,) of one figure per seed, in the same order of seeds.
        seeds: (D, S) from `Resampler.seeds`.
    """
    difference = np.stack(other) - np.stack(base)
    drawn = (seeds * difference[:, 1:].T).sum(axis=1)
    known = drawn[~np.isnan(drawn)]
    value = float(difference[:, 0].mean())
    if 2 * len(known) <= len(drawn):
        return Interval(value, float("nan"), float("nan"))
    return interval(value, known)
