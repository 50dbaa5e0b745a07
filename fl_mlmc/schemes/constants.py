"""Who admits which compressor: what a scheme's theorem asks of one, and the refusal that says why.

ω: E‖C(v) − v‖² ≤ ω‖v‖² for every v of `size` coordinates, C unbiased. α: E‖C(v) − v‖² ≤ (1 − α)‖v‖². Each compressor
knows its own: `worst_omega` and `contraction`.
"""

from ..compression.compressors.base import Compressor
from ..compression.ladders.base import Ladder


def need_unbiased(scheme: str, compressor: Compressor) -> None:
    """ValueError unless the compressor is unbiased."""
    if not compressor.is_unbiased:
        wrapped = f"MLMC({compressor!r})" if isinstance(compressor, Ladder) else "an unbiased compressor"
        raise ValueError(
            f"scheme {scheme} needs an unbiased compressor, {compressor!r} is biased: "
            f"take {wrapped}, or a scheme with error feedback such as ef21"
        )


def need_contractive(scheme: str, compressor: Compressor, size: int) -> None:
    """ValueError unless the compressor is known never to enlarge a vector: error feedback may else diverge."""
    if compressor.contraction(size) is not None:
        return
    if compressor.is_unbiased:
        omega = compressor.worst_omega(size)
        seen = "has no known bound on ω" if omega is None else f"has ω up to {omega:.4g}"
        instead = f"take Scaled({compressor!r}), or a scheme for unbiased compressors such as diana"
    else:
        seen = f"has no known α at {size} coordinates"
        instead = "take one with more bits, or TopK(fraction=0.01)"
    raise ValueError(
        f"scheme {scheme} needs a contractive compressor, {compressor!r} {seen} and may enlarge a vector: {instead}"
    )


def need_identity(scheme: str, compressor: Compressor) -> None:
    """ValueError unless the compressor is the neutral one, where the scheme itself decides what travels."""
    if not compressor.is_exact:
        raise ValueError(
            f"scheme {scheme} decides itself what travels, so compressor is Identity(), not {compressor!r}"
        )


def known_omega(scheme: str, option: str, compressor: Compressor, size: int) -> float:
    """ω of an unbiased compressor; ValueError that names the option to give where no bound is known."""
    omega = compressor.worst_omega(size)
    if omega is None:
        raise ValueError(f"no bound on ω of {compressor!r} is known: give {scheme} its {option}, such as {option}=0.1")
    return omega
