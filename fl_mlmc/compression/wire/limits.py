"""What a payload may cost its reader: memory and steps, asked for before they are taken."""

from ..blocks import most_listed
from .errors import WireError

_LEAST = 1 << 14


def sparse_limit(size: int) -> int:
    """The most entries of a sparse block: decoding more would take more memory than two dense vectors."""
    return min(size, most_listed(size))


def work_limit(size: int) -> int:
    """The most bytes that the blocks of a payload hold together, those of one dense vector or 16 KiB; as many steps."""
    return max(4 * size, _LEAST)


class Budget:
    """What is left for the rest of a payload of `size` coordinates, in bytes that its blocks hold and in steps.

    A step is a turn of a loop that waits for the turn before, some 0.2 µs: a symbol of a rANS stream, or a 32nd of a
    row of its lanes. All else that a reader does is a few passes of numpy over each coordinate and each byte.

    >>> budget = Budget(10_000)
    >>> budget.hold(30_000)
    >>> budget.hold(20_000)
    Traceback (most recent call last):
    fl_mlmc.compression.wire.errors.WireError: payload's blocks hold more than one dense vector: 20000 bytes where \
10000 are left
    """

    def __init__(self, size: int) -> None:
        self.bytes_left = self.steps_left = work_limit(size)

    def hold(self, num_bytes: int) -> None:
        """Take bytes that a block will hold; WireError if the others have left fewer."""
        if num_bytes > self.bytes_left:
            raise WireError(
                f"payload's blocks hold more than one dense vector: {num_bytes} bytes where {self.bytes_left} are left"
            )
        self.bytes_left -= num_bytes

    def step(self, num_steps: int) -> None:
        """Take steps; WireError if there are fewer left."""
        if num_steps > self.steps_left:
            raise WireError(
                f"payload takes more steps than its coordinates pay for: {num_steps} where {self.steps_left} are left"
            )
        self.steps_left -= num_steps
