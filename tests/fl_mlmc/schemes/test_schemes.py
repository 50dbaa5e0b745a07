"""The laws of schemes: which compressors and cohorts they take, and what both sides agree on after a round."""

import numpy as np
import pytest
import torch

from fl_mlmc import COMPRESSORS, MLMC, RTN, Identity, Natural, RandK, Scaled, TopK, decode, parse
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.schemes import SCHEMES, Part, Round, Scheme, State, Turn, parse_scheme
from fl_mlmc.schemes.base import decoded, exact
from fl_mlmc.schemes.controlled import own_coordinates
from fl_mlmc.schemes.ef_bv import best_step
from fl_mlmc.schemes.marina import permuted_part
from fl_mlmc.theory.bench import Gathered

TEXTS = [
    "direct",
    "ef14",
    "ef21",
    "ef21_sgdm(momentum=0.3)",
    "ef_bv(memory_step=0.2)",
    "diana",
    "adiana(1.0, 0.1)",
    "marina(permuted=True)",
    "dasha",
    "dasha_mvr(momentum=0.5)",
    "proxskip(0.1, 0.5)",
    "compressed_scaffnew(0.1, 0.5, overlap=3)",
    "tamuna(step=0.1, probability=0.5)",
    "shadowheart(noise=2.0)",
    "scaffold(0.1, 3)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_schemes_repr_is_the_text_that_builds_it(text: str) -> None:
    scheme = parse_scheme(text)
    assert parse_scheme(repr(scheme)) == scheme


def test_every_scheme_is_listed_here_and_scaffnew_is_proxskip() -> None:
    assert {text.partition("(")[0] for text in TEXTS} == set(SCHEMES)
    assert parse_scheme("scaffnew(0.1, 0.5)") == parse_scheme("proxskip(0.1, 0.5)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ef22", "unknown scheme 'ef22'; known: adiana, .*tamuna"),
        ("diana(step=1)", "diana has no option 'step'; its options: memory_step"),
        ("ef21_sgdm(momentum=0)", r"momentum lies in \(0, 1\]"),
        ("dasha_mvr(momentum=2)", r"momentum lies in \(0, 1\]"),
        ("marina(probability=0)", r"probability lies in \(0, 1\]"),
        ("tamuna(0.1, 0.5, overlap=1)", "at least 2"),
        ("compressed_scaffnew(0.1, 0.5, overlap=1)", "at least 2"),
        ("proxskip(0, 0.5)", "step is above 0"),
        ("proxskip(1, 1.5)", r"probability lies in \(0, 1\]"),
        ("adiana(0.1, 1.0)", "0 < convexity ≤ smoothness"),
        ("shadowheart(-1)", "noise is at least 0, got -1"),
        ("shadowheart('loud')", "noise is at least 0, got 'loud'"),
        ("shadowheart(1, omega=-1)", "omega is at least 0, got -1"),
        ("tamuna('small', 0.5)", "step is above 0, got 'small'"),
        ("proxskip(None, 0.5)", "step is above 0, got None"),
        ("adiana('L', 1)", "smoothness is above 0, got 'L'"),
        ("adiana(1, 0)", "convexity is above 0, got 0"),
        ("adiana(1, 0.1, step=-2)", "step is above 0, got -2"),
        ("adiana(1, 0.1, omega=-2)", "omega is at least 0, got -2"),
        ("adiana(1, 0.1, probability=7)", r"probability lies in \(0, 1\], got 7"),
        ("diana(-1)", r"memory_step lies in \(0, 1\], got -1"),
        ("diana(True)", r"memory_step lies in \(0, 1\], got True"),
        ("dasha('a')", r"memory_step lies in \(0, 1\], got 'a'"),
        ("dasha_mvr(0.1, 2)", r"memory_step lies in \(0, 1\], got 2"),
        ("ef_bv(5)", r"memory_step lies in \(0, 1\], got 5"),
        ("ef_bv(estimate_step=0)", r"estimate_step lies in \(0, 1\], got 0"),
        ("marina(permuted=3)", "permuted is True or False, got 3"),
    ],
)
def test_a_text_that_is_no_scheme_is_refused_with_the_known_ones(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_scheme(text)


@pytest.mark.parametrize(
    ("scheme", "compressor", "message"),
    [
        ("diana", TopK(count=2), r"needs an unbiased compressor.*take MLMC\(TopK\(count=2\)\)"),
        ("diana", Scaled(RandK(count=2)), "needs an unbiased compressor.*take an unbiased compressor, or a scheme"),
        ("adiana(1.0, 0.1)", TopK(count=2), "needs an unbiased compressor"),
        ("marina", TopK(count=2), "needs an unbiased compressor"),
        ("marina(probability=0.5)", TopK(count=2), "needs an unbiased compressor"),
        ("dasha", TopK(count=2), "needs an unbiased compressor"),
        ("dasha_mvr", TopK(count=2), "needs an unbiased compressor"),
        ("ef14", RandK(count=2), r"may enlarge a vector: take Scaled\(RandK\(count=2\)\)"),
        ("ef21", MLMC(TopK(count=2)), "needs a contractive compressor"),
        ("ef21_sgdm", MLMC(TopK(count=2)), "needs a contractive compressor"),
        (
            "ef21",
            RTN(bits=4, clip=1.0),
            "has no known α at 10 coordinates and may enlarge a vector: take one with more",
        ),
        ("ef_bv", RTN(bits=4, clip=1.0), "give ef_bv its memory_step and estimate_step"),
        ("diana", MLMC(RTN(bits=4)), "no bound on ω .* give diana its memory_step"),
        ("marina", MLMC(RTN(bits=4)), "give marina its probability"),
        ("marina(permuted=True)", RandK(count=2), "decides itself what travels"),
        ("proxskip(0.1, 0.5)", RandK(count=2), "decides itself what travels"),
        ("tamuna(0.1, 0.5)", TopK(count=2), "decides itself what travels"),
    ],
)
def test_a_compressor_that_a_scheme_does_not_admit_is_refused_with_the_reason(
    scheme: str, compressor: Compressor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_scheme(scheme).resolve(compressor, 10, 4)


@pytest.mark.parametrize(
    ("scheme", "compressor", "option", "value"),
    [
        ("diana", RandK(count=2), "memory_step", 1 / 5),
        ("diana", MLMC(TopK(count=2)), "memory_step", 1 / 5),
        ("diana(memory_step=0.4)", MLMC(RTN(bits=4)), "memory_step", 0.4),
        ("marina", RandK(count=2), "probability", 1 / 5),
        ("marina(permuted=True)", Identity(), "probability", 1 / 4),
        ("dasha", RandK(count=2), "memory_step", 1 / 9),
        ("ef_bv", RandK(count=2), "memory_step", 1 / 5),
        ("ef_bv", RandK(count=2), "estimate_step", 1 / 2),
        ("ef_bv", TopK(count=10), "memory_step", 1.0),
        ("ef_bv", Natural(), "memory_step", 1 / (1 + 1 / 8)),
        ("ef_bv(estimate_step=0.3)", RandK(count=2), "memory_step", 1 / 5),
        ("ef_bv(memory_step=0.3)", RandK(count=2), "estimate_step", 1 / 2),
        ("dasha_mvr", RandK(count=2), "memory_step", 1 / 9),
        ("adiana(2.0, 0.1)", RandK(count=2), "probability", 1 / 10),
        ("adiana(2.0, 0.1)", RandK(count=2), "step", 4 / (64 * 4 * 2**2 * 2)),
        ("adiana(2.0, 0.1)", Identity(), "step", 1 / 4),
        ("shadowheart(1.0)", RandK(count=2), "omega", 4),
        ("shadowheart(1.0, omega=7.0)", RandK(count=2), "omega", 7),
    ],
)
def test_open_options_follow_the_theorem(scheme: str, compressor: Compressor, option: str, value: float) -> None:
    resolved = parse_scheme(scheme).resolve(compressor, 10, 4)
    assert getattr(resolved, option) == pytest.approx(value)


def test_the_best_step_of_ef_bv_weighs_bias_and_variance() -> None:
    assert best_step(0.5, 0.75) == 0.5 / (0.25 + 0.75)
    assert best_step(0.5, 0.0) == best_step(0.0, 0.0) == 1.0


def test_with_many_clients_adianas_anchor_moves_more_often() -> None:
    resolved = parse_scheme("adiana(2.0, 0.1)").resolve(RandK(count=2), 10, 1152)
    assert resolved.probability == pytest.approx((3 - 1) / 10)  # type: ignore[attr-defined]
    assert parse_scheme("marina(permuted=True)").resolve(Identity(), 10, 50).probability == 1 / 10  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", TEXTS)
def test_a_cohort_smaller_than_all_is_taken_or_refused_by_name(text: str) -> None:
    scheme = parse_scheme(text)
    scheme.check_cohort(8, 8)
    if scheme.allows_partial:
        scheme.check_cohort(4, 8)
    else:
        with pytest.raises(ValueError, match=f"scheme {scheme.name} needs every client in every round, 4 of 8"):
            scheme.check_cohort(4, 8)


def test_an_overlap_beyond_the_cohort_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the 2 clients"):
        parse_scheme("tamuna(0.1, 0.5, overlap=3)").check_cohort(2, 8)
    with pytest.raises(ValueError, match="more than the 8 clients"):
        parse_scheme("compressed_scaffnew(0.1, 0.5, overlap=9)").check_cohort(8, 8)


EVERY = [
    "Bernoulli(count=2)", "ECUQ(bits=2)", "FixedPoint(bits=2)", "FloatingPoint(bits=2)", "Identity()",
    "Importance(draws=2)", "Induced(TopK(count=2), RandK(count=2))", "MLMC(TopK(count=2))", "MLMC(RTN(bits=4))",
    "Natural()", "QSGD(levels=2)", "RTN(bits=2)", "RandK(count=2)", "Scaled(RandK(count=2))",
    "StochasticRounding(bits=2)", "Systematic(count=2)", "TernGrad()", "TopK(count=2)",
    "EDEN(bits=1)", "Truncated(TopK(count=2), levels=2)", "Budget(bytes=40)", "Dither(unit=2.0)",
]  # fmt: skip
OPEN_STEPS = [
    "direct", "ef14", "ef21", "ef21_sgdm", "ef_bv(memory_step=0.1, estimate_step=0.2)", "diana(memory_step=0.1)",
    "adiana(1.0, 0.5, omega=4.0)", "marina(probability=0.3)", "dasha(memory_step=0.1)", "dasha_mvr(memory_step=0.1)",
    "shadowheart(1.0, omega=4.0)", "scaffold(0.01, 3, memory_step=0.1)",
]  # fmt: skip


def test_the_compressors_below_are_all_there_are() -> None:
    assert {text.partition("(")[0] for text in EVERY} == set(COMPRESSORS)


@pytest.mark.parametrize("text", OPEN_STEPS)
def test_a_scheme_takes_every_compressor_of_its_kind_and_refuses_the_others_with_the_reason(text: str) -> None:
    unbiased = ("diana", "adiana", "marina", "dasha", "dasha_mvr", "shadowheart", "scaffold")
    needs_unbiased = text.split("(")[0] in unbiased
    refused = 0
    for compressor in map(parse, EVERY):
        is_contractive = compressor.contraction(6) is not None
        admits = compressor.is_unbiased if needs_unbiased else text[:2] != "ef" or is_contractive
        if text.startswith("ef_bv"):  # its steps are given
            admits = True
        if not admits:
            refused += 1
            with pytest.raises(ValueError, match=rf"scheme {text.split('(')[0]} needs an? (unbiased|contractive) comp"):
                parse_scheme(text).resolve(compressor, 6, 3)
            continue
        memories, _ = _play(parse_scheme(text), compressor, num_clients=3, cohort_size=3, num_rounds=3)
        assert all(bool(vector.isfinite().all()) for memory in memories for vector in memory.values()), compressor
    assert (refused > 0) == (text != "direct" and not text.startswith("ef_bv"))


MIRRORED = {"ef21": "estimate", "ef21_sgdm": "estimate", "diana": "shift", "dasha": "estimate", "dasha_mvr": "estimate",
            "scaffold(0.1, 3)": "control"}  # fmt: skip


@pytest.mark.parametrize("text", MIRRORED)
@pytest.mark.parametrize("cohort_size", [3, 5])
def test_the_server_holds_the_mean_of_the_clients_memories(text: str, cohort_size: int) -> None:
    scheme = parse_scheme(text)
    if cohort_size < 5 and not scheme.allows_partial:
        pytest.skip("needs every client")
    compressor = TopK(count=2) if text.startswith("ef") else RandK(count=2)
    memories, server = _play(scheme, compressor, num_clients=5, cohort_size=cohort_size)
    mean = torch.stack([memory[MIRRORED[text]] for memory in memories]).mean(dim=0)
    torch.testing.assert_close(server[MIRRORED[text]], mean, rtol=1e-12, atol=1e-12)
    assert mean.norm() > 0.1


def test_control_variates_sum_to_zero() -> None:
    for text, cohort_size in [("proxskip(0.1, 0.4)", 5), ("tamuna(0.1, 0.4, overlap=2)", 3)]:
        memories, _ = _play(parse_scheme(text), Identity(), num_clients=5, cohort_size=cohort_size)
        controls = torch.stack([memory["control"] for memory in memories])
        assert controls.norm() > 0.1
        assert float(controls.sum(dim=0).abs().max()) < 1e-12


def test_error_feedback_keeps_what_was_not_sent() -> None:
    scheme = parse_scheme("ef14")
    vector = torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64)
    (message,), memory = scheme.encode(lambda point: vector, [vector], scheme.init_client(vector), _turn(TopK(count=1)))
    assert decoded(message, vector).tolist() == [0, -5, 0]
    assert memory["error"].tolist() == [1, 0, 2]


def test_encoding_changes_neither_the_memory_nor_the_points() -> None:
    for text in TEXTS:
        scheme = parse_scheme(text)
        own = Identity() if "(0.1, 0.5" in text or "probability" in text or "permuted" in text else Natural()
        scheme = scheme.resolve(own, 6, 1) if text != "adiana(1.0, 0.1)" else scheme.resolve(Natural(), 6, 1)
        like = torch.arange(6, dtype=torch.float64)
        memory, points = scheme.init_client(like), [like, like.clone()]
        num_points = len(scheme.points(like, scheme.init_server(like)))
        for _ in range(2):
            before = {name: vector.clone() for name, vector in memory.items()}
            _, after = scheme.encode(lambda point, sample=0: point * 2 + 1, points[:num_points], memory, _turn(own))
            assert all(torch.equal(memory[name], before[name]) for name in before)
            assert torch.equal(points[0], torch.arange(6, dtype=torch.float64))
            memory = scheme.settle(after, like)


def test_what_both_sides_draw_differs_by_seed_round_and_purpose() -> None:
    rounds = [Round(seed, number, 4, 4) for seed in (0, 1) for number in (1, 2)]
    drawn = {round.shared(purpose).random() for round in rounds for purpose in ("steps", "template")}
    assert len(drawn) == 8
    assert Round(0, 1, 4, 4).shared("steps").random() in drawn


def test_direct_sends_the_bytes_of_the_compressor_alone() -> None:
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for compressor in (Identity(), MLMC(TopK(count=5)), TopK(count=5), RandK(count=5)):
        turn = Turn(Round(0, 1, 4, 4), 0, compressor, np.random.default_rng(3))
        (message,), memory = parse_scheme("direct").encode(lambda point: vector, [vector], {}, turn)
        assert encode_payload(message.payload) == compressor.encode(vector, np.random.default_rng(3))
        assert not memory


def test_an_exact_message_keeps_every_digit_of_its_precision() -> None:
    vector = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for message in (exact(vector), _turn(Identity()).send(vector)):
        assert float((decoded(message, vector) - vector).abs().max()) < 1e-14
        assert message.expected_bits == 64 * 20
    assert exact(vector.float()).expected_bits == 32 * 20
    assert torch.equal(decode(encode_payload(exact(vector.float()).payload), 20), vector.float())


def test_coordinates_that_go_together_in_one_round_do_not_in_another() -> None:
    """Neighbours would always share their clients if the template's columns stayed in place."""
    together = []
    for number in range(20):
        round = Round(0, number, 4, 4)
        owners = [set(own_coordinates(40, 2, round, rank).tolist()) for rank in range(4)]
        together.append([({0, 4} <= mine) for mine in owners].count(True))
    assert set(together) == {0, 2}


@pytest.mark.parametrize(("size", "members", "owners"), [(12, 4, 2), (7, 5, 3), (3, 8, 2), (10, 4, 4)])
def test_a_template_gives_every_coordinate_to_as_many_members_as_it_should(
    size: int, members: int, owners: int
) -> None:
    round = Round(0, 3, members, members)
    held = torch.zeros(size, dtype=torch.int64)
    for rank in range(members):
        own = own_coordinates(size, owners, round, rank)
        assert len(own) <= -(-size * owners // members) + owners
        held[own] += 1
    assert held.tolist() == [owners] * size


def test_every_member_gets_every_coordinate_as_often() -> None:
    dealt, permuted = torch.zeros(4, 6), torch.zeros(4, 6)
    for number in range(1, 601):
        for rank in range(4):
            round = Round(0, number, 4, 4)
            dealt[rank, own_coordinates(6, 2, round, rank)] += 1
            turn = Turn(round, rank, Identity(), np.random.default_rng(0))
            permuted[rank] += permuted_part(torch.ones(6), turn).payload.dense() / 4
    torch.testing.assert_close(dealt / 600, torch.full((4, 6), 2 / 4), rtol=0, atol=0.08)
    # Two members get two coordinates of six, two get one: by their rank.
    wanted = torch.tensor([2 / 6, 2 / 6, 1 / 6, 1 / 6])[:, None].expand(4, 6)
    torch.testing.assert_close(permuted / 600, wanted, rtol=0, atol=0.08)


@pytest.mark.parametrize(("size", "members"), [(12, 4), (7, 3), (3, 8), (5, 5)])
def test_permuted_parts_of_equal_vectors_average_to_the_vector(size: int, members: int) -> None:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(2))
    round, rng = Round(0, 5, members, members), np.random.default_rng(0)
    turns = [Turn(round, rank, Identity(), rng) for rank in range(members)]
    mean = sum(permuted_part(vector, turn).payload.dense() for turn in turns) / members
    torch.testing.assert_close(mean, vector)


def test_permuted_parts_over_tiers_average_to_the_mean_of_a_coordinates_holders() -> None:
    vectors = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    parts = [Part(6, torch.tensor(places)) for places in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 2, 5])]
    holders = torch.tensor([3.0, 2, 3, 2, 2, 3])
    wanted, total = torch.zeros(6), torch.zeros(6)
    for vector, part in zip(vectors, parts, strict=True):
        wanted[part.places] += vector[part.places]
    for number in range(1, 1501):
        for rank, (vector, part) in enumerate(zip(vectors, parts, strict=True)):
            turn = Turn(Round(0, number, 3, 3), rank, Identity(), np.random.default_rng(0), part)
            total[part.places] += permuted_part(vector[part.places], turn).payload.dense()
    torch.testing.assert_close(total / 1500 / holders, wanted / holders, rtol=0.1, atol=0.06)


def test_permuted_parts_over_tiers_never_meet() -> None:
    parts = [Part(6, torch.tensor(places)) for places in ([0, 1, 2, 3, 4, 5], [0, 2, 5], [1, 3, 5])]
    for number in range(1, 51):
        sent = torch.zeros(6)
        for rank, part in enumerate(parts):
            turn = Turn(Round(0, number, 3, 3), rank, Identity(), np.random.default_rng(0), part)
            sent[part.places] += permuted_part(torch.ones(len(part.places)), turn).payload.dense()
        assert sent.max() == 3  # each coordinate is dealt to one member, whose part is scaled by 3


@pytest.mark.parametrize(
    ("text", "part", "eta"),
    [
        ("tamuna(0.1, 0.4, overlap=2)", None, 4 * 1 / (2 * 3)),
        ("tamuna(0.1, 0.4, overlap=2)", Part(6, torch.arange(6)), 0.5),
        ("proxskip(0.1, 0.4)", Part(6, torch.arange(6)), 1.0),
    ],
)
def test_a_control_variate_moves_by_p_eta_over_gamma(text: str, part: Part | None, eta: float) -> None:
    scheme, start = parse_scheme(text), torch.zeros(6, dtype=torch.float64)
    turn = Turn(Round(0, 1, 8, 4), 1, Identity(), np.random.default_rng(0), part)
    _, after = scheme.encode(lambda point, sample=0: point + 1, [start], scheme.init_client(start), turn)
    own = scheme.speaks_of(6, turn.round, 1)
    assert own is not None
    assert after["weight"][own].tolist() == pytest.approx([0.4 / 0.1 * eta] * len(own))
    assert after["weight"].count_nonzero() == len(own)


def test_an_overlap_of_two_converges_where_clients_hold_parts() -> None:
    # Each f_i is over the client's own coordinates; the optimum is the mean of the offsets of each one's holders.
    scheme, size = parse_scheme("tamuna(0.3, 0.5)").resolve(Identity(), 6, 4), 6
    parts = [Part(size, torch.arange(count)) for count in (6, 6, 4, 2)]
    rng = torch.Generator().manual_seed(5)
    offsets = [torch.randn(len(part.places), dtype=torch.float64, generator=rng) for part in parts]
    counts, wanted = torch.zeros(size), torch.zeros(size, dtype=torch.float64)
    for part, offset in zip(parts, offsets, strict=True):
        counts[part.places] += 1
        wanted[part.places] += offset
    model = torch.zeros(size, dtype=torch.float64)
    memories = [scheme.init_client(offset) for offset in offsets]
    for number in range(1, 401):
        round = Round(3, number, 4, 3)
        cohort = sorted(round.shared("cohort").choice(4, 3, replace=False).tolist())
        total, spoken = torch.zeros(size, dtype=torch.float64), torch.zeros(size)
        for rank, client in enumerate(cohort):
            part = parts[client]
            turn = Turn(round, rank, Identity(), np.random.default_rng(0), part)
            (message,), memories[client] = scheme.encode(
                lambda point, sample=0, client=client: point - offsets[client],
                [model[part.places]], memories[client], turn,
            )  # fmt: skip
            total[part.places] += decoded(message, offsets[client])
            own = scheme.speaks_of(size, round, rank)
            assert own is not None
            spoken[part.places[part.own(own)]] += 1
        movement = total / spoken.clamp(min=1)
        for client in cohort:
            memories[client] = scheme.settle(memories[client], movement[parts[client].places])
        model = model + movement
    torch.testing.assert_close(model, wanted / counts, rtol=1e-5, atol=1e-5)


def _turn(compressor: Compressor) -> Turn:
    return Turn(Round(0, 1, 1, 1), 0, compressor, np.random.default_rng(0))


def _play(
    scheme: Scheme, compressor: Compressor, num_clients: int, cohort_size: int, num_rounds: int = 12
) -> tuple[list[State], State]:
    """Rounds on f_i(x) = ½ x² − b_i x."""
    scheme = scheme.resolve(compressor, 6, num_clients)
    offsets = torch.randn(num_clients, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    model = torch.zeros(6, dtype=torch.float64)
    server = scheme.init_server(model)
    memories = [scheme.init_client(model) for _ in range(num_clients)]
    for number in range(1, num_rounds + 1):
        round = Round(9, number, num_clients, cohort_size)
        cohort = sorted(round.shared("cohort").choice(num_clients, cohort_size, replace=False))
        gathered = Gathered(6, scheme.num_messages)
        turns = [
            Turn(round, rank, compressor, np.random.default_rng([number, client])) for rank, client in enumerate(cohort)
        ]
        for client, turn in zip(cohort, turns, strict=True):
            messages, memories[client] = scheme.encode(
                lambda point, sample=0, client=client: point - offsets[client],
                scheme.points(model, server),
                memories[client],
                turn,
            )
            gathered.add(messages, scheme.speaks_of(6, round, turn.rank))
        direction, server = scheme.estimate(gathered.means(), model, server, round, round.share)
        step = 1.0 if scheme.moves_itself else 0.1
        for client in cohort:
            memories[client] = scheme.settle(memories[client], -step * direction)
        model = model - step * direction
    return memories, server
