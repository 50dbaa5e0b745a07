"""What an allocator does with memory that is free again."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 1 << 28
LARGE_BYTES = 1 << 25
"""Blocks beyond it have pages of their own, whatever is asked for: more than glibc's bound is refused."""


def keep_heap() -> None:
    """Have this process keep the memory that it frees, up to `KEPT_BYTES`, for what it needs next.

    Training frees and asks for the same megabytes in every step. glibc gives them back to the system each time, and
    the system has to find and clear each page anew: a fifth of the time that a small CNN trains. Other C libraries
    are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(MMAP_THRESHOLD, LARGE_BYTES)
