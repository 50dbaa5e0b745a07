"""No operation mixes devices, tried where there is no GPU: tensors that are on the CPU but say and behave otherwise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import fl_mlmc

ELSEWHERE = torch.device("meta")  # what torch without CUDA can be made to name
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEX = torch.ops.aten.index.Tensor  # takes indices on the CPU, but not the other way round

TEXTS = [
    "Identity()",
    "TopK(fraction=0.01)",
    "MLMC(TopK(fraction=0.01))",
    "MLMC(TopK(fraction=0.01), draws=3, values='bfloat16')",
    "MLMC(TopK(count=50, growth=2), 'cost')",
    "MLMC(TopK(fraction=0.01), draws=2, replacement=False)",
    "FixedPoint(bits=4)",
    "FixedPoint(bits=20)",
    "MLMC(FixedPoint())",
    "MLMC(FixedPoint(), 'fixed', draws=2)",
    "MLMC(FixedPoint(unit=2.0), 'fixed')",
    "MLMC(FixedPoint(unit=2.0))",
    "FloatingPoint(bits=4)",
    "MLMC(FloatingPoint())",
    "MLMC(FloatingPoint(), 'fixed')",
    "MLMC(FloatingPoint(), draws=2, replacement=False)",
    "RTN(bits=4)",
    "MLMC(RTN(bits=4))",
    "MLMC(RTN(bits=4), 'fixed', draws=2)",
    "ECUQ(bits=3)",
    "MLMC(ECUQ(bits=3))",
    "MLMC(TopK(fraction=0.01), bucket=512)",
    "MLMC(FixedPoint(unit=2.0), bucket=512)",
    "MLMC(FixedPoint(unit=2.0), 'fixed', bucket=100)",
    "RandK(fraction=0.01, values='bfloat16')",
    "Dither(unit=2.0)",
    "MLMC(TopK(fraction=0.01), values=Dither(unit=1.0))",
    "RandK(fraction=0.01, values=Dither(unit=2.8))",
    "TopK(fraction=0.01, values=Natural())",
    "QSGD(levels=7)",
    "QSGD(levels=1000)",
    "Natural()",
    "TernGrad()",
    "StochasticRounding(bits=4)",
    "Systematic(fraction=0.01)",
    "Bernoulli(fraction=0.01, values='bfloat16')",
    "Importance(draws=3)",
    "Induced(TopK(fraction=0.01), RandK(fraction=0.01))",
    "Induced(FixedPoint(bits=4), MLMC(FloatingPoint()))",
    "Scaled(RandK(fraction=0.5))",
]


class Pretended(Tensor):
    """A tensor that says that it is on a GPU; `held` has its numbers. numpy cannot reach it, as on a real one."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        self = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=ELSEWHERE
        )
        self.held = held
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of the pretence")


class PretendedGPU(TorchDispatchMode):
    """Computes on the CPU, and refuses what a GPU would refuse."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
        if pretended and function not in COPIES and not (function is INDEX and isinstance(tensors[0], Pretended)):
            strays = [t for t in tensors if not isinstance(t, Pretended) and t.ndim > 0]
            assert not strays, f"{function} mixes devices: {[tuple(t.shape) for t in strays]}"
        device = kwargs.get("device") or (ELSEWHERE if any(isinstance(t, Pretended) for t in tensors[:1]) else None)
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map_only(Pretended, lambda tensor: tensor.held, (args, kwargs))
        result = function(*args, **kwargs)
        if device is None or torch.device(device).type == "cpu":
            return result
        known = {id(held): tensor for held, tensor in ((t.held, t) for t in pretended)}
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else Pretended(t), result)


def vector(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def test_the_pretence_refuses_what_a_gpu_would() -> None:
    with PretendedGPU():
        there = Pretended(vector(10))
        assert (there * 2).device == ELSEWHERE
        assert float(there.sum()) == float(vector(10).sum())
        assert there.cpu().device.type == "cpu"
        with pytest.raises(AssertionError, match="mixes devices"):
            there + vector(10)
        with pytest.raises(AssertionError, match="mixes devices"):
            vector(10)[there.int().abs()]
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


@pytest.mark.parametrize("size", [1000, 70_001])
@pytest.mark.parametrize("text", TEXTS)
def test_a_pretended_gpu_gives_the_bytes_of_the_cpu(text: str, size: int) -> None:
    compressor = fl_mlmc.parse(text)
    on_cpu = compressor.encode(vector(size), np.random.default_rng(2))
    omega = compressor.omega(vector(size))
    with PretendedGPU():
        there = Pretended(vector(size))
        assert compressor.encode(there, np.random.default_rng(2)) == on_cpu
        assert compressor.omega(there) == (None if omega is None else pytest.approx(omega, rel=1e-9))
        accumulator = Pretended(torch.zeros(size))
        compressor.compress(there, np.random.default_rng(2)).payload.add_to(accumulator)
    torch.testing.assert_close(accumulator.held, fl_mlmc.decode(on_cpu, size))


@pytest.mark.parametrize("text", TEXTS)
def test_what_the_processor_draws_does_not_grow_with_the_vector(text: str) -> None:
    """A seed, a level or a start: random words for each coordinate are made where the vector is."""
    if text.startswith("Importance") or "bucket" in text:  # a number for each draw, or each bucket
        return
    states = []
    for size in (200, 3000):
        rng = np.random.default_rng(2)
        fl_mlmc.parse(text).compress(vector(size), rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]
