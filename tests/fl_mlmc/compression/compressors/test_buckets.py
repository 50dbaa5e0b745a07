"""A level for every bucket never costs variance, whatever the vector; what travels is what the increments say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_mlmc import MLMC, FixedPoint, Ladder, TopK, decode, parse
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.compression.bucketed import BucketBlock
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.testing import check_hostile, check_round_trip, edge_vectors

LADDERS: list[Ladder] = [
    TopK(count=1),
    TopK(count=3),
    TopK(count=1, growth=2),
    FixedPoint(),
    FixedPoint(bits=3),
    FixedPoint(bits=3, unit=1.0),
    FixedPoint(bits=4, unit=1e-5),
]
FLOATS = st.floats(-(2.0**40), 2.0**40, width=32)


def drawn(name: str, size: int) -> Tensor:
    rng = np.random.default_rng(3)
    found = {
        "normal": rng.standard_normal(size),
        "student": rng.standard_t(3, size),
        "layers": rng.standard_normal(size) * np.repeat(10.0 ** np.arange(-2, 3), -(-size // 5))[:size],
    }
    return torch.from_numpy(found[name]).float()


def held_against_one_draw(ladder: Ladder, bucket: int, vector: Tensor) -> None:
    for rule in ("adaptive", "fixed"):
        one, many = MLMC(ladder, rule).omega(vector), MLMC(ladder, rule, bucket=bucket).omega(vector)  # type: ignore[arg-type]
        assert one is not None
        assert many is not None
        assert many <= one * (1 + 1e-6) + 1e-6, (ladder, bucket, rule)
        if rule == "fixed":
            assert many == pytest.approx(one, rel=1e-6, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    ladder=st.sampled_from(LADDERS),
    bucket=st.integers(1, 8),
    values=st.lists(FLOATS, min_size=1, max_size=12),
)
def test_buckets_never_cost_variance(ladder: Ladder, bucket: int, values: list[float]) -> None:
    held_against_one_draw(ladder, bucket, torch.tensor(values))


@pytest.mark.parametrize("name", ["normal", "student", "layers"])
def test_nor_do_they_on_long_vectors(name: str) -> None:
    vector = drawn(name, 5000)
    for ladder in (TopK(fraction=0.01), FixedPoint(unit=2.0), FixedPoint()):
        held_against_one_draw(ladder, 512, vector)


@pytest.mark.parametrize("ladder", LADDERS, ids=repr)
@pytest.mark.parametrize("bucket", [1, 4, 100])
def test_pieces_and_what_travels_are_the_increments_cut(ladder: Ladder, bucket: int) -> None:
    """The plain definition: every increment written out, and cut."""
    vectors = {**edge_vectors(), "normal": drawn("normal", 23), "student": drawn("student", 23)}
    for name, vector in vectors.items():
        rungs, size, rng = ladder.climb(vector), vector.numel(), np.random.default_rng(1)
        cut, whose = rungs.cut(min(bucket, size)), np.arange(size) // bucket
        count = int(whose[-1]) + 1
        increments = torch.stack([rungs.increment(level).dense() for level in range(1, rungs.num_levels + 1)]).double()
        norms = np.sqrt([np.bincount(whose, each.square().numpy(), count) for each in increments]).T
        found = np.zeros_like(norms)
        found[cut.pieces.buckets, cut.pieces.levels - 1] = cut.pieces.norms
        np.testing.assert_allclose(found, norms, rtol=1e-6, atol=1e-42, err_msg=name)
        if 0 < float(vector.abs().max()) < 1e-30:
            continue
        for _ in range(3):
            levels = rng.integers(0, rungs.num_levels + 1, count)
            factors = np.where(levels, rng.choice([1.0, 1.75, 4.0], count), 0.0)
            expected = torch.zeros(size).double() if rungs.base is None else rungs.base.dense().double()
            for place in range(size):
                level, factor = int(levels[whose[place]]), float(factors[whose[place]])
                expected[place] += factor * float(increments[level - 1, place]) if level else 0.0
            payload = Payload(size, cut.estimate(levels, factors))
            np.testing.assert_allclose(payload.dense(), expected.float(), rtol=1e-6, atol=1e-30, err_msg=name)
            check_round_trip(payload)


def test_every_bucket_draws_by_itself_and_at_its_chances() -> None:
    pieces = FixedPoint(bits=3).climb(drawn("normal", 4000)).cut(40).pieces
    chances, rng = pieces.adaptive(), np.random.default_rng(0)
    seen = np.zeros(chances.size)
    for _ in range(400):
        places = pieces.drawn(chances, rng.random(100))
        assert (pieces.buckets[places] == np.arange(100)).all()
        seen[places] += 1
    spread = np.sqrt(400 * chances * (1 - chances))
    assert (np.abs(seen - 400 * chances) <= 5 * spread + 1).all()
    prior = pieces.fixed(np.array([0.25, 0.25, 0.25, 0.25]))
    assert (pieces.drawn(prior, np.full(100, 0.999)) >= -1).all()
    few = TopK(count=1).climb(torch.tensor([3.0, 1.0, 0.0, 0.0])).cut(2).pieces
    assert few.drawn(few.fixed(np.full(4, 0.25)), np.array([0.6, 0.1])).tolist() == [-1, -1]


def test_digits_of_all_buckets_travel_as_one_block() -> None:
    vector = drawn("student", 5000)
    compressor = parse("MLMC(FixedPoint(unit=2), bucket=512)")
    sent = compressor.compress(vector, np.random.default_rng(0))
    [block] = sent.payload.blocks
    assert isinstance(block, BucketBlock)
    assert block.scales.numel() == 10
    assert len(set(block.scales.tolist())) > 5
    data = encode_payload(sent.payload)
    whole = len(parse("MLMC(FixedPoint(unit=2))").encode(vector, np.random.default_rng(0)))
    assert len(data) < 1.25 * whole
    assert sent.levels == ()
    fixed = parse("MLMC(FixedPoint(unit=2), 'fixed', bucket=512)").compress(vector, np.random.default_rng(0))
    assert len(encode_payload(fixed.payload)) < 1.1 * whole  # all digits are worth a unit: no scale travels
    small = compressor.encode(vector[:60], np.random.default_rng(1))
    assert decode_payload(small, 60).blocks
    check_hostile(small, 60, np.random.default_rng(2), 25)


def test_the_mean_of_draws_is_the_vector_and_their_error_is_omega() -> None:
    vector = drawn("layers", 3000)
    for text in ("MLMC(TopK(fraction=0.02), bucket=128)", "MLMC(FixedPoint(unit=2), bucket=128)"):
        compressor, rng = parse(text), np.random.default_rng(0)
        results = torch.stack([decode(compressor.encode(vector, rng), 3000).double() for _ in range(60)])
        norm = float(vector.double().square().sum())
        error = float((results - vector).square().sum()) / norm / 60
        assert error == pytest.approx(compressor.omega(vector), rel=0.15)
        assert float((results.mean(dim=0) - vector).square().sum()) / norm < 2 * error / 60


def test_what_it_knows_of_itself() -> None:
    plain, cut = parse("MLMC(TopK(fraction=0.1))"), parse("MLMC(TopK(fraction=0.1), bucket=64)")
    assert cut.worst_omega(1000) == plain.worst_omega(1000) == 9
    assert cut.rescales
    assert not cut.is_whole
    layers = drawn("layers", 1000)  # most buckets are in few groups, so that much travels
    assert len(cut.encode(layers, np.random.default_rng(0))) > plain.longest(1000)  # type: ignore[operator]
    assert len(cut.encode(layers, np.random.default_rng(0))) <= cut.longest(1000)  # type: ignore[operator]
    shorter = cut.shortened(1000, 300)
    assert shorter.bucket is None  # type: ignore[attr-defined]
    assert shorter.longest(1000) <= 300  # type: ignore[operator]
    assert cut.shortened(1000, 10**6) is cut
    assert MLMC(FixedPoint(unit=2.0), bucket=64).longest(1000) is None
    assert MLMC(FixedPoint(unit=2.0), bucket=64).worst_omega(1000) == 1
    quantised = MLMC(TopK(count=5), values="Dither(unit=1.0)", bucket=10)
    own = MLMC(TopK(count=5), bucket=10).omega(layers)
    assert quantised.omega(layers) == pytest.approx((1 + own) * 13 / 12 - 1)  # type: ignore[operator]
    assert MLMC(TopK(count=5), values="bfloat16", bucket=10).omega(layers) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("MLMC(TopK(count=4), bucket=0)", "a number of neighbouring coordinates, at least 1, got 0"),
        ("MLMC(TopK(count=4), bucket='tensor')", "a number of neighbouring coordinates"),
        ("MLMC(RTN(bits=4), bucket=512)", r"buckets over TopK and FixedPoint, RTN\(bits=4\) knows none"),
        ("MLMC(TopK(count=4), draws=2, bucket=512)", "leave out draws, replacement and 'cost'"),
        ("MLMC(TopK(count=4), 'cost', bucket=512)", "leave out draws, replacement and 'cost'"),
    ],
)
def test_what_has_no_buckets_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)
