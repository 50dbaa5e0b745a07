"""What the bench counts as sent: the compressors' formulas, and nothing for randomness that both sides can derive."""

import numpy as np
import pytest
import torch

from fl_mlmc import MLMC, Identity, Induced, RandK, Scaled, TopK
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.run.clock import Pace
from fl_mlmc.schemes import Scheme, parse_scheme
from fl_mlmc.schemes.shadowheart import Shadowheart
from fl_mlmc.theory import bench
from fl_mlmc.theory.problems import homogeneous
from fl_mlmc.theory.theorems import Setup

SIZE = 40
VALUE, INDEX = 32, 6


def sent(scheme: Scheme, compressor: Compressor, rounds: int = 1) -> float:
    """Bits of an average client after some rounds with 4 clients."""
    paces = [Pace(1.0, up=1e9)] * 4
    return float(
        bench.run(homogeneous(4, SIZE), Setup(scheme, compressor, 0.1, None, False), rounds, paces=paces).bits[-1]
    )


@pytest.mark.parametrize(
    ("compressor", "bits"),
    [
        (RandK(count=4), 4 * VALUE),
        (Scaled(RandK(count=4)), 4 * VALUE),
        (Induced(TopK(count=4), RandK(count=4)), 8 * VALUE + 4 * INDEX),
        (MLMC(TopK(count=4)), 4 * (VALUE + INDEX)),
    ],
    ids=repr,
)
def test_a_seed_that_both_sides_can_derive_counts_for_nothing(compressor: Compressor, bits: int) -> None:
    assert sent(parse_scheme("direct"), compressor) == pytest.approx(bits)


def test_rand_k_is_counted_like_schemes_that_deal_coordinates_out_by_the_seed() -> None:
    # A tenth of the coordinates a message: those of Perm-K and TAMUNA, which derive theirs, have values alone as well.
    full = 2 * VALUE * SIZE  # MARINA's first round: float64
    permuted = sent(parse_scheme("marina(1e-9, permuted=True)"), Identity(), rounds=2) - full
    assert permuted == VALUE * SIZE / 4
    assert sent(parse_scheme("direct"), RandK(count=10)) == permuted


def test_all_messages_of_a_client_are_counted_without_their_seeds() -> None:
    scheme = Shadowheart(4.0)
    loads = scheme.resolve(RandK(count=4), SIZE, 4).workloads([1.0] * 4, [1e-9] * 4)
    assert loads[0].messages == 10
    assert sent(scheme, RandK(count=4)) == 10 * 4 * VALUE


def test_the_seed_is_still_part_of_what_travels() -> None:
    message = RandK(count=4).compress(torch.ones(SIZE), np.random.default_rng(0))
    assert message.expected_bits - message.unseeded_bits == 64
