"""A compressor of one's own: its class and a line of the registry, and everything that asks about compressors works.

What it does not say of itself counts as unknown, and is refused by name wherever it matters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import COMPRESSORS, Scaled, omega, parse
from fl_mlmc.clients.budget import check_budget, fitting
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.compression.compressors.base import Compressed, Compressor
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.schemes import parse_scheme
from fl_mlmc.testing import check_compressor, check_draws, check_hostile, edge_vectors
from fl_mlmc.theory import theorems
from fl_mlmc.theory.problems import Constants
from fl_mlmc.training.local import TrainingError


@dataclass(frozen=True, repr=False)
class Coins(Compressor):
    """Every coordinate twice, or zero; of which it says nothing more."""

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        return Compressed(_twice(vector, torch.from_numpy(rng.random(vector.numel()) < 0.5)), 33.0 * vector.numel())

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        for falls in product((False, True), repeat=vector.numel()):
            yield 0.5 ** vector.numel(), _twice(vector, torch.tensor(falls))


def _twice(vector: Tensor, kept: Tensor) -> Payload:
    return Payload(vector.numel(), (DenseBlock(torch.where(kept, 2 * vector, 0.0)),))


@dataclass(frozen=True, repr=False)
class KnownCoins(Coins):
    """The same, and what is known of it."""

    def omega(self, vector: Tensor) -> float:
        return 1.0 if vector.any() else 0.0

    def worst_omega(self, size: int) -> float:
        return 1.0


@dataclass(frozen=True, repr=False)
class Shout(Compressor):
    """Three times the vector: biased, and no contraction."""

    is_unbiased = False

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        return Compressed(Payload(vector.numel(), (DenseBlock(3 * vector),)), 32.0 * vector.numel())

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        yield 1.0, self.compress(vector, np.random.default_rng(0)).payload


@dataclass(frozen=True, repr=False)
class Half(Shout):
    """Half of the vector, and all that is known of it."""

    rescales = False
    is_whole = True

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        return Compressed(Payload(vector.numel(), (DenseBlock(vector / 2),)), 32.0 * vector.numel())

    def contraction(self, size: int) -> float:
        return 3 / 4

    def bias_and_variance(self, size: int) -> tuple[float, float]:
        return 1 / 2, 0.0


OWN = (Coins, KnownCoins, Shout, Half)
CLIENTS = 4
KNOWN = Constants(1.0, (1.0,) * CLIENTS, 0.1, 0.1, 0.0, 0.0)
PRIVATE: dict[str, Any] = {"dp_noise": 1.0, "dp_clip": 0.5}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in OWN:
        monkeypatch.setitem(COMPRESSORS, kind.__name__, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", OWN)
def test_it_has_a_text_and_keeps_the_laws(kind: type[Compressor]) -> None:
    assert parse(f"{kind.__name__}()") == kind()
    for vector in edge_vectors().values():
        check_compressor(kind(), vector)
    check_draws(kind(), torch.tensor([0.3, -1.2, 0.5]))
    check_hostile(kind().encode(torch.randn(60), np.random.default_rng(1)), 60, np.random.default_rng(2), 25)


def test_what_it_does_not_say_is_not_known() -> None:
    unknown = Coins()
    assert omega(unknown, torch.ones(5)) is None
    assert (
        unknown.worst_omega(5) is unknown.contraction(5) is unknown.bias_and_variance(5) is unknown.longest(5) is None
    )
    assert unknown.rescales
    assert not unknown.is_whole
    assert not unknown.is_exact
    assert omega(KnownCoins(), torch.ones(5)) == KnownCoins().worst_omega(5) == 1
    assert KnownCoins().bias_and_variance(5) == (0, 1)
    assert KnownCoins().contraction(5) is None
    assert Shout().bias_and_variance(5) is None
    assert Scaled(KnownCoins()).contraction(5) == pytest.approx(1 / 2)


@pytest.mark.parametrize("text", ["Coins()", "Shout()", "Scaled(KnownCoins())", "Induced(Coins(), KnownCoins())"])
def test_privacy_and_robust_means_refuse_what_they_do_not_know(text: str) -> None:
    name = text.partition("(")[0]
    with pytest.raises(ConfigError, match=f"those of {name} are rescaled by one over a chance, or may be"):
        RunConfig().changed(compressor=text, **PRIVATE)
    for aggregation in ("median", "trimmed-mean:0.2"):
        with pytest.raises(ConfigError, match=f"of {name} most are zero or rescaled, or may be"):
            RunConfig().changed(compressor=text, aggregation=aggregation)


def test_privacy_and_robust_means_take_what_says_that_it_is_harmless() -> None:
    RunConfig().changed(compressor="Half()", **PRIVATE)
    RunConfig().changed(compressor="Half()", aggregation="median")


@pytest.mark.parametrize("kind", OWN)
def test_a_budget_leaves_it_alone_and_checks_what_it_sends(kind: type[Compressor]) -> None:
    compressor = kind()
    assert fitting(compressor, 100, 50) is compressor
    payload = compressor.encode(torch.randn(100), np.random.default_rng(0))
    task = TrainTask(1, 0, "small", 0.5, "", uplink_budget=len(payload) - 1)
    with pytest.raises(TrainingError, match=f"{kind.__name__}\\(\\) has no fraction"):
        check_budget([payload], compressor, task)


@pytest.mark.parametrize(
    ("scheme", "option"),
    [
        ("diana", "memory_step"),
        ("adiana(1.0, 0.1)", "omega"),
        ("marina", "probability"),
        ("dasha", "memory_step"),
        ("dasha_mvr", "memory_step"),
        ("shadowheart(1.0)", "omega"),
    ],
)
def test_a_scheme_asks_for_the_option_that_an_unknown_bound_leaves_open(scheme: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"no bound on ω of Coins\(\) is known: give \w+ its {option}"):
        parse_scheme(scheme).resolve(Coins(), 10, CLIENTS)
    parse_scheme(scheme).resolve(KnownCoins(), 10, CLIENTS)


@pytest.mark.parametrize("scheme", ["ef14", "ef21", "ef21_sgdm"])
def test_error_feedback_refuses_what_may_enlarge_a_vector(scheme: str) -> None:
    for compressor, reason in (
        (Coins(), r"Coins\(\) has no known bound on ω"),
        (KnownCoins(), r"KnownCoins\(\) has ω up to 1"),
        (Shout(), r"Shout\(\) has no known α at 10 coordinates"),
    ):
        with pytest.raises(ValueError, match=f"scheme {scheme} needs a contractive compressor, {reason}"):
            parse_scheme(scheme).resolve(compressor, 10, CLIENTS)
    for compressor in (Half(), Scaled(KnownCoins())):
        parse_scheme(scheme).resolve(compressor, 10, CLIENTS)


def test_ef_bv_takes_the_constants_that_it_says() -> None:
    for unknown in (Coins(), Shout()):
        with pytest.raises(ValueError, match=rf"no bounds of {type(unknown).__name__}\(\) are known: give ef_bv its"):
            parse_scheme("ef_bv").resolve(unknown, 10, CLIENTS)
    assert repr(parse_scheme("ef_bv").resolve(Half(), 10, CLIENTS)) == "ef_bv(memory_step=1.0, estimate_step=1.0)"
    scaled = parse_scheme("ef_bv").resolve(Scaled(KnownCoins()), 10, CLIENTS)  # η = 1/2, ω = 1/4: λ = 1, ν = 1
    assert repr(scaled) == "ef_bv(memory_step=1.0, estimate_step=1.0)"
    plain = parse_scheme("ef_bv").resolve(KnownCoins(), 10, CLIENTS)
    assert repr(plain) == "ef_bv(memory_step=0.5, estimate_step=0.8)"


def test_theorems_give_steps_for_what_is_known_and_refuse_the_rest_by_name() -> None:
    for theorem in (theorems.direct, theorems.diana, theorems.marina, theorems.dasha):
        with pytest.raises(ValueError, match=r"no bound on ω of Coins\(\) is known"):
            theorem(KNOWN, Coins(), 10)
    for theorem in (theorems.ef14, theorems.ef21, theorems.ef21_sgdm):
        with pytest.raises(ValueError, match=r"no bound on α of Shout\(\) is known"):
            theorem(KNOWN, Shout(), 10)
    assert theorems.direct(KNOWN, KnownCoins(), 10).step == pytest.approx(1 / (1 + 2 / CLIENTS))
    assert theorems.ef14(KNOWN, Half(), 10).step == pytest.approx(3 / 4 / 8)
    root = math.sqrt(1 - 3 / 4)
    assert theorems.ef21(KNOWN, Half(), 10).step == pytest.approx(1 / (1 + math.sqrt(2) * root / (1 - root)))
