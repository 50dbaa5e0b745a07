"""Exact code of a long stream of small integers, within a few percent of its zeroth-order entropy.

A stream is a byte that names its mode, and what that mode writes. Each mode has a file of its own in this folder, with
its `encode` and `decode` beside each other; `modes` is the table by which a reader finds them, `choice` how a writer
chooses one. Number of symbols and size of the alphabet do not travel: the reader knows both.

>>> import numpy as np
>>> symbols = np.array([0, 0, 1, 0, 2, 0, 0, 1, 0, 0], np.uint8)
>>> coded = encode_symbols(symbols, 3)
>>> list(coded)  # mode 0, five symbols a byte: Σ 3^r · symbol(2 r + i)
[0, 21, 27]
>>> decode_symbols(memoryview(coded), 10, 3)
array([0, 0, 1, 0, 2, 0, 0, 1, 0, 0], dtype=uint8)
"""

from .choice import encode_mask, encode_symbols, most_together
from .modes import decode_symbols

__all__ = ["decode_symbols", "encode_mask", "encode_symbols", "most_together"]
