"""What a run does with tiers: assignment, coverage, label-aware averages, the simulated clock."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fl_mlmc.aggregation import CoverageMean
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.schemes.shadowheart import Shadowheart, equilibrium_time
from fl_mlmc.simulations import RunFailed, RunResult, run
from fl_mlmc.submodels.tier import parse_tiers


def result(config: RunConfig, **changes: Any) -> RunResult:
    return run(None, **{**config.to_flower(), **changes})


def test_tiers_by_list_are_kept_to(small: RunConfig) -> None:
    clients = result(small, tier_assignment="0-1:full,2-5:small", num_rounds=3).clients
    assert set(clients.loc[clients["client"] <= 1, "tier"]) <= {"full"}
    assert set(clients.loc[clients["client"] > 1, "tier"]) == {"small"}


def test_redrawn_tiers_change_from_round_to_round(small: RunConfig) -> None:
    clients = result(small, tier_assignment="redrawn", num_rounds=8).clients
    assert (clients.groupby("client")["tier"].nunique() == 2).any()


@pytest.mark.parametrize("text", ["0-9:small", "0-5:huge", "0-1:small", "some"])
def test_an_assignment_that_does_not_fit_is_refused(small: RunConfig, text: str) -> None:
    with pytest.raises(ConfigError, match="tier"):
        small.changed(tier_assignment=text)


def test_a_guarded_cohort_holds_every_coordinate(small: RunConfig) -> None:
    tiers = {"tiers": "small:0.5:0.7,full:1.0:0.3", "clients_per_round": 2, "num_rounds": 8}
    free = result(small, run_name="free", **tiers).rounds["coverage_min"]
    held = result(small, run_name="held", least_coverage=1, **tiers).rounds["coverage_min"]
    assert free.min() == 0
    assert held.min() == 1


def test_coverage_that_no_cohort_can_give_ends_the_run(small: RunConfig) -> None:
    with pytest.raises((RunFailed, ValueError), match="no cohort of 2 clients was found in which 2 hold every"):
        result(small, tiers="small:0.5:0.9,full:1.0:0.1", clients_per_round=2, least_coverage=2)


def test_coordinates_that_nobody_trains_are_warned_of(small: RunConfig) -> None:
    done = result(small, tiers="small:0.5:1.0", coverage_warning=2)
    log = (done.directory / "server.log").read_text()
    assert "coordinates that no client held in the last 2 rounds: 1.weight (512)" in log
    assert done.rounds["coverage_by_tensor"].iloc[0]["1.weight"] == [0, 2.0]


def test_the_simulated_clock_follows_steps_parameters_and_bytes(small: RunConfig) -> None:
    tiers = "small:0.5:0.5:speed=0.5:up=1e4:down=1e5,full:1.0:0.5:up=1e5"
    done = result(small, tiers=tiers)
    named = {tier.name: tier for tier in parse_tiers(tiers)}
    for row in done.clients.itertuples():
        pace = named[str(row.tier)].pace(int(row.num_parameters))
        expected = pace.seconds(2, int(row.payload_bytes), int(row.downlink_bytes))
        assert math.isclose(float(row.simulated_seconds), expected)
    slowest = done.clients.groupby("round")["simulated_seconds"].max()
    assert done.rounds["simulated_seconds"].tolist() == slowest.tolist()


@pytest.mark.parametrize("weighting", ["examples", "clients"])
def test_clients_count_by_their_examples_or_alike(small: RunConfig, weighting: str, monkeypatch) -> None:
    weights: list[float] = []
    take = CoverageMean.take

    def noted(self: CoverageMean, plan, payload, weight: float, *more) -> None:
        weights.append(weight)
        take(self, plan, payload, weight, *more)

    monkeypatch.setattr(CoverageMean, "take", noted)
    done = result(small, partition="dirichlet:0.3", weighting=weighting, num_rounds=1)
    examples = done.clients["num_examples"].tolist()
    assert len(set(examples)) > 1
    assert weights == (examples if weighting == "examples" else [1] * len(examples))


def test_classifier_rows_can_be_averaged_over_those_who_hold_the_label(small: RunConfig) -> None:
    shards = {"partition": "shards:1", "local_steps": 20, "learning_rate": 0.2, "clients_per_round": 6, "num_rounds": 1}
    plain = result(small, run_name="plain", **shards)
    by_label = result(small, run_name="by-label", average_by_label=True, masked_cross_entropy=True, **shards)
    least = by_label.rounds["coverage_by_tensor"].iloc[0]
    assert least["3.bias"][0] < plain.rounds["coverage_by_tensor"].iloc[0]["3.bias"][0] == 6
    assert least["1.bias"] == plain.rounds["coverage_by_tensor"].iloc[0]["1.bias"]


@pytest.mark.parametrize("rule", ["nested", "ordered-dropout", "rolling", "random"])
def test_every_rule_trains_a_network_with_static_norm(small: RunConfig, rule: str) -> None:
    model = 'resnet18(hidden=(4, 8, 8, 8), depths=(1, 1, 1, 1), norm="static")'
    done = result(small, width_rule=rule, model=model, num_rounds=1)
    assert (done.clients["status"] == "ok").all()
    assert done.rounds["accuracy"].notna().all()


def test_shadowheart_sets_work_by_the_speed_of_tiers_and_its_rounds_last_as_long_as_that(small: RunConfig) -> None:
    tiers = "fast:1:0.5:speed=1e-4:up=1e4,slow:1:0.34:speed=2e-5:up=3e3,lost:1:0.16:speed=1e-9:up=1"
    changes = {"tiers": tiers, "local_steps": 0, "clients_per_round": 6, "num_rounds": 30, "learning_rate": 0.5}
    config = small.changed(**changes, compressor="RandK(fraction=0.1)").changed(scheme="shadowheart(noise=4.0)")
    done = result(config)
    compressor, size = config.compression.uplink, 1210
    bits = compressor.compress(torch.ones(size), np.random.default_rng(0)).expected_bits
    named = parse_tiers(tiers)
    each = [named[0]] * 3 + [named[1]] * 2 + [named[2]]
    scheme = Shadowheart(4.0).resolve(compressor, size, 6)
    compute = [tier.pace(size).seconds(1, 0) for tier in each]
    message = [bits / 8 / tier.up for tier in each]
    loads = scheme.workloads(compute, message)
    assert [load.messages > 0 for load in loads] == [True] * 5 + [False]
    load_of = {tier.name: load for tier, load in zip(each, loads, strict=True)}
    time = equilibrium_time(compute, message, 9.0, 4.0)
    rows = done.clients[done.clients["round"] == 3]
    assert sorted(rows["tier"]) == ["fast"] * 3 + ["slow"] * 2
    for row in rows.itertuples():
        load, tier = load_of[str(row.tier)], next(tier for tier in named if tier.name == row.tier)
        computing = load.gradients * tier.pace(size).seconds(1, 0)
        assert row.simulated_seconds == pytest.approx(computing + row.payload_bytes / tier.up)
        assert computing <= time
        assert row.expected_bits == pytest.approx(load.messages * bits)
        assert float(row.payload_bytes) <= 1.2 * time * tier.up  # payloads have heads
    assert done.rounds["simulated_seconds"][2] == rows["simulated_seconds"].max() > 1.2 * time
    losses = done.clients.groupby("round")["train_loss"].mean()
    assert losses.iloc[-1] < 0.6 * losses.iloc[0]


def test_shadowheart_needs_everyone_and_counts_gradients_itself(small: RunConfig) -> None:
    tiers = "fast:1:0.5:speed=1e-3,slow:1:0.5:speed=1e-4"
    with pytest.raises(ConfigError, match="shadowheart needs every client in every round, 4 of 6"):
        small.changed(tiers=tiers, local_steps=0).changed(scheme="shadowheart(noise=1.0)")
    with pytest.raises(ConfigError, match="local-steps stays 0, got 2"):
        small.changed(clients_per_round=6).changed(scheme="shadowheart(noise=1.0)")
