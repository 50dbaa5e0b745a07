"""What numba compiles does to the bit what torch does."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import fl_mlmc
from fl_mlmc.compression import kernels
from fl_mlmc.testing import check_compressor, check_draws, edge_vectors

TEXTS = [
    "FixedPoint(bits=4)",
    "FixedPoint(bits=10)",
    "FixedPoint(bits=20)",
    "MLMC(FixedPoint(), 'fixed')",
    "MLMC(FixedPoint())",
    "FixedPoint(bits=4, unit=0.5)",
    "MLMC(FixedPoint(unit=2.0), 'fixed')",
    "TernGrad()",
    "QSGD(levels=127)",
    "QSGD(levels=1000)",
    "StochasticRounding(bits=4)",
    "StochasticRounding(bits=8)",
    "FloatingPoint(bits=4)",
    "FloatingPoint(bits=12)",
    "FloatingPoint(bits=20)",
    "MLMC(FloatingPoint(), 'fixed')",
    "MLMC(FloatingPoint())",
    "Natural()",
    "RTN(bits=4)",
    "RTN(bits=12)",
    "MLMC(RTN(bits=8))",
    "MLMC(RTN(bits=8, kind='mid-rise'), 'fixed')",
    "ECUQ(bits=3)",
    "MLMC(ECUQ(bits=9))",
    "Dither(unit=0.01)",
    "Dither(unit=2.0)",
    "MLMC(TopK(fraction=0.9), values=Dither(unit=1.0))",
    "Systematic(fraction=0.05)",
    "Systematic(fraction=0.99)",
    "Bernoulli(fraction=0.05)",
    "Bernoulli(fraction=0.99)",
    "MLMC(TopK(fraction=0.001), draws=10, replacement=False)",
]
QUICK = {
    "FixedPoint(bits=4)",
    "MLMC(FixedPoint())",
    "MLMC(FixedPoint(unit=2.0), 'fixed')",
    "TernGrad()",
    "FloatingPoint(bits=4)",
    "MLMC(FloatingPoint(), 'fixed')",
    "MLMC(FloatingPoint())",
    "Natural()",
    "MLMC(ECUQ(bits=9))",
    "Dither(unit=0.01)",
    "Dither(unit=2.0)",
    "Systematic(fraction=0.05)",
    "Bernoulli(fraction=0.05)",
    "MLMC(TopK(fraction=0.001), draws=10, replacement=False)",
}  # with which every kernel is used
SIZE = 70_001  # beyond the length from which histograms stand for the vector, and odd


def vectors() -> dict[str, Tensor]:
    rng = np.random.default_rng(3)
    normal = torch.from_numpy(rng.standard_normal(SIZE)).float()
    return {
        "normal": normal,
        "student": torch.from_numpy(rng.standard_t(3, SIZE)).float(),
        "ties": (normal * 3).round(),
        "denormal": normal * 1e-39,
        "tiny": normal * 1e-36,
        "large": normal * 1e30,
    }


VECTORS = vectors()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    monkeypatch.setattr(kernels, "LONG", 0)
    monkeypatch.setattr("fl_mlmc.compression.wire.symbols.choice._LONG", 0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.sweep(quick=lambda text: text in QUICK)
@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("text", TEXTS)
def test_kernels_and_torch_give_the_same_bytes(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor, seeds = fl_mlmc.parse(text), range(3)
    fast = [compressor.encode(VECTORS[name], np.random.default_rng(seed)) for seed in seeds]
    monkeypatch.setattr(kernels, "has_numba", lambda: False)
    assert [compressor.encode(VECTORS[name], np.random.default_rng(seed)) for seed in seeds] == fast


@pytest.mark.usefixtures("compiled")
@pytest.mark.sweep(quick=lambda text: text in QUICK)
@pytest.mark.parametrize("text", TEXTS)
def test_the_laws_hold_for_kernels(text: str) -> None:
    compressor = fl_mlmc.parse(text)
    for vector in edge_vectors().values():
        check_compressor(compressor, vector)
    check_draws(compressor, torch.tensor([0.3, -1.2, 0.5, 2.0, -0.1]))


@pytest.mark.usefixtures("compiled")
def test_every_kernel_is_used_by_the_quick_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()

    def note(name: str, size: int) -> None:
        used.add(name)

    monkeypatch.setattr("fl_mlmc.compression.pointwise.kernel_for", note)
    monkeypatch.setattr("fl_mlmc.compression.wire.symbols.lanes.kernel_for", note)
    monkeypatch.setattr("fl_mlmc.compression.ladders.lattice.kernel_for", note)
    monkeypatch.setattr("fl_mlmc.compression.ladders.floating_point.kernel_for", note)
    sampling = ("compressors.bernoulli", "compressors.systematic", "ladders.top_k")
    for module in ("noise", "dithered", "compressors.dither", "wire.dither_blocks", "blocks", *sampling):
        monkeypatch.setattr(f"fl_mlmc.compression.{module}.kernel_for", note)
    assert set(TEXTS) >= QUICK
    for text in QUICK:
        for seed in range(3):
            fl_mlmc.decode(fl_mlmc.parse(text).encode(VECTORS["normal"], np.random.default_rng(seed)), SIZE)
    assert used == set(kernels._KERNELS)


def test_numba_is_imported_for_long_vectors_only() -> None:
    code = (
        "import sys, numpy, torch, fl_mlmc;"
        "fl_mlmc.TernGrad().encode(torch.ones(1000), numpy.random.default_rng(0));"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("compiled")
def test_an_install_that_cannot_be_written_to_compiles_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    kernels._compiled.cache_clear()
    monkeypatch.setattr(caching._CacheLocator, "from_function", classmethod(lambda cls, *_: None))
    for locator in caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "from_function", classmethod(lambda cls, *_: None))
    fast = fl_mlmc.TernGrad().encode(VECTORS["normal"], np.random.default_rng(0))
    kernels._compiled.cache_clear()
    monkeypatch.setattr(kernels, "has_numba", lambda: False)
    assert fl_mlmc.TernGrad().encode(VECTORS["normal"], np.random.default_rng(0)) == fast
