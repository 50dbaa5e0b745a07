"""Level probabilities of multilevel Monte Carlo compression and what follows from them: numbers only.

From Multilevel Monte Carlo compression, ICML 2025, arXiv 2507.05508. With increments Δ_l = C^l(v) − C^(l−1)(v)
and a level l drawn with probability p_l, the estimate base + Δ_l / p_l is unbiased for any p that is positive where
Δ_l ≠ 0, because the expectation telescopes (Lemma 3.2). All arguments have shape (L,).
"""

import numpy as np


def adaptive_probabilities(norms: np.ndarray) -> np.ndarray:
    """p_l = ‖Δ_l‖ / Σ‖Δ_k‖, which makes the second moment smallest (Lemma 3.4, Algorithm 3).

    Levels without increment get probability 0; so do all of them if every norm is zero.
    """
    total = norms.sum()
    return norms / total if total > 0 else np.zeros_like(norms)


def second_moment(norms: np.ndarray, probabilities: np.ndarray) -> float:
    """E‖Δ_l / p_l‖² of one draw: the sum of ‖Δ_l‖² / p_l over levels with an increment."""
    drawn = norms > 0
    return float((norms[drawn] ** 2 / probabilities[drawn]).sum())
