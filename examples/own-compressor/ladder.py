"""A ladder of one's own: level l keeps the coordinates of the first l stretches of the vector."""

from dataclasses import dataclass

from torch import Tensor, arange

from fl_mlmc import MLMC, Ladder, Rungs
from fl_mlmc.compression.blocks import SparseBlock
from fl_mlmc.testing import check_compressor, check_ladder, edge_vectors


@dataclass(frozen=True, repr=False)
class Stretches(Ladder):
    length: int = 2

    def climb(self, vector: Tensor) -> Rungs:
        return StretchRungs(vector, vector.split(self.length))


class StretchRungs(Rungs):
    def __init__(self, vector: Tensor, parts: tuple[Tensor, ...]) -> None:
        self.size, self.num_levels, self.parts = vector.numel(), len(parts), parts

    def increment(self, level: int) -> SparseBlock:
        start = (level - 1) * self.parts[0].numel()
        part = self.parts[level - 1]
        return SparseBlock(self.size, arange(start, start + part.numel()), part)


if __name__ == "__main__":
    for vector in edge_vectors().values():
        check_ladder(Stretches(), vector)
        check_compressor(MLMC(Stretches()), vector)
    print("Stretches keeps all laws of a ladder, and MLMC(Stretches()) those of an unbiased compressor")
