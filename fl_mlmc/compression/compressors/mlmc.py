"""The MLMC compressor: one random, rescaled increment of a ladder, unbiased.

arXiv 2507.05508 (ICML 2025), Algorithms 2 and 3: draw a level l with probability p_l and send
C^0(v) + (C^l(v) − C^(l−1)(v)) / p_l. The factor 1 / p_l is folded into the values, so neither l nor p_l travels.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, Payload
from ..ladders.base import Ladder, Rungs
from ..ladders.buckets import Buckets, Pieces
from ..pointwise import energy
from ..probabilities import (
    adaptive_probabilities,
    cost_probabilities,
    inclusion_probabilities,
    second_moment,
    systematic_outcomes,
    systematic_sample,
)
from .base import Compressed, Compressor
from .sparsity import keeping_fewer, longest_sparse
from .values import (
    Values,
    composed,
    error_of,
    quantised,
    quantised_outcomes,
    quantiser,
    read_values,
    worst_composed,
)

Probabilities = Literal["adaptive", "fixed", "cost"]

_MOST_LISTED = 4096  # outcomes that omega goes through one by one


@dataclass(frozen=True, repr=False)
class MLMC(Compressor):
    """Multilevel Monte Carlo over `ladder`, the mean of `draws` draws.

    `probabilities` is "adaptive" (p_l ∝ ‖Δ_l‖ of each vector, Algorithm 3), "fixed" (the best for the ladder without a
    look at the vector, Algorithm 2) or "cost" (p_l ∝ ‖Δ_l‖ / √bits_l). With `replacement` draws are independent;
    without, they are different levels: a systematic sample at the best inclusion probabilities min(1, c · p_l), each
    increment over its own. `values` "bfloat16" halves the bytes of float values, rounded at random; an unbiased
    quantiser such as `Dither(unit=1.0)` makes a few bits of each. With a `bucket` the increments are those of the whole
    vector still, but every so many neighbouring coordinates draw a level of their own; never at a larger ω.
    """

    ladder: Ladder
    probabilities: Probabilities = "adaptive"
    draws: int = 1
    replacement: bool = True
    values: Values = "float32"
    bucket: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ladder, Ladder):
            raise ValueError(f"MLMC wraps a ladder such as TopK(fraction=0.01), got {self.ladder!r}")
        if self.ladder.draws:
            raise ValueError(f"over a ladder MLMC has the values=…, not the ladder itself: got {self.ladder!r}")
        if self.probabilities not in get_args(Probabilities):
            raise ValueError(f"MLMC's probabilities are one of {get_args(Probabilities)}, got {self.probabilities!r}")
        if self.ladder.adapts and self.probabilities != "adaptive":
            raise ValueError(f"{self.ladder!r} is made for 'adaptive' probabilities, got {self.probabilities!r}")
        if not isinstance(self.draws, int) or not 1 <= self.draws <= 254:
            raise ValueError(f"MLMC's draws is a whole number from 1 to 254, got {self.draws!r}")
        if not isinstance(self.replacement, bool):
            raise ValueError(f"MLMC's replacement is True or False, got {self.replacement!r}")
        read_values(self)
        if self.bucket is not None:
            self._check_bucket()

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """The base and the drawn increments over their chances; bits are the base's and the expected ones of a draw."""
        rungs = self.ladder.climb(vector)
        if self.bucket is not None:
            return quantised(self._drawn_in_buckets(rungs, self._cut(rungs), rng), self.values, rng)
        chances = self.level_probabilities(rungs)
        levels = self._draw(chances, rng)
        bits = rungs.base_bits
        if levels:
            bits += float(chances @ rungs.costs()) * (self.draws if self.replacement else 1)
        drawn = tuple(float(chances[level - 1]) for level in levels)
        sent = Compressed(self.outcome(rungs, levels, chances), bits, levels, drawn)
        return quantised(sent, self.values, rng)

    def level_probabilities(self, rungs: Rungs) -> np.ndarray:
        """(L,) the probability that a draw gives each level; without replacement, that any draw does.

        All zero where there is nothing to draw.
        """
        match self.probabilities:
            case "adaptive":
                chances = adaptive_probabilities(rungs.norms())
            case "cost":
                chances = cost_probabilities(rungs.norms(), rungs.costs())
            case _:
                chances = rungs.prior()
        return chances if self.replacement else inclusion_probabilities(chances, self.draws)

    def outcome(self, rungs: Rungs, levels: tuple[int, ...], probabilities: np.ndarray) -> Payload:
        """The payload when `levels` are drawn, before its values are quantised."""
        return Payload(rungs.size, rungs.estimate(self._factors(levels, probabilities)))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every choice of levels, L^draws of them with replacement, with every outcome of the values."""
        rungs = self.ladder.climb(vector)
        if self.bucket is not None:
            yield from quantised_outcomes(self._outcomes_in_buckets(rungs, self._cut(rungs)), self.values)
            return
        chances = self.level_probabilities(rungs)
        drawn = ((chance, self.outcome(rungs, levels, chances)) for chance, levels in self._all_draws(chances))
        yield from quantised_outcomes(drawn, self.values)

    def omega(self, vector: Tensor) -> float | None:
        """Exact E‖C(v) − v‖² / ‖v‖² (Lemma 3.4, with a base: of the part above it).

        With buckets the second moment is the sum of theirs. None where it would take too long: draws without
        replacement from many levels that share coordinates; and where the quantiser of the values has no formula.
        """
        rungs = self.ladder.climb(vector)
        above = vector
        if rungs.base is not None:
            above = vector.clone()
            rungs.base.add_to(above, -1.0)
        left, norm = energy(above), energy(vector)
        if left == 0:
            return 0.0
        if self.bucket is not None:
            pieces = self._cut(rungs).pieces
            error = max(pieces.second_moment(self._piece_chances(rungs, pieces)) - left, 0.0)
            even = quantiser(self.values).even_omega if rungs.sends_floats else None
            return error / norm if self.values == "float32" else composed(error / norm, even)
        chances = self.level_probabilities(rungs)
        if self.replacement:
            error = (second_moment(rungs.exact_norms(), chances) - left) / self.draws
        elif rungs.orthogonal:
            error = second_moment(rungs.exact_norms(), chances) - left
        elif rungs.num_levels <= _MOST_LISTED:
            error = self._listed_error(vector, rungs, chances)
        else:
            return None
        if self.values == "float32":
            return max(error, 0.0) / norm
        even = quantiser(self.values).even_omega
        if rungs.sends_floats and even is not None:
            return composed(max(error, 0.0) / norm, even)
        added = self._quantising_error(rungs, chances)
        return None if added is None else (max(error, 0.0) + added) / norm

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of the values does."""
        return quantiser(self.values).lists_outcomes

    @property
    def is_quantiser(self) -> bool:  # type: ignore[override]
        """Whether the ladder is one."""
        return self.ladder.is_quantiser

    def worst_omega(self, size: int) -> float | None:
        """The ladder's worst ω of one draw, over `draws`; for the exact norms of increments, see `Rungs.norms`.

        Buckets never do worse: with adaptive chances by Minkowski's inequality, with fixed ones their ω is the same.
        Draws without replacement do better than with it where increments share no coordinate: their chances are at
        least draws · p_l. Where they share some, all that is known is that they do no worse than a single draw.
        """
        one = self.ladder.worst_draw(size, self.probabilities)
        if one is None:
            return None
        is_mean = self.replacement or self.ladder.climb(torch.ones(size)).orthogonal
        group = self.ladder.group(size)
        most = size if group is None or self.bucket is not None else min(group * self.draws, size)
        return worst_composed(one / self.draws if is_mean else one, self.values, most)

    def longest(self, size: int) -> int | None:
        """A bound on so many of the ladder's increments together, where one holds a fraction that can be chosen.

        In buckets all coordinates may travel: each where its whole bucket is in one increment.
        """
        group = self.ladder.group(size)
        if group is not None and self.bucket is not None:
            return longest_sparse(size, size, self.values)
        return None if group is None else longest_sparse(size, group * self.draws, self.values)

    def shortened(self, size: int, budget: int) -> "MLMC":
        """Over the ladder with the largest fraction that is sure to fit, and without buckets, if they might not fit."""
        group, length = self.ladder.group(size), self.longest(size)
        if group is None or (length is not None and length <= budget):
            return self
        whole = replace(self, bucket=None)
        return keeping_fewer(
            whole, size, budget, group, lambda count: replace(whole, ladder=self.ladder.with_group(count, size))
        )

    def _check_bucket(self) -> None:
        bucket = self.bucket
        if not isinstance(bucket, int) or isinstance(bucket, bool) or not 1 <= bucket < 2**32:
            raise ValueError(f"MLMC's bucket is a number of neighbouring coordinates, at least 1, got {bucket!r}")
        if not self.ladder.has_buckets:
            raise ValueError(f"MLMC has buckets over TopK and FixedPoint, {self.ladder!r} knows none: leave out bucket")
        if self.draws != 1 or not self.replacement or self.probabilities == "cost":
            raise ValueError(
                "with a bucket MLMC draws one level for each of them, 'adaptive' or 'fixed': leave out draws, "
                f"replacement and 'cost', got {self!r}"
            )

    def _cut(self, rungs: Rungs) -> Buckets:
        """The increments in buckets, of which the last, or only one may be shorter."""
        return rungs.cut(min(self.bucket or rungs.size, rungs.size))

    def _piece_chances(self, rungs: Rungs, pieces: Pieces) -> np.ndarray:
        """(pieces,) the probability of each level in each bucket."""
        return pieces.adaptive() if self.probabilities == "adaptive" else pieces.fixed(rungs.prior())

    def _drawn_in_buckets(self, rungs: Rungs, cut: Buckets, rng: np.random.Generator) -> Compressed:
        """One draw a bucket; the log has no room for their levels."""
        pieces = cut.pieces
        chances = self._piece_chances(rungs, pieces)
        drawn = pieces.drawn(chances, rng.random(pieces.num_buckets))
        bits = rungs.base_bits + float(chances @ pieces.bits)
        return Compressed(Payload(rungs.size, _estimate(cut, chances, drawn)), bits)

    def _outcomes_in_buckets(self, rungs: Rungs, cut: Buckets) -> Iterator[tuple[float, Payload]]:
        """Every choice of a level for each bucket, or of none."""
        pieces = cut.pieces
        chances = self._piece_chances(rungs, pieces)
        ways: list[list[tuple[float, int]]] = []
        for bucket in range(pieces.num_buckets):
            places = np.flatnonzero(pieces.buckets == bucket).tolist()
            left = 1 - float(chances[places].sum())
            ways.append([(float(chances[place]), place) for place in places] + ([(left, -1)] if left > 1e-9 else []))
        for chosen in product(*ways):
            drawn = np.array([place for _, place in chosen])
            yield math.prod(share for share, _ in chosen), Payload(rungs.size, _estimate(cut, chances, drawn))

    def _draw(self, chances: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
        if not chances.any():
            return ()
        if self.replacement:
            drawn = rng.choice(chances.size, self.draws, p=chances)
        else:
            drawn = systematic_sample(chances, float(rng.random()))
        return tuple(int(level) + 1 for level in drawn)

    def _factors(self, levels: tuple[int, ...], chances: np.ndarray) -> Mapping[int, float]:
        """What each drawn increment is multiplied by."""
        draws = self.draws if self.replacement else 1
        return {level: times / (draws * float(chances[level - 1])) for level, times in Counter(levels).items()}

    def _all_draws(self, chances: np.ndarray) -> Iterator[tuple[float, tuple[int, ...]]]:
        """Every result of `_draw` with its probability."""
        if not chances.any():
            yield 1.0, ()
        elif self.replacement:
            possible = [int(level) + 1 for level in np.flatnonzero(chances)]
            for levels in product(possible, repeat=self.draws):
                yield math.prod(float(chances[level - 1]) for level in levels), levels
        else:
            for chance, start in systematic_outcomes(chances):
                yield chance, tuple(int(level) + 1 for level in systematic_sample(chances, start))

    def _listed_error(self, vector: Tensor, rungs: Rungs, chances: np.ndarray) -> float:
        error = 0.0
        for chance, levels in self._all_draws(chances):
            missed = vector.double().cpu()
            self.outcome(rungs, levels, chances).add_to(missed, -1.0)
            error += chance * float(missed.square().sum())
        return error

    def _quantising_error(self, rungs: Rungs, chances: np.ndarray) -> float | None:
        """What the quantiser of the values adds, level by level: levels share no float values, so each stands alone.

        None where it has no formula.
        """
        error = 0.0
        draws = self.draws if self.replacement else 1
        for level in np.flatnonzero(chances) + 1:
            chance = float(chances[level - 1])
            for times in range(1, draws + 1):
                seen = math.comb(draws, times) * chance**times * (1 - chance) ** (draws - times)
                floats = rungs.increment(int(level)).scaled(times / (draws * chance)).floats()
                added = 0.0 if floats is None else error_of(floats, self.values)
                if added is None:
                    return None
                error += seen * added
        return error


def _estimate(cut: Buckets, chances: np.ndarray, drawn: np.ndarray) -> tuple[Block, ...]:
    """What travels if these pieces are drawn, one a bucket or −1, each over its chance."""
    some = drawn >= 0
    levels, factors = np.zeros(drawn.size, np.int64), np.zeros(drawn.size)
    levels[some], factors[some] = cut.pieces.levels[drawn[some]], 1 / chances[drawn[some]]
    return cut.estimate(levels, factors)
