"""What an allocator does with memory that is free again."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 1 << 28
LARGE_BYTES = 1 << 25
"""Larger blocks have pages of their own; glibc takes no higher bound."""


def keep_heap() -> None:
    """Have this process keep the memory that it frees, up to `KEPT_BYTES`, for what it needs next.

    Training frees and asks for the same megabytes in every step. glibc gives them back to the system each time if
    nothing lies above them in the heap, and then the system has to find and clear each page anew. Other C libraries
    are left as they are.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(MMAP_THRESHOLD, LARGE_BYTES)
