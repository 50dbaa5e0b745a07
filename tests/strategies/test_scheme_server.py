"""Schemes with memory in federated runs: what both sides keep, lose and find again."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fl_mlmc import decode
from fl_mlmc.aggregation import Folding, NotFiniteError
from fl_mlmc.clients import client_app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.memory import ClientMemory
from fl_mlmc.compression.blocks import DenseBlock, Payload, SparseBlock
from fl_mlmc.compression.wire import decode_payload
from fl_mlmc.frames import read_clients
from fl_mlmc.models import build_model
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.schemes import Round
from fl_mlmc.schemes.ef21 import EF21
from fl_mlmc.schemes.shadowheart import Shadowheart
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies.checkpoint import CHECKPOINT, load_state
from fl_mlmc.strategies.scheme_server import SchemeServer
from fl_mlmc.strategies.tiered import MEMORIES, TieredStrategy, from_arrays, to_arrays
from fl_mlmc.submodels import IndexPlan
from fl_mlmc.submodels.width_spec import WidthSpec

ALL: dict[str, Any] = {"clients_per_round": 6, "quorum": 1}
OWN_STEPS: dict[str, Any] = {"compressor": "Identity()", "local_steps": 0}


def run(config: RunConfig, losing: tuple[tuple[int, int], ...] = ()) -> tuple[torch.Tensor, TieredStrategy]:
    """Run `config`; the replies of `losing` (round, client) get lost on the way. The model and the strategy."""
    app = ClientApp()

    @app.query("roster")
    def who(message: Message, context: Context) -> Message:
        return client_app.who(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = client_app.train(message, context)
        task = message.content.config_records[CONFIG]
        is_lost = (task["server-round"], task["client"]) in losing
        return Message(Error(0, "lost on the way"), reply_to=message) if is_lost else reply

    data = prepare_data(config)
    spec = FederatedData.open(data).spec
    model = build_model(config.training.model, spec.input_shape, spec.num_classes)
    log = RoundLog.create(directory(config), {})
    strategy = TieredStrategy(config, model, log, str(data))
    grid = LocalGrid(app, config.cohort.num_clients, config.to_flower())
    result = strategy.start(grid, to_arrays(model.initial(config.seed)), config.num_rounds)
    return from_arrays(result.arrays), strategy


def directory(config: RunConfig) -> Path:
    return Path(config.output.runs_dir) / config.output.run_name


def everyone(small: RunConfig, **changes: Any) -> RunConfig:
    return small.changed(clients_per_round=small.cohort.num_clients, **changes)


def remembered(config: RunConfig, strategy: TieredStrategy, name: str) -> torch.Tensor:
    """The mean of the clients' memories over the holders of each coordinate, by its plain definition."""
    size = strategy.model.spec.size
    total, holders = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for client in range(config.cohort.num_clients):
        own = strategy._plan(client, 1)
        holders[own.indices] += 1
        if server_round := strategy._scheme.memory_of(client).number:
            with np.load(directory(config) / MEMORIES / str(client) / f"{server_round}.npz") as file:
                total[own.indices] += torch.from_numpy(file[name]).double()
    return total / holders.clamp(min=1)


@pytest.mark.sweep(quick=lambda scheme, rule: rule == "nested" or scheme == "diana")
@pytest.mark.parametrize(
    ("scheme", "compressor", "name"),
    [
        ("ef21", "TopK(fraction=0.1)", "estimate"),
        ("ef21_sgdm", "TopK(fraction=0.1)", "estimate"),
        ("ef_bv", "TopK(fraction=0.1)", "shift"),
        ("diana", "MLMC(TopK(fraction=0.1))", "shift"),
        ("dasha", "RandK(fraction=0.2)", "estimate"),
        ("dasha_mvr", "RandK(fraction=0.2)", "estimate"),
        ("adiana(5.0, 0.1)", "RandK(fraction=0.5)", "shift"),
        ("scaffold(0.1, 3)", "RandK(fraction=0.5)", "control"),
    ],
)
@pytest.mark.parametrize("rule", ["nested", "ordered-dropout"])
def test_the_server_keeps_the_mean_of_memories_across_tiers_cohorts_and_lost_replies(
    small: RunConfig, scheme: str, compressor: str, name: str, rule: str
) -> None:
    config = small.changed(scheme="direct", compressor=compressor, num_rounds=4, quorum=1)
    if "d" in scheme[:2] and scheme != "diana":
        config = everyone(config, local_steps=0)
    if scheme.startswith("scaffold"):
        config = config.changed(local_steps=0)
    config = config.changed(scheme=scheme, width_rule=rule)
    _, strategy = run(config, losing=((1, 1), (2, 0), (2, 2), (3, 4)))
    assert (read_clients(directory(config))["status"] != "ok").any()
    expected = remembered(config, strategy, name)
    assert float(expected.norm()) > 0.01
    torch.testing.assert_close(strategy._scheme.state()[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("scheme", "cohort"),
    [("proxskip(0.1, 0.5)", 6), ("compressed_scaffnew(0.1, 0.5, overlap=3)", 6), ("tamuna(0.1, 0.5)", 4)],
)
def test_control_variates_sum_to_zero_on_every_coordinate_of_tiers_and_with_lost_replies(
    small: RunConfig, scheme: str, cohort: int
) -> None:
    tiers = "third:0.3:0.34,half:0.5:0.33,full:1.0:0.33"
    config = small.changed(**OWN_STEPS, clients_per_round=cohort, tiers=tiers, num_rounds=6, quorum=1)
    config = config.changed(scheme=scheme)
    _, strategy = run(config, losing=((1, 1), (3, 0), (3, 2), (6, 4)))
    total, largest = torch.zeros(strategy.model.spec.size), 0.0
    for client in range(config.cohort.num_clients):
        own, server_round = strategy._plan(client, 1), strategy._scheme.memory_of(client).number
        moved = strategy._scheme.movement(client)
        assert moved
        memory = ClientMemory(directory(config) / MEMORIES, client).load(server_round, torch.zeros(own.size))
        control = strategy._scheme.scheme.settle(memory, decode(moved, own.size))["control"]
        largest = max(largest, float(control.abs().max()))
        own.scatter_add(total, control)
    assert largest > 0.01
    assert float(total.abs().max()) < 1e-5 * largest
    before = [strategy._scheme.movement(client) for client in range(config.cohort.num_clients)]
    strategy._scheme.begin(7, [0, 1], torch.zeros(strategy.model.spec.size))  # what was sent stays what it was
    assert [strategy._scheme.movement(client) for client in range(config.cohort.num_clients)] == before


def test_coordinates_that_no_client_holds_stay_as_they_were(small: RunConfig) -> None:
    config = small.changed(scheme="ef21", compressor="TopK(fraction=0.1)", tiers="half:0.5:1")
    vector, strategy = run(config)
    first, own = strategy.model.initial(config.seed), strategy._plan(0, 1)
    outside = torch.ones(len(first), dtype=torch.bool)
    outside[own.indices] = False
    assert torch.equal(vector[outside], first[outside])
    assert bool(strategy._scheme.state()["estimate"].isfinite().all())
    assert not torch.equal(vector, first)


def test_schemes_that_lose_nothing_agree(small: RunConfig) -> None:
    models = {}
    for scheme in ("ef14", "ef21", "diana(memory_step=0.5)", "dasha(memory_step=0.3)", "marina(probability=0.3)"):
        config = everyone(small, compressor="Identity()", scheme=scheme, num_rounds=3, run_name=scheme[:6])
        models[scheme], _ = run(config)
    for model in models.values():
        torch.testing.assert_close(model, models["ef14"], rtol=1e-3, atol=2e-5)


def test_direct_keeps_no_memory(small: RunConfig) -> None:
    _, strategy = run(small)
    assert not (directory(small) / MEMORIES).exists()
    saved = load_state(directory(small) / CHECKPOINT)
    assert saved is not None
    assert saved.scheme == strategy._scheme.state() == {}


def test_a_lost_memory_is_logged_by_name_and_the_run_goes_on(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = everyone(small, scheme="diana", compressor="MLMC(TopK(fraction=0.1))", num_rounds=3)
    fresh = TieredStrategy.configure_train

    def losing(self: TieredStrategy, server_round: int, *rest: Any) -> Any:
        if server_round == 2:
            shutil.rmtree(directory(config) / MEMORIES / "3")
        return fresh(self, server_round, *rest)

    monkeypatch.setattr(TieredStrategy, "configure_train", losing)
    run(config)
    rows = read_clients(directory(config))
    dropped = rows[rows["status"] != "ok"]
    assert list(zip(dropped["round"], dropped["client"], strict=True)) == [(2, 3), (3, 3)]
    assert dropped["status"].str.match("dropped: it says .client 3 lost its memory of round 1").all()


def test_a_client_whose_reply_was_lost_goes_back_to_the_memory_before_however_old_the_checkpoint(
    small: RunConfig,
) -> None:
    config = everyone(small, scheme="ef21", compressor="TopK(fraction=0.1)", num_rounds=6, checkpoint_every=2)
    run(config.changed(quorum=1), losing=((4, 1), (5, 1)))
    rows = read_clients(directory(config))
    dropped = rows[rows["status"] != "ok"]
    assert list(zip(dropped["round"], dropped["client"], strict=True)) == [(4, 1), (5, 1)]
    assert not dropped["status"].str.contains("lost its memory").any()


@pytest.mark.parametrize(
    ("scheme", "changes", "checkpoint_every"),
    [
        ("ef21", {}, 1),
        ("ef21_sgdm", {}, 3),
        ("dasha_mvr", {"compressor": "RandK(fraction=0.2)", **ALL}, 3),
        ("adiana(5.0, 0.1)", {"compressor": "RandK(fraction=0.5)", "local_steps": 0, **ALL}, 1),
        ("tamuna(0.1, 0.4)", OWN_STEPS, 3),
        ("compressed_scaffnew(0.1, 0.4)", OWN_STEPS | ALL, 1),
    ],
)
def test_a_run_with_memory_goes_on_as_if_it_had_not_been_cut_off(
    small: RunConfig, scheme: str, changes: dict[str, Any], checkpoint_every: int
) -> None:
    config = small.changed(
        **{"scheme": "direct", "compressor": "TopK(fraction=0.1)", "num_rounds": 6, **changes},
        checkpoint_every=checkpoint_every,
    ).changed(scheme=scheme)
    whole = execute(load_config(None, config.changed(run_name="whole").to_flower()))

    def cut(row: Mapping[str, Any]) -> None:
        if row["round"] == 5:  # after the clients remembered the round, before its checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(load_config(None, config.changed(run_name="cut").to_flower()), cut)
    resumed = execute(load_run(Path(config.output.runs_dir) / "cut"))
    assert all(np.array_equal(whole.arrays[name], resumed.arrays[name]) for name in whole.arrays)
    assert whole.clients["payload_bytes"].tolist() == resumed.clients["payload_bytes"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "ef22"}, "unknown scheme 'ef22'"),
        ({"scheme": "marina"}, "needs every client in every round, 4 of 6"),
        ({"scheme": "adiana(1.0, 0.1)"}, "needs every client in every round, 4 of 6"),
        ({"scheme": "dasha_mvr"}, "needs every client in every round, 4 of 6"),
        ({"scheme": "proxskip(0.1, 0.5)"}, "needs every client in every round, 4 of 6"),
        ({"scheme": "tamuna(0.1, 0.5, overlap=5)"}, "more than the 4 clients of a round"),
        ({"scheme": "tamuna(0.1, 0.5)"}, "local-steps stays 0, got 2"),
        ({"scheme": "tamuna(0.1, 0.5)", "local_steps": 0, "server_optimizer": "adam"}, "server-optimizer stays 'sgd'"),
        ({"scheme": "ef21", "width_rule": "rolling"}, "with width-rule = 'rolling' these change from round to round"),
        ({"scheme": "ef21", "tier_assignment": "redrawn"}, "with tier-assignment = 'redrawn' these change"),
        ({"scheme": "ef21", "average_by_label": True}, "no longer remember the same"),
    ],
)
def test_a_run_that_the_scheme_does_not_allow_is_refused(
    small: RunConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        small.changed(**changes)


def test_a_compressor_that_the_scheme_does_not_admit_is_refused_before_anything_is_written(small: RunConfig) -> None:
    config = load_config(None, small.changed(scheme="diana", compressor="TopK(fraction=0.1)").to_flower())
    with pytest.raises(ValueError, match="scheme diana needs an unbiased compressor"):
        execute(config)
    assert not (directory(config) / "run.json").exists()


def alone(config: RunConfig, size: int = 8) -> tuple[SchemeServer, IndexPlan]:
    """The scheme server of `config` over a model of `size` weights that every client holds, and their plan."""
    own = IndexPlan(WidthSpec({}, {"weight": (size,)}, {"weight": (None,)}), {})
    return server_of(config, size, own), own


def server_of(config: RunConfig, size: int, own: IndexPlan) -> SchemeServer:
    folding = Folding(config.aggregation.parsed_rule, size)
    return SchemeServer(config.compression, config.cohort, config.seed, folding, lambda client: own)


def test_a_task_says_how_many_are_in_its_round_and_what_the_client_has_time_for(small: RunConfig) -> None:
    tiers = "fast:1:0.5:speed=1e-3:up=1e5,slow:1:0.25:speed=5e-4:up=2e4,never:1:0.25:speed=1e-9:up=1"
    config = small.changed(
        clients_per_round=6, compressor="RandK(fraction=0.5)", local_steps=0, tiers=tiers
    ).changed(scheme="shadowheart(noise=20.0)")  # fmt: skip
    server, _ = alone(config, size=1210)
    fast, slow, never = config.cohort.tier_list
    tier_of = [fast, slow, never, fast, slow, fast]
    server.meet(range(6), tier_of.__getitem__)
    assert server.active(range(6)) == [0, 1, 3, 4, 5]
    opened = server.begin(1, server.active(range(6)), torch.zeros(1210))
    told = [server.task_fields(opened, client) for client in (0, 1)]
    assert [task["cohort_size"] for task in told] == [5, 5]
    assert told[0]["gradients"] != told[1]["gradients"]
    scheme = server.scheme
    assert isinstance(scheme, Shadowheart)
    bits = config.compression.uplink.compress(torch.ones(1210), np.random.default_rng(0)).expected_bits
    paces = [tier.pace(1210) for tier in tier_of]
    loads = scheme.workloads([pace.seconds(1, 0) for pace in paces], [bits / 8 / tier.up for tier in tier_of])
    assert [(task["gradients"], task["messages"]) for task in told] == [
        (loads[client].gradients, loads[client].messages) for client in (0, 1)
    ]


def test_a_client_hears_of_the_coordinates_that_it_sent_only(small: RunConfig) -> None:
    config = everyone(small, **OWN_STEPS, tiers="full:1:1").changed(scheme="compressed_scaffnew(0.1, 0.5)")
    server, own = alone(config, size=60)
    opened = server.begin(1, range(6), torch.zeros(60))
    spoken = server.scheme.speaks_of(60, Round(config.seed, 1, 6, 6), 2)
    assert spoken is not None
    for client in range(6):
        server.add(opened, client, own, [Payload(60, (DenseBlock(torch.ones(60)),))], 1.0, None)
    server.estimate(opened, torch.zeros(60))
    heard = server.movement(2)
    assert heard is not None
    [block] = decode_payload(heard, 60).blocks
    assert isinstance(block, SparseBlock)
    assert block.indices.tolist() == spoken.tolist()
    assert len(spoken) < 60


def test_a_server_goes_on_from_its_state_with_all_that_it_knew(small: RunConfig) -> None:
    config = everyone(small, **OWN_STEPS, tiers="full:1:1").changed(scheme="compressed_scaffnew(0.1, 0.5)")
    server, own = alone(config, size=60)
    opened = server.begin(1, range(6), torch.zeros(60))
    for client in range(6):
        server.add(opened, client, own, [Payload(60, (DenseBlock(torch.full((60,), client + 1.0)),))], 1.0, None)
    server.estimate(opened, torch.zeros(60))
    other, _ = alone(config, size=60)
    other.restore(server.state())
    assert [other.movement(client) for client in range(6)] == [server.movement(client) for client in range(6)]
    assert other.movement(3)
    heard = other.begin(2, range(6), torch.zeros(60))
    server.saved()
    opened = server.begin(2, range(6), torch.zeros(60))
    told = [other.task_fields(heard, client) for client in range(6)]
    assert told == [server.task_fields(opened, client) for client in range(6)]
    assert told[3]["checkpoint_round"] == 1


def test_a_server_with_memory_works_on_the_model_in_float64(small: RunConfig) -> None:
    config = everyone(small, compressor="RandK(fraction=0.5)", local_steps=0)
    server, own = alone(config.changed(scheme="adiana(1.0, 0.01, step=0.2)"), size=5000)
    rng = torch.Generator().manual_seed(0)
    vector = torch.randn(5000, generator=rng)
    opened = server.begin(1, range(6), vector)
    state = {name: torch.randn(5000, generator=rng, dtype=torch.float64) for name in ("shift", "z", "anchor")}
    server.restore({**server.state(), **state})
    opened = server.begin(2, range(6), vector)
    expected = server.scheme.points(vector.double(), state)
    assert all(torch.equal(point, wanted.float()) for point, wanted in zip(opened.points, expected, strict=True))
    means = [torch.randn(5000, generator=rng) for _ in range(2)]
    for client in range(6):
        server.add(opened, client, own, [Payload(5000, (DenseBlock(mean),)) for mean in means], 1.0, None)
    server.estimate(opened, vector)
    share = 6 * torch.ones(5000, dtype=torch.float64)  # nobody was met
    _, after = server.scheme.estimate(
        [mean.double() for mean in means], vector.double(), state, Round(config.seed, 2, 6, 6), share
    )
    assert all(torch.equal(server.state()[name], after[name]) for name in after)


def test_a_server_keeps_its_estimate_in_float64(small: RunConfig) -> None:
    config = everyone(small, compressor="RandK(fraction=0.5)", local_steps=0).changed(scheme="marina(1.0)")
    server, own = alone(config)
    opened = server.begin(1, range(6), torch.zeros(8))
    for client in range(6):
        server.add(opened, client, own, [Payload(8, (DenseBlock(torch.ones(8)),))], 1.0, None)
    server.estimate(opened, torch.zeros(8))
    assert server.state()["estimate"].dtype == torch.float64


def test_movements_are_kept_until_nobody_has_to_hear_of_them(small: RunConfig) -> None:
    config = small.changed(**OWN_STEPS, tiers="full:1:1", num_clients=3, clients_per_round=2)
    server, own = alone(config.changed(scheme="tamuna(0.1, 0.5)"))
    kept = []
    for number, cohort in enumerate([(0, 1), (0, 2), (1, 2), (0, 1)], start=1):
        opened = server.begin(number, cohort, torch.zeros(8))
        for client in cohort:
            server.add(opened, client, own, [Payload(8, (DenseBlock(torch.ones(8)),))], 1.0, None)
        server.estimate(opened, torch.zeros(8))
        kept.append(sorted(name for name in server.state() if name.startswith("movement/")))
    assert kept == [
        ["movement/1"],
        ["movement/1", "movement/2"],
        ["movement/2", "movement/3"],
        ["movement/3", "movement/4"],
    ]


def test_the_log_counts_the_bits_of_every_message(small: RunConfig) -> None:
    config = everyone(small, compressor="RandK(fraction=0.5)", local_steps=0, tiers="full:1:1", num_rounds=1)
    config = config.changed(scheme="adiana(5.0, 0.1)")
    _, strategy = run(config)
    once = config.compression.uplink.compress(
        torch.ones(strategy.model.spec.size), np.random.default_rng(0)
    ).expected_bits
    rows = read_clients(directory(config))
    assert (rows["expected_bits"] == 2 * once).all()
    assert (rows["payload_bytes"] > once / 8).all()


def test_a_direction_or_a_memory_that_is_not_finite_is_refused_and_the_scheme_keeps_what_it_had(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = WidthSpec({}, {"x": (4,)}, {"x": (None,)})
    own = IndexPlan(spec, {})
    config = small.changed(scheme="ef21", compressor="TopK(fraction=0.5)", tiers="full:1.0:1.0")
    server = server_of(config, 4, own)
    server.meet(range(6), lambda client: config.cohort.tier_list[0])
    opened = server.begin(1, [0, 1], torch.zeros(4))
    server.add(opened, 0, own, [Payload(4, (DenseBlock(torch.ones(4)),))], 1, None)
    before = server.state()["estimate"].clone()
    spoilt = torch.full((4,), 1e300, dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(EF21, "estimate", lambda self, means, model, state, *rest: (spoilt, {"estimate": spoilt}))
        with pytest.raises(NotFiniteError, match="scheme ef21 would make its direction and estimate not finite"):
            server.estimate(opened, torch.zeros(4))
    assert torch.equal(server.state()["estimate"], before)
    opened = server.begin(2, [0, 1], torch.zeros(4))
    assert server.estimate(opened, torch.zeros(4)).update.isfinite().all()


def test_of_two_messages_both_are_taken_or_none(small: RunConfig) -> None:
    spec = WidthSpec({}, {"x": (4,)}, {"x": (None,)})
    own = IndexPlan(spec, {})
    config = everyone(
        small, scheme="adiana(5.0, 0.1)", tiers="full:1:1", **{**OWN_STEPS, "compressor": "RandK(fraction=0.5)"}
    )
    server = server_of(config, 4, own)
    server.meet(range(6), lambda client: config.cohort.tier_list[0])
    opened = server.begin(1, [0, 1], torch.zeros(4))
    good, bad = (Payload(4, (DenseBlock(torch.full((4,), value)),)) for value in (1.0, float("inf")))
    with pytest.raises(ValueError, match="a coordinate of the update is inf"):
        server.add(opened, 0, own, [good, bad], 1, None)
    assert server.estimate(opened, torch.zeros(4)).coverage.tolist() == [0, 0, 0, 0]
    assert server.memory_of(0) == (0, 0, 0)
