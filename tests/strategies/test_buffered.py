"""FedBuff: the round of all clients in its limit, what its log says of time, and equal bytes after a break."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.rhythm import Buffered, parse_pace
from fl_mlmc.simulations.app.launch import RunResult, execute, load_config, load_run

TIERS = "slow:0.5:0.5:speed=1e-4:up=1e3,fast:1.0:0.5:speed=1e-3:up=1e4"


def run(config: RunConfig, **changes: object) -> tuple[RunResult, pd.DataFrame, pd.DataFrame]:
    config = config.changed(**changes)
    result = execute(load_config(None, config.to_flower()))
    directory = Path(config.output.runs_dir) / config.output.run_name
    return result, read_clients(directory), read_rounds(directory)


def same(one: RunResult, other: RunResult) -> bool:
    return all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())


def test_with_all_clients_at_one_pace_it_is_the_round_of_all_clients(small: RunConfig) -> None:
    config = small.changed(tiers="full:1:1", compressor="Identity()", clients_per_round=6, num_rounds=3)
    rounds, _, _ = run(config, run_name="rounds")
    buffered, clients, steps = run(config, pace="buffered(goal=6, concurrency=6)", run_name="buffered")
    assert same(rounds, buffered)
    assert clients["staleness"].tolist() == [0] * 18
    assert steps["in_flight"].tolist() == [0] * 3


def test_the_log_tells_who_started_from_which_model_and_when(small: RunConfig) -> None:
    _, clients, rounds = run(small, tiers=TIERS, pace="buffered(goal=2, concurrency=4)", num_rounds=8)
    assert (clients["status"] == "ok").all()
    assert rounds["num_ok"].tolist() == [2] * 8
    ends = rounds["cumulative_simulated_seconds"].to_numpy()
    assert (np.diff(ends) >= 0).all()
    np.testing.assert_allclose(rounds["simulated_seconds"], np.diff(ends, prepend=0.0))
    arrivals = clients["begins"] + clients["simulated_seconds"]
    assert arrivals.is_monotonic_increasing  # replies are taken as they come
    # The version is the number of steps that were made before the client began, or at that moment.
    at_least, at_most = (
        np.searchsorted(ends, clients["begins"], "left"),
        np.searchsorted(ends, clients["begins"], "right"),
    )
    assert ((at_least <= clients["version"]) & (clients["version"] <= at_most)).all()
    assert (clients["staleness"] == clients["round"] - 1 - clients["version"]).all()
    assert clients["staleness"].max() >= 2
    assert set(clients["tier"]) == {"slow", "fast"}
    assert (rounds["in_flight"] == 3).sum() + (rounds["in_flight"] == 4).sum() >= 7
    starts = clients.groupby("version")["client"].apply(list)
    assert all(len(set(each)) == len(each) for each in starts)  # at most once from each version


def test_a_cut_off_run_goes_on_with_equal_bytes_and_what_was_on_its_way(small: RunConfig) -> None:
    config = small.changed(
        tiers=TIERS, pace="buffered(goal=2, concurrency=4)", num_rounds=6, jitter="lognormal(sigma=0.5)",
        availability="markov(on=300, off=30)", quorum=1, server_optimizer="fedadam", server_learning_rate=0.01,
    )  # fmt: skip
    whole, clients, rounds = run(config, run_name="whole")

    def cut(row: Mapping[str, Any]) -> None:
        if row["round"] == 4:  # before its checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(load_config(None, config.changed(run_name="cut").to_flower()), cut)
    directory = Path(config.output.runs_dir) / "cut"
    resumed = execute(load_run(directory))
    again, after = read_clients(directory), read_rounds(directory)
    assert same(whole, resumed)
    timing = ["train_seconds", "encode_seconds", "message_bytes"]
    assert clients.drop(columns=timing).equals(again.drop(columns=timing))
    assert rounds["cumulative_simulated_seconds"].tolist() == after["cumulative_simulated_seconds"].tolist()


def test_older_updates_count_less_and_an_update_of_the_newest_model_counts_whole(small: RunConfig) -> None:
    config = small.changed(tiers=TIERS, num_rounds=5)
    _, clients, sqrt = run(config, pace="buffered(goal=2, concurrency=4)", run_name="sqrt")
    _, _, none = run(config, pace="buffered(goal=2, concurrency=4, staleness='none')", run_name="none")
    stale = clients.groupby("round")["staleness"].max() > 0
    first = int(stale.idxmax())
    assert 1 < first <= 5
    assert sqrt["update_norm"][: first - 1].tolist() == none["update_norm"][: first - 1].tolist()
    assert sqrt["update_norm"][first - 1] < none["update_norm"][first - 1]
    assert [Buffered().scale(age) for age in (0, 3)] == [1, 0.5]
    assert [Buffered(staleness="inverse").scale(age) for age in (0, 3)] == [1, 0.25]


def test_a_round_ends_early_when_everyone_has_had_a_turn(small: RunConfig, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("client,on,off\n0,0,inf\n1,0,inf\n")
    _, clients, rounds = run(
        small,
        tiers=TIERS,
        pace="buffered(goal=4, concurrency=4)",
        availability=f"trace:{trace}",
        quorum=2,
        num_rounds=2,
    )
    assert rounds["num_ok"].tolist() == [2, 2]
    assert set(clients["client"]) == {0, 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "ef21", "compressor": "TopK(fraction=0.1)"}, "scheme ef21: its memories follow the mean"),
        (
            {"scheme": "proxskip(0.1, 0.5)", "compressor": "Identity()", "local_steps": 0},
            "scheme proxskip: its memories",
        ),
        ({"aggregation": "median", "compressor": "Identity()"}, "an older update counts less, a median has no such"),
        ({"dp_clip": 1.0, "dp_noise": 1.0, "compressor": "Identity()"}, "dp-noise, whose privacy counts on cohorts"),
        ({"sampling": "size"}, "sampling 'size', which draws cohorts"),
        ({"over_sampling": 0.5}, "over-sampling, which cuts rounds short"),
        ({"engine": "flower"}, "engine 'flower': it goes by the simulated clock, on 'local' or 'ray'"),
        ({"downlink_scheme": "docofl"}, "whose anchors follow rounds"),
        ({"num_clients": 4}, "4 clients: it wants 6"),
        ({"task": "bilevel", "scheme": "rafbo", "compressor": "Identity()"}, "task 'bilevel', whose steps are"),
    ],
)
def test_what_has_no_meaning_without_rounds_is_refused_by_name(
    small: RunConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"pace 'buffered' does not go with .*{message}"):
        small.changed(
            pace="buffered(goal=2, concurrency=6)", clients_per_round=changes.get("num_clients", 6), **changes
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("asynchronous", "unknown pace 'asynchronous'; known: buffered, rounds"),
        ("buffered(goal=0)", "goal is a whole number of at least 1, got 0"),
        ("buffered(concurrency=2.5)", "concurrency is a whole number of at least 1, got 2.5"),
        ("buffered(staleness='cubic')", "staleness is one of none, sqrt, inverse, got 'cubic'"),
    ],
)
def test_what_is_no_pace_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_pace(text)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "changes",
    [
        {"pace": "buffered(goal=2, concurrency=4)", "availability": "markov(on=300, off=30)", "quorum": 1},
        {"scheme": "scaffold(0.1, 2)", "local_steps": 0, "over_sampling": 0.5, "clients_per_round": 3},
    ],
)
def test_ray_gives_the_bytes_of_the_local_engine(small: RunConfig, changes: dict[str, Any]) -> None:
    config = small.changed(tiers=TIERS, jitter="lognormal(sigma=0.5)", num_rounds=4, **changes)
    here, _, rounds = run(config, run_name="here")
    there, _, others = run(config, run_name="there", engine="ray")
    assert same(here, there)
    assert rounds["cumulative_simulated_seconds"].tolist() == others["cumulative_simulated_seconds"].tolist()
