"""Level probabilities of multilevel Monte Carlo compression and what follows from them: numbers only.

From Multilevel Monte Carlo compression, ICML 2025, arXiv 2507.05508. With increments Δ_l = C^l(v) − C^(l−1)(v)
and a level l drawn with probability p_l, the estimate base + Δ_l / p_l is unbiased for any p that is positive where
Δ_l ≠ 0, because the expectation telescopes (Lemma 3.2). All arguments have shape (L,).
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np


def adaptive_probabilities(norms: np.ndarray) -> np.ndarray:
    """p_l = ‖Δ_l‖ / Σ‖Δ_k‖, which makes the second moment smallest (Lemma 3.4, Algorithm 3).

    Levels without increment get probability 0; so do all of them if every norm is zero.
    """
    total = norms.sum()
    return norms / total if total > 0 else np.zeros_like(norms)


def cost_probabilities(norms: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """p_l ∝ ‖Δ_l‖ / √bits_l, which makes second moment × expected bits smallest (the classical MLMC allocation)."""
    return adaptive_probabilities(norms / np.sqrt(costs))


def second_moment(norms: np.ndarray, probabilities: np.ndarray) -> float:
    """E‖Δ_l / p_l‖² of one draw: the sum of ‖Δ_l‖² / p_l over levels with an increment."""
    drawn = norms > 0
    return float((norms[drawn] ** 2 / probabilities[drawn]).sum())


def largest_moment(rule: str, prior: np.ndarray, costs: np.ndarray) -> float:
    """The largest second moment of one draw for Σ‖Δ_l‖² = 1, with p_l by `rule`: "adaptive", "fixed" or "cost".

    L, max 1 / p_l, and (L + √(Σ c_l · Σ 1/c_l)) / 2: the first by Cauchy–Schwarz, where all norms are equal; the last
    is the greater eigenvalue of (ab' + ba') / 2 for a = √c and b = 1 / √c. Less 1 it bounds ω where increments never
    oppose each other, as then Σ‖Δ_l‖² ≤ ‖v‖². ValueError for another rule.
    """
    match rule:
        case "adaptive":
            return float(prior.size)
        case "fixed":
            return float(1 / prior.min())
        case "cost":
            return float(prior.size + np.sqrt(costs.sum() * (1 / costs).sum())) / 2
    raise ValueError(f"a rule of level probabilities is 'adaptive', 'fixed' or 'cost', got {rule!r}")


def cost_excess(costs: np.ndarray) -> float:
    """How many times the least second moment that of `cost_probabilities` may be: Kantorovich's inequality.

    (1 + r)² / 4r, r = √(max c / min c).
    """
    ratio = float(np.sqrt(costs.max() / costs.min()))
    return (1 + ratio) ** 2 / (4 * ratio)


def inclusion_probabilities(weights: np.ndarray, draws: int) -> np.ndarray:
    """π_l = min(1, c · weight_l) with Σπ = `draws`: without replacement, the best chances of each level to be drawn.

    All levels with weight are certain where there are no more of them than draws.
    """
    if np.count_nonzero(weights) <= draws:
        return (weights > 0).astype(np.float64)
    order = np.argsort(-weights)
    tails = np.cumsum(weights[order][::-1])[::-1]  # what is left once the largest are certain
    for num_certain in range(draws):
        scale = (draws - num_certain) / tails[num_certain]
        if weights[order[num_certain]] * scale < 1:
            break
    certain = np.zeros(weights.size, bool)
    certain[order[:num_certain]] = True
    return np.where(certain, 1.0, np.minimum(weights * scale, 1.0))


def systematic_sample(inclusion: np.ndarray, start: float) -> np.ndarray:
    """The levels (from 0) under the points start, start + 1, … of a line on which the chances lie end to end.

    Over a uniform `start` in [0, 1) every level is drawn with its chance, never twice, and their number is fixed.
    """
    points = np.ceil(line_ends(inclusion) - start)
    return np.flatnonzero(np.diff(points, prepend=np.ceil(-start)) > 0)


def line_ends(inclusion: np.ndarray, start: float = 0.0) -> np.ndarray:
    """Where each chance ends on the line, rounding errors taken out at whole numbers."""
    ends = start + np.cumsum(inclusion)
    nearest = np.round(ends)
    return np.where(np.abs(ends - nearest) < 1e-9, nearest, ends)


def systematic_outcomes(inclusion: np.ndarray) -> Iterator[tuple[float, float]]:
    """(probability, start) of every outcome of `systematic_sample`."""
    cuts = np.unique(np.concatenate([[0.0, 1.0], line_ends(inclusion) % 1.0]))
    for low, high in pairwise(cuts):
        yield float(high - low), float((low + high) / 2)
