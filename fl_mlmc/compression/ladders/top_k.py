"""Top-k ladder: level l adds the l-th group of largest coordinates.

C^l(v) keeps the largest entries of v: s of them for l = 1 and s · growth^(l−1) more with each level, until C^L(v) = v.
With growth 1 this is s-Top-k of arXiv 2507.05508, section 4, L = ⌈d / s⌉; with growth 2 a logarithmic ladder,
L = O(log(d / s)). Alone it is the usual Top-k with k = s.

Long vectors are not sorted. The upper half of a float32 orders magnitudes to 1 part in 128, and its histogram gives the
norm of every group; only the coordinates near the drawn group are looked at again. Groups are exactly those of a stable
sort.
"""

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, Payload, SparseBlock
from ..compressors.base import Compressed
from ..compressors.sparsity import bounded, check_sparsity, keeping_fewer, longest_sparse, num_kept, takes_omega
from ..compressors.values import Values, quantised, quantised_outcomes, quantiser, read_values, value_bits
from ..kernels import kernel_for
from ..pointwise import STRETCH, energy
from ..probabilities import largest_moment
from .base import Ladder, Rungs
from .top_k_buckets import TopKBuckets

_NUM_KEYS = 1 << 15
_NUM_FINITE = 0x7F80  # keys from here on are those of infinity and NaN
_ROUGH = 1 + 2.0**-8  # exact norms over those from a histogram, at most: half a bin
SORT_BELOW = 1 << 16
"""Shorter vectors are sorted, which is as fast, and their norms exact."""


@takes_omega
@dataclass(frozen=True, repr=False)
class TopK(Ladder):
    """Keep coordinates in order of magnitude, first a `fraction` of all or `count` of them.

    Exactly one of the two is given: 0 < fraction ≤ 1, rounded to at least one coordinate, or count ≥ 1. Each further
    level adds `growth` times as many as the one before. Ties break by position, so the ladder is a function of v alone.
    Or, with an `omega`, groups are as small as one adaptive draw of `MLMC` over them has an ω below that.
    Alone it sends `values` as float32, bfloat16 or through an unbiased quantiser; over it `MLMC` has that option.
    """

    fraction: float | None = None
    count: int | None = None
    growth: float = 1
    values: Values = "float32"
    omega_bound: float | None = bounded()

    has_buckets = True

    def __post_init__(self) -> None:
        check_sparsity(self)
        if not (isinstance(self.growth, int | float) and 1 <= self.growth < float("inf")):
            raise ValueError(f"TopK's growth is a number of at least 1, got {self.growth!r}")
        read_values(self)
        if self.adapts and self.growth != 1:
            raise ValueError(f"TopK's omega takes groups of one size, got growth={self.growth!r}")

    def step(self, size: int) -> int:
        """Coordinates in the first group, s, for a vector of `size` coordinates; of no vector more, if it `adapts`."""
        if self.omega_bound is None:
            return num_kept(self, size)
        return -(-size // math.floor(1 + self.omega_bound))  # as many groups of any norms have ω ≤ L − 1

    @property
    def adapts(self) -> bool:  # type: ignore[override]
        """Whether there is an `omega`."""
        return self.omega_bound is not None

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """The k largest coordinates, their values quantised."""
        return quantised(super().compress(vector, rng), self.values, rng)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """The one set of coordinates, with every outcome of their values."""
        return quantised_outcomes(super().outcomes(vector), self.values)

    def stop_bits(self, rungs: Rungs) -> float:
        """`value_bits` a value and ⌈log2 d⌉ an index."""
        return super().stop_bits(rungs) + self.step(rungs.size) * (value_bits(self.values) - 32)

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """Whether a quantiser of its values does."""
        return self.values != "float32"

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of its values does."""
        return quantiser(self.values).lists_outcomes

    @property
    def rescales(self) -> bool:  # type: ignore[override]
        """Whether the quantiser of its values does."""
        return quantiser(self.values).rescales

    def contraction(self, size: int) -> float | None:
        """α = k / d, attained where all magnitudes are equal; with ω < 1 of its quantised values α (1 − ω).

        Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv 1809.07599. Values w cost ω‖w‖², and ‖w‖² ≥ α‖v‖².
        """
        omega = quantiser(self.values).worst_omega(self.step(size))
        return None if omega is None or omega >= 1 else self._share(size) * (1 - omega)

    def bias_and_variance(self, size: int) -> tuple[float, float] | None:
        """(√(1 − α), ω) for α = k / d and the worst ω of its quantised values."""
        omega = quantiser(self.values).worst_omega(self.step(size))
        return None if omega is None else (math.sqrt(1 - self._share(size)), omega)

    def left_at(self, size: int, level: int) -> float:
        """The share of the coordinates that are not among the first groups, attained where magnitudes are equal."""
        return 1 - (self._share(size) if self.adapts else float(self.edges(size)[level]) / size)

    def _share(self, size: int) -> float:
        """The least share of ‖v‖² in the first group: k / d, or 1 / (1 + ω), as ‖v‖² = ΣΔ² ≤ Δ₁ ΣΔ."""
        return self.step(size) / size if self.omega_bound is None else 1 / (1 + self.omega_bound)

    def worst_draw(self, size: int, probabilities: str) -> float:
        """⌈d / s⌉ − 1 for groups of equal size with adaptive or fixed chances: groups share no coordinate.

        Section 4 of arXiv 2507.05508; attained where all groups have one norm, if s divides d. The `omega`, if
        there is one, is it itself: vectors that larger groups would serve better are given smaller ones.
        """
        if self.omega_bound is not None:
            return self.omega_bound
        rungs = self.climb(torch.ones(size))
        return largest_moment(probabilities, rungs.prior(), rungs.costs()) - 1

    def group(self, size: int) -> int | None:
        """`step`; None where groups grow, whose largest does not end at the fraction."""
        return self.step(size) if self.growth == 1 else None

    def with_group(self, count: int, size: int) -> "TopK":
        """With the fraction that gives groups of `count`."""
        return replace(self, fraction=count / size, count=None, omega_bound=None)

    def longest(self, size: int) -> int:
        """A bound on the values and the code of the indices of the first group."""
        return longest_sparse(size, self.step(size), self.values)

    def shortened(self, size: int, budget: int) -> "TopK":
        """With the largest fraction that is sure to fit."""
        return keeping_fewer(self, size, budget, self.step(size), lambda count: self.with_group(count, size))

    def climb(self, vector: Tensor) -> "TopKRungs":
        """Groups of ranks; nothing is sorted yet, unless their size depends on the vector."""
        rungs = TopKRungs(vector, self.edges(vector.numel()))
        return rungs if self.omega_bound is None else rungs.narrowed(self.omega_bound)

    def edges(self, size: int) -> np.ndarray:
        """(L + 1,) the ranks where groups begin and end."""
        step = self.step(size)
        if self.growth == 1:
            return _equal_edges(step, size)
        edges, width = [0], float(step)
        while edges[-1] < size:
            edges.append(min(edges[-1] + round(width), size))
            width *= self.growth
        return np.array(edges)


class TopKRungs(Rungs):
    """Groups of ranks `edges[l − 1]` to `edges[l]` of one vector, largest first."""

    orthogonal = True
    sends_floats = True

    def __init__(self, vector: Tensor, edges: np.ndarray) -> None:
        self.size = vector.numel()
        self.num_levels = edges.size - 1
        self._vector, self._edges = vector, edges

    def narrowed(self, omega: float) -> "TopKRungs":
        """The rungs of the smallest groups of one size that, one drawn adaptively, have ω(v) ≤ `omega`; these at most.

        By bisection: ω falls with the size of groups, but for little steps where the last one is short. Rough norms
        are taken as too small by all that they may be.
        """
        rough = 1.0 if self.size < SORT_BELOW else _ROUGH
        allowed, found = math.sqrt((1 + omega) * energy(self._vector)) / rough, self
        low, high = 0, int(self._edges[1])
        while high - low > 1:
            middle = (low + high) // 2
            rungs = self._regrouped(middle)
            if float(rungs.norms().sum()) <= allowed:
                found, high = rungs, middle
            else:
                low = middle
        return found

    def _regrouped(self, step: int) -> "TopKRungs":
        """Of groups of `step`; what is known of the vector is shared."""
        _ = self._order if self.size < SORT_BELOW else self._counts
        rungs = copy(self)
        rungs._edges = _equal_edges(step, self.size)
        rungs.num_levels = rungs._edges.size - 1
        return rungs

    def norms(self) -> np.ndarray:
        """(L,) for vectors of 2^16 coordinates and more from a histogram of magnitudes, within 0.4 %."""
        if self.size < SORT_BELOW:
            return self.exact_norms()
        # Every coordinate counts with the middle of its bin. Norms are then within 0.4 %, and as any chances keep the
        # estimate unbiased, that costs its variance some 1e-5 of itself.
        middles = np.arange(_NUM_KEYS, dtype="<i4") << 16 | 1 << 15
        middles[0] = middles[_NUM_FINITE:] = 0
        squares = middles.view("<f4")[::-1].astype(np.float64) ** 2
        counts = self._counts[::-1]
        ranks, filled = np.append(0, np.cumsum(counts)), counts > 0
        energies = np.zeros(counts.size)
        energies[filled] = counts[filled] * squares[filled]
        below = np.append(0.0, np.cumsum(energies[::-1]))[::-1]  # summed from the smallest, to lose no digits
        left = np.interp(self._edges, ranks, below)
        energy = left[:-1] - left[1:]
        return self._patched(np.sqrt(np.maximum(energy, 0.0)))

    def exact_norms(self) -> np.ndarray:
        """(L,) from the sorted vector."""
        squares = self._vector[self._order].double().square().cpu().numpy()
        return np.sqrt(np.add.reduceat(squares, self._edges[:-1]))

    def costs(self) -> np.ndarray:
        """(L,) 32 bits a value and ⌈log2 d⌉ an index."""
        return np.diff(self._edges) * (32 + np.ceil(np.log2(max(self.size, 2))))

    def prior(self) -> np.ndarray:
        """(L,) ∝ √(size of the group): equal chances where groups are equal."""
        # The least informed vector has equal coordinates: a group's norm is the root of its length.
        roots = np.sqrt(np.diff(self._edges))
        return roots / roots.sum()

    def increment(self, level: int) -> SparseBlock:
        """The coordinates of one group, sparse."""
        return self._entries(int(self._edges[level - 1]), int(self._edges[level]))

    def rung(self, level: int) -> tuple[Block, ...]:
        """The coordinates of the first groups, sparse."""
        return (self._entries(0, int(self._edges[level])),)

    def estimate(self, factors: Mapping[int, float]) -> tuple[Block, ...]:
        """One sparse block, whatever the number of groups."""
        if len(factors) <= 1:
            return tuple([self.increment(level).scaled(factor) for level, factor in factors.items()])
        # One block for all groups: a set of indices is shorter than its parts.
        groups = list(zip(self._groups(list(factors)), factors.values(), strict=True))
        indices, order = torch.cat([group.indices for group, _ in groups]).sort()
        # In float64, so that groups of one coordinate get equal magnitudes, which take a bit each on the wire.
        values = torch.cat([group.values.double() * factor for group, factor in groups])
        return (SparseBlock(self.size, indices, values[order].float()),)

    def cut(self, bucket: int) -> TopKBuckets:
        """The groups of the whole vector, in stretches of `bucket` coordinates; sorts it."""
        levels = np.empty(self.size, np.int64)
        levels[self._order.cpu().numpy()] = np.repeat(np.arange(1, self.num_levels + 1), np.diff(self._edges))
        return TopKBuckets(self._vector, levels, bucket, 32 + math.ceil(math.log2(max(self.size, 2))))

    def _groups(self, levels: list[int]) -> list[SparseBlock]:
        """The increments of some levels; a long vector is looked through once for all of them."""
        if self.size < SORT_BELOW:
            return [self.increment(level) for level in levels]
        ranks = [(int(self._edges[level - 1]), int(self._edges[level])) for level in levels]
        bins = torch.zeros(_NUM_KEYS, dtype=torch.bool)
        for low, high in ranks:
            bins[self._key_of(high - 1) : self._key_of(low) + 1] = True
        near = _within(self._keys, bins)
        keys = self._keys[near]
        indices = (self._select(low, high, near, keys) for low, high in ranks)
        return [SparseBlock(self.size, each, self._vector[each]) for each in indices]

    def _entries(self, low: int, high: int) -> SparseBlock:
        """The coordinates of ranks `low` to `high`, by position: sorted indices have short codes."""
        is_short = self.size < SORT_BELOW
        indices = self._order[low:high].sort().values if is_short else self._select(low, high)
        return SparseBlock(self.size, indices, self._vector[indices])

    @cached_property
    def _order(self) -> Tensor:
        return torch.argsort(self._vector.abs(), descending=True, stable=True)

    @cached_property
    def _keys(self) -> Tensor:
        """int16: the upper half of |v_j|, which grows with it."""
        words = self._vector.contiguous().view(torch.int16)[1::2]  # little-endian, on every machine that torch runs on
        out = torch.empty(self.size, dtype=torch.int16, device=words.device)
        step = STRETCH if words.device.type == "cpu" else self.size
        for start in range(0, self.size, step):
            torch.bitwise_and(words[start : start + step], 0x7FFF, out=out[start : start + step])
        return out

    @cached_property
    def _counts(self) -> np.ndarray:
        return torch.bincount(self._keys, minlength=_NUM_KEYS).cpu().numpy()

    @cached_property
    def _ranks(self) -> np.ndarray:
        """(keys + 1,) how many coordinates have a key of at least k."""
        return np.append(np.cumsum(self._counts[::-1])[::-1], 0)

    def _select(self, low: int, high: int, places: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """The coordinates of these ranks, of all or of some `places` with their `keys`."""
        top, bottom = (self._key_of(rank) for rank in (low, high - 1))
        if places is None or keys is None:
            near = _between(self._keys, bottom, top)
            keys = self._keys[near]
        else:
            found = _between(keys, bottom, top)
            near, keys = places[found], keys[found]
        offset = int(self._ranks[top + 1])
        if offset == low and int(self._ranks[bottom]) == high:
            return near
        keep = torch.ones(near.numel(), dtype=torch.bool, device=near.device)
        self._cut(near, keys, keep, top, low - int(self._ranks[top + 1]), None)
        self._cut(near, keys, keep, bottom, None, high - int(self._ranks[bottom + 1]))
        return near[keep]

    def _key_of(self, rank: int) -> int:
        """The largest key that more than `rank` coordinates reach."""
        return int(np.searchsorted(-self._ranks, -rank)) - 1

    def _cut(self, near: Tensor, keys: Tensor, keep: Tensor, key: int, first: int | None, last: int | None) -> None:
        """Keep those of one bin whose ranks within it are `first` to `last`, None meaning no bound."""
        places = torch.nonzero(keys == key).squeeze(1)
        magnitudes = self._vector[near[places]].abs()
        if first is not None:
            keep[places[_largest(magnitudes, first)]] = False
        if last is not None:
            keep[places[~_largest(magnitudes, last)]] = False

    def _patched(self, norms: np.ndarray) -> np.ndarray:
        """Norms without zeros for groups that hold something: the lowest bin counts as zero but has denormals."""
        num_nonzero = self.size if self._counts[0] == 0 else int(torch.count_nonzero(self._vector))
        holds = self._edges[:-1] < num_nonzero
        return np.where(holds, np.maximum(norms, 1e-42), 0.0)


def _equal_edges(step: int, size: int) -> np.ndarray:
    """Where groups of `step` begin and end, the last one at `size`."""
    return np.append(np.arange(0, size, step), size)


def _between(keys: Tensor, low: int, high: int) -> Tensor:
    """Where `keys` lie between `low` and `high`, both included."""
    if keys.device.type != "cpu":
        return torch.nonzero((keys >= low) & (keys <= high)).squeeze(1)
    words, found = keys.numpy().view(np.uint16), []
    for start in range(0, words.size, STRETCH):
        # Unsigned differences wrap around: one comparison does for two.
        near = words[start : start + STRETCH] - np.uint16(low) <= high - low
        found.append(np.flatnonzero(near) + start)
    return torch.from_numpy(np.concatenate(found))


def _largest(magnitudes: Tensor, count: int) -> Tensor:
    """Marks the `count` largest, of equal ones the first: those of a stable sort, without one."""
    if not 0 < count < magnitudes.numel():
        return torch.full_like(magnitudes, count > 0, dtype=torch.bool)
    least = torch.kthvalue(magnitudes, magnitudes.numel() - count + 1).values
    marks, ties = magnitudes > least, torch.nonzero(magnitudes == least).squeeze(1)
    marks[ties[: count - int(torch.count_nonzero(marks))]] = True
    return marks


def _within(keys: Tensor, bins: Tensor) -> Tensor:
    """Where keys are of those whose bin is marked."""
    compiled = kernel_for("marked", keys.numel()) if keys.device.type == "cpu" else None
    if compiled is None:
        parts = [torch.nonzero(bins.to(keys.device)[part.int()]).squeeze(1) for part in keys.split(_step(keys))]
        firsts = range(0, keys.numel(), _step(keys))
        return torch.cat([part + first for part, first in zip(parts, firsts, strict=True)])
    found = np.empty(keys.numel(), np.int64)
    return torch.from_numpy(found[: compiled(keys.numpy(), found, bins.numpy())])


def _step(vector: Tensor) -> int:
    return STRETCH if vector.device.type == "cpu" else vector.numel()
