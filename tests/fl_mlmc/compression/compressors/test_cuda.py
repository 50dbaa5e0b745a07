"""A vector on a GPU gives the very bytes of the same vector on the CPU."""

import numpy as np
import pytest
import torch

import fl_mlmc
from fl_mlmc.compression.noise import noise

TEXTS = [
    "Identity()",
    "TopK(fraction=0.01)",
    "MLMC(TopK(fraction=0.01))",
    "MLMC(TopK(count=50, growth=2), 'cost')",
    "MLMC(FixedPoint(), 'fixed')",
    "MLMC(FloatingPoint(), 'fixed')",
    "MLMC(RTN(bits=4))",
    "ECUQ(bits=3)",
    "MLMC(TopK(fraction=0.001), draws=5, replacement=False)",
    "MLMC(TopK(fraction=0.01), bucket=512)",
    "MLMC(FixedPoint(unit=2.0), bucket=512)",
    "RandK(fraction=0.01, values='bfloat16')",
    "Dither(unit=2.0)",
    "MLMC(TopK(fraction=0.01), values=Dither(unit=1.0))",
    "RandK(fraction=0.01, values=Dither(unit=2.8))",
    "TopK(fraction=0.01, values=Natural())",
    "QSGD(levels=7)",
    "Natural()",
    "TernGrad()",
    "StochasticRounding(bits=4)",
    "Systematic(fraction=0.01)",
    "Bernoulli(fraction=0.01)",
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_gpu_gives_the_bytes_of_the_cpu(text: str, size: int) -> None:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(1))
    compressor = fl_mlmc.parse(text)
    on_cpu = compressor.encode(vector, np.random.default_rng(2))
    assert compressor.encode(vector.cuda(), np.random.default_rng(2)) == on_cpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_makes_the_noise_of_the_cpu() -> None:
    for seed in (0, 7, 2**64 - 1):
        there = noise(seed, 1000, 300_000, "cuda")
        assert there.device.type == "cuda"
        assert torch.equal(there.cpu(), noise(seed, 1000, 300_000))
