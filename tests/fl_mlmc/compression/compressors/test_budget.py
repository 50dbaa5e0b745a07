"""A budget of bytes is never passed, by no vector and no draw; within it the least variance is chosen, and no bias."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_mlmc import Budget, Identity, decode, omega, parse
from fl_mlmc.compression.compressors import budget as module
from fl_mlmc.testing import check_encoding, check_refusals, check_text, edge_vectors

LEAST = 31  # bytes that hold a coordinate of any vector


def vectors(size: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(size)
    found = {
        "normal": rng.normal(size=size),
        "student": rng.standard_t(3, size),
        "heavy": rng.laplace(size=size) ** 3,
        "few": rng.normal(size=size) * (rng.random(size) < 0.01),
        "even": np.ones(size),
        "wide": np.exp(10 * rng.normal(size=size)),
        "zero": np.zeros(size),
        "tiny": rng.normal(size=size) * 1e-40,
        "huge": np.clip(rng.normal(size=size), -3, 3) * 1e36,
    }
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in found.items()}


@pytest.mark.parametrize("size", [1, 40, 2000])
@pytest.mark.parametrize("most", [LEAST, 33, 100, 400, 2500])
def test_no_payload_is_a_byte_over_its_budget(size: int, most: int) -> None:
    for name, vector in vectors(size).items():
        for seed in range(2):
            try:
                length = len(Budget(most).encode(vector, np.random.default_rng(seed)))
            except ValueError as error:  # values over their chance leave float32's range
                assert name == "huge", error  # noqa: PT017
                assert "finite" in str(error), error  # noqa: PT017
                continue
            assert length <= most, name


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=60),
    copies=st.sampled_from([1, 7, 50]),
    most=st.integers(LEAST, 1500),
    seed=st.integers(0, 9),
)
def test_no_payload_of_any_vector_is_over(values: list[float], copies: int, most: int, seed: int) -> None:
    vector = torch.tensor(values * copies)
    payload = Budget(most).encode(vector, np.random.default_rng(seed))
    assert len(payload) <= most
    assert decode(payload, vector.numel()).isfinite().all()


RIVALS = ["RandK(fraction=1.0)", "Systematic(fraction=1.0)", "MLMC(TopK(fraction=1.0), values='bfloat16')"]


@pytest.mark.parametrize("name", ["normal", "student", "heavy", "few"])
@pytest.mark.parametrize("most", [60, 300, 1200])
def test_none_of_the_same_bytes_has_less_variance(name: str, most: int) -> None:
    vector = vectors(2000)[name]
    found = omega(Budget(most), vector)
    assert found is not None
    for text in RIVALS:
        rival = omega(parse(text).shortened(2000, most), vector)
        assert found <= rival * (1 + 1e-9), text  # type: ignore[operator]


def test_the_family_follows_the_vector_and_the_budget() -> None:
    normal, heavy = vectors(10_000)["normal"], vectors(10_000)["heavy"]
    for vector, most, start in (
        (normal, 2000, "Dither(unit="),
        (normal, 200, "RandK(fraction="),
        (heavy, 200, "Systematic(fraction="),
        (normal, 45_000, "Identity()"),
        (torch.eye(1, 10_000)[0], 40, "Identity()"),
    ):
        sent = Budget(most).compress(vector, np.random.default_rng(0))
        assert sent.chosen.startswith(start)
        assert repr(parse(sent.chosen)) == sent.chosen
    assert omega(Budget(2000), normal) < 0.4  # type: ignore[operator]
    assert Budget(45_000).chosen(normal) == Identity()


def test_what_is_sure_to_fit_has_dithered_values() -> None:
    for size, most in ((2000, 300), (100_000, 4000)):
        sure = Budget(most).sure(size)
        assert repr(sure).endswith("values=Dither(unit=2.8))")
        assert sure.longest(size) <= most  # type: ignore[operator]
        assert sure.worst_omega(size) < 0.4 * parse("RandK(fraction=1.0)").shortened(size, most).worst_omega(size)  # type: ignore[operator]


def test_the_choice_is_the_vectors_alone() -> None:
    vector = vectors(2000)["student"]
    chosen = {Budget(300).compress(vector, np.random.default_rng(seed)).chosen for seed in range(4)}
    assert chosen == {repr(Budget(300).chosen(vector))}


def test_more_bytes_are_less_variance_and_are_used() -> None:
    vector = vectors(2000)["normal"]
    found = [omega(Budget(most), vector) for most in (40, 100, 300, 600, 1200, 2500)]
    assert found == sorted(found, reverse=True)  # type: ignore[type-var]
    for most in (300, 1200):
        assert len(Budget(most).encode(vector, np.random.default_rng(0))) > 0.85 * most


def test_a_draw_that_is_too_long_is_compressed_once_more_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    vector, count = vectors(200)["student"], 500
    chosen = parse("RandK(fraction=0.5, values=Dither(unit=2.8))")
    lengths = [len(chosen.encode(vector, np.random.default_rng(seed))) for seed in range(100)]
    budget = Budget(int(np.median(lengths)))
    monkeypatch.setattr(module.Budget, "chosen", lambda self, vector: chosen)
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(count):
        data = budget.encode(vector, rng)
        assert len(data) <= budget.bytes
        outcomes.append(decode(data, 200).double())
    every = torch.stack(outcomes)
    off = float((every.mean(dim=0) - vector).square().sum())
    noise = float(every.var(dim=0).sum()) / count
    assert off < 1.6 * noise  # that is its mean, and its spread is a few tenths of that
    assert noise * count > 1.1 * float(vector.square().sum()) * chosen.omega(vector)  # type: ignore[operator]


def test_hardly_any_draw_is_too_long() -> None:
    for vector in (vectors(2000)[name] for name in ("normal", "student", "heavy")):
        for most in (100, 300, 1000):
            chosen = Budget(most).chosen(vector)
            assert sum(len(chosen.encode(vector, np.random.default_rng(seed))) > most for seed in range(40)) <= 1


def test_what_tiny_budgets_do() -> None:
    vector = vectors(2000)["normal"]
    with pytest.raises(ValueError, match="at least 14, the length of an empty payload, got 13"):
        Budget(13)
    assert len(Budget(14).encode(torch.zeros(2000), np.random.default_rng(0))) == 14
    with pytest.raises(ValueError, match="20 bytes does not hold a payload of one coordinate of 2000, 31 bytes do"):
        Budget(20).encode(vector, np.random.default_rng(0))
    assert len(Budget(LEAST).encode(torch.randn(200_000), np.random.default_rng(0))) <= LEAST
    assert len(Budget(23).encode(torch.tensor([1.5]), np.random.default_rng(0))) <= 23
    with pytest.raises(ValueError, match="20 bytes does not hold"):
        Budget(500).shortened(2000, 20)
    assert Budget(500).shortened(2000, 100) == Budget(100)
    assert Budget(500).shortened(2000, 1000) == Budget(500)
    assert Budget(500).longest(2000) == 500


@pytest.mark.parametrize("name", edge_vectors())
def test_edge_vectors_are_sent(name: str) -> None:
    for most in (33, 60):
        check_encoding(Budget(most), edge_vectors()[name])


def test_its_text_and_its_refusals() -> None:
    check_text(Budget(4000))
    check_refusals(Budget(4000))
    assert repr(parse("Budget(bytes=4000)")) == "Budget(bytes=4000)"
    assert not Budget(4000).is_whole
    assert Budget(4000).rescales
    assert Budget(4000).is_unbiased


def test_bytes_for_those_whose_coordinates_few_hold_make_a_better_mean_than_as_many_for_each() -> None:
    """Five sensors hold 500 coordinates, three phones 1000 and a gateway 2000: 2700 bytes in all, shared two ways."""
    widths = [500] * 5 + [1000] * 3 + [2000]
    rng = np.random.default_rng(0)
    updates = [torch.from_numpy(rng.normal(size=width)).float() for width in widths]
    holders = sum(torch.nn.functional.pad(torch.ones(width), (0, 2000 - width)) for width in widths)

    def error(budgets: list[int]) -> float:
        compressors = [Budget(most).chosen(update) for most, update in zip(budgets, updates, strict=True)]
        found = 0.0
        for seed in range(6):
            missed = torch.zeros(2000)
            for number, (compressor, update) in enumerate(zip(compressors, updates, strict=True)):
                data = compressor.encode(update, np.random.default_rng([seed, number]))
                missed[: update.numel()] += decode(data, update.numel()) - update
            found += float((missed / holders).square().sum()) / 6
        return found

    by_tier, alike = [80] * 5 + [300] * 3 + [1400], [300] * 9
    assert sum(by_tier) == sum(alike)
    assert error(by_tier) < 0.4 * error(alike)
