"""Worst cases of compressors, the constants that step sizes are made of, and who admits whom.

ω: E‖C(v) − v‖² ≤ ω‖v‖² for every v of `size` coordinates, C unbiased. α: E‖C(v) − v‖² ≤ (1 − α)‖v‖².
"""

import math

import torch

from ..compression.compressors.base import Compressor
from ..compression.compressors.bernoulli import Bernoulli
from ..compression.compressors.importance import Importance
from ..compression.compressors.induced import Induced
from ..compression.compressors.mlmc import MLMC
from ..compression.compressors.natural import Natural
from ..compression.compressors.qsgd import QSGD
from ..compression.compressors.rand_k import RandK
from ..compression.compressors.scaled import Scaled
from ..compression.compressors.sparsity import num_kept
from ..compression.compressors.systematic import Systematic
from ..compression.compressors.terngrad import TernGrad
from ..compression.ladders.base import Ladder
from ..compression.ladders.fixed_point import FixedPoint
from ..compression.ladders.floating_point import FloatingPoint
from ..compression.ladders.identity import Identity
from ..compression.ladders.top_k import TopK


def worst_omega(compressor: Compressor, size: int) -> float | None:
    """The least known ω of an unbiased compressor; None where no bound is known."""
    if getattr(compressor, "values", "float32") != "float32":
        return None
    match compressor:
        case Identity():
            return 0.0
        case Natural():
            return 1 / 8
        case TernGrad():
            return (math.sqrt(size) - 1) / 2
        case QSGD(levels=levels):
            return min(size / levels**2, math.sqrt(size) / levels)
        case RandK() | Bernoulli() | Systematic():
            return size / num_kept(compressor, size) - 1
        case Importance(draws=draws):
            return (size - 1) / draws
        case Induced(biased=biased, unbiased=unbiased):
            left, alpha = worst_omega(unbiased, size), contraction(biased, size)
            return None if left is None or alpha is None else left * (1 - alpha)
        case MLMC():
            return _worst_of_mlmc(compressor, size)
    return None


def _worst_of_mlmc(compressor: MLMC, size: int) -> float | None:
    # Without replacement the variance is no larger than with it, so the bound holds for both.
    match compressor.ladder:
        case Identity():
            return 0.0
        case FixedPoint():
            return (math.sqrt(size) - 1) / 2 / compressor.draws
        case FloatingPoint():
            return 1 / 8 / compressor.draws
        case TopK() if compressor.probabilities == "adaptive":
            # Cauchy–Schwarz over the groups, which are disjoint; equality where all have one norm.
            return (compressor.ladder.climb(torch.ones(size)).num_levels - 1) / compressor.draws
        case TopK() if compressor.probabilities == "fixed":
            prior = compressor.ladder.climb(torch.ones(size)).prior()
            return float(1 / prior.min() - 1) / compressor.draws
    return None


def contraction(compressor: Compressor, size: int) -> float | None:
    """The largest known α of a contractive compressor; None where no bound is known."""
    match compressor:
        case Identity():
            return 1.0
        case TopK():
            return compressor.step(size) / size
        case FloatingPoint(bits=bits):
            return 1 - 4.0**-bits
        case Scaled(inner=inner, omega_bound=bound):
            omega = worst_omega(inner, size) if bound is None else bound
            return None if omega is None else 1 / (1 + omega)
    if compressor.is_unbiased:
        omega = worst_omega(compressor, size)
        return 1 - omega if omega is not None and omega < 1 else None
    return None


def need_unbiased(scheme: str, compressor: Compressor) -> None:
    """ValueError unless the compressor is unbiased."""
    if not compressor.is_unbiased:
        wrapped = f"MLMC({compressor!r})" if isinstance(compressor, Ladder) else "an unbiased compressor"
        raise ValueError(
            f"scheme {scheme} needs an unbiased compressor, {compressor!r} is biased: "
            f"take {wrapped}, or a scheme with error feedback such as ef21"
        )


def need_contractive(scheme: str, compressor: Compressor, size: int) -> None:
    """ValueError if the compressor may enlarge a vector: error feedback then diverges."""
    if compressor.is_unbiased and contraction(compressor, size) is None:
        omega = worst_omega(compressor, size)
        seen = "has no known bound on ω" if omega is None else f"has ω up to {omega:.4g}"
        raise ValueError(
            f"scheme {scheme} needs a contractive compressor, {compressor!r} {seen} and may enlarge a vector: "
            f"take Scaled({compressor!r}), or a scheme for unbiased compressors such as diana"
        )


def need_identity(scheme: str, compressor: Compressor) -> None:
    """ValueError unless the compressor is the neutral one, where the scheme itself decides what travels."""
    if not isinstance(compressor, Identity):
        raise ValueError(
            f"scheme {scheme} decides itself what travels, so compressor is Identity(), not {compressor!r}"
        )


def known_omega(scheme: str, option: str, compressor: Compressor, size: int) -> float:
    """ω of an unbiased compressor; ValueError that names the option to give where no bound is known."""
    omega = worst_omega(compressor, size)
    if omega is None:
        raise ValueError(f"no bound on ω of {compressor!r} is known: give {scheme} its {option}, such as {option}=0.1")
    return omega
