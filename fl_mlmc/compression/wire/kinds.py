"""The number of each kind of block."""

DENSE, SPARSE, MASKED, SEEDED, SYMBOLS, POWERS, CUT, WIDE, LETTERED, UPPER, DITHER, PLACED, ROTATED = range(1, 14)
SHARED = 14
"""Of a dithered block among the values of a placed one, whose seed follows from that of the places."""
BUCKETED = 15
BFLOAT16 = 0x80
"""Set in a kind whose values are bfloat16: the upper halves of float32 numbers."""

Body = bytes | memoryview
"""What a block is written as."""
