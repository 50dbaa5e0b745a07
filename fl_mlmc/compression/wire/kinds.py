"""The number of each kind of block."""

DENSE, SPARSE, MASKED, SEEDED, SYMBOLS, POWERS, CUT, WIDE, LETTERED, UPPER, DITHER, PLACED, ROTATED = range(1, 14)
BFLOAT16 = 0x80
"""Set in a kind whose values are bfloat16: the upper halves of float32 numbers."""

Body = bytes | memoryview
"""What a block is written as."""
