"""How much a reader holds at most, checked before memory is allocated for it."""

from .errors import WireError


def sparse_limit(size: int) -> int:
    """The most entries of a sparse block: decoding more would take more memory than two dense vectors."""
    return min(size, max(size // 8, 1024))


def allow(held_bytes: int, limit: int) -> None:
    """WireError if a block would hold more than the payload's others have left."""
    if held_bytes > limit:
        raise WireError(f"payload's blocks hold more than one dense vector: {held_bytes} bytes where {limit} are left")
