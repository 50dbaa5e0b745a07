"""Long vectors are not sorted; their groups are nevertheless those of a sort."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import MLMC, TopK
from fl_mlmc.compression.ladders import top_k
from fl_mlmc.compression.ladders.top_k import SORT_BELOW
from fl_mlmc.testing import check_ladder, edge_vectors, sorted_groups


def vectors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    normal = torch.randn(SORT_BELOW + 77, generator=generator)
    spiked = normal.clone()
    spiked[123] = 1e6
    mostly_zero = normal * (torch.rand(normal.numel(), generator=generator) < 0.01)
    return {"normal": normal, "ties": (normal * 3).round(), "spiked": spiked, "mostly zero": mostly_zero}


@pytest.mark.parametrize("name", vectors())
@pytest.mark.parametrize("ladder", [TopK(fraction=0.1), TopK(count=50, growth=2)], ids=repr)
def test_groups_of_a_long_vector_are_those_of_a_stable_sort(name: str, ladder: TopK) -> None:
    vector = vectors()[name]
    rungs = ladder.climb(vector)
    order = torch.argsort(vector.abs(), descending=True, stable=True)
    edges = ladder.edges(vector.numel())
    for level in range(1, rungs.num_levels + 1):
        expected = order[edges[level - 1] : edges[level]].sort().values
        assert torch.equal(rungs.increment(level).indices, expected)
    np.testing.assert_allclose(rungs.norms(), rungs.exact_norms(), rtol=0.005)


@pytest.mark.parametrize("name", edge_vectors())
def test_the_way_of_long_vectors_keeps_the_laws_on_short_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k, "SORT_BELOW", 0)
    for ladder in (TopK(count=1), TopK(count=2), TopK(fraction=0.5), TopK(count=1, growth=2)):
        vector = edge_vectors()[name]
        # Denormals share the lowest bins, whose middles say little; any positive norm will do.
        check_ladder(ladder, vector, norm_tolerance=0.01 if "denormals" not in name else 1e9)
        values, edges = vector.tolist(), ladder.edges(vector.numel()).tolist()
        for level, (indices, entries) in enumerate(sorted_groups(vector, edges), start=1):
            block = ladder.climb(vector).increment(level)
            assert (block.indices.tolist(), block.values.tolist()) == (indices, entries), values


@pytest.mark.parametrize("name", vectors())
def test_norms_from_a_histogram_cost_next_to_no_variance(name: str) -> None:
    vector = vectors()[name]
    norms = TopK(fraction=0.01).climb(vector).exact_norms()
    best = norms.sum() ** 2 / float(vector.double().square().sum()) - 1
    assert MLMC(TopK(fraction=0.01)).omega(vector) == pytest.approx(best, rel=1e-4, abs=1e-5)


def test_a_logarithmic_ladder_is_short() -> None:
    assert TopK(count=10, growth=2).climb(torch.zeros(10_000_000)).num_levels == 20
