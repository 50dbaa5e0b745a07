"""Runs on the simulated clock: what the log says of time, of who left, of who was late, and of cohorts."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.models import build_model
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.run.sampling import inclusion
from fl_mlmc.simulations.app.launch import RunResult, execute, load_config, load_run
from fl_mlmc.strategies.roster import Seat
from fl_mlmc.strategies.round import Answer, Reading, Sent
from fl_mlmc.strategies.timeline import Stay, Timeline, the_first
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.tier import parse_tiers

SPEC = build_model("mlp(hidden=(8,))", (4,), 3).spec
TIERS = "slow:0.5:0.5:speed=1e-4:up=1e3,fast:1.0:0.5:speed=1e-3:up=1e4"


def run(config: RunConfig, **changes: object) -> tuple[RunResult, pd.DataFrame, pd.DataFrame]:
    config = config.changed(**changes)
    result = execute(load_config(None, config.to_flower()))
    directory = Path(config.output.runs_dir) / config.output.run_name
    return result, read_clients(directory), read_rounds(directory)


def sent(client: int = 7) -> Sent:
    (tier,) = parse_tiers("phone:0.5:1:speed=0.1:up=1000:down=500")
    task = TrainTask(2, client, "phone", 0.5, "")
    return Sent(task, Seat(17, "seven", tier), plan(SPEC, "nested", 0.5), downlink_bytes=300, anchor_bytes=100)


def test_a_stay_is_download_steps_and_upload_and_an_anchor_was_there_before() -> None:
    stay = Timeline(RunConfig()).stay(sent(), 4, 80)
    assert stay.needed == pytest.approx(200 / 500 + 4 * sent().plan.size / 1e7 + 80 / 1000)
    assert (stay.seconds, stay.reason) == (stay.needed, "")
    assert Stay(5.0, left=3.0).reason == "it left after 3 s of 5 s"
    assert Stay(5.0, left=4.0, deadline=3.0).reason == "it needed 5 s, the deadline is 3 s"
    assert Stay(5.0, left=4.0, deadline=3.0).seconds == 3.0


def test_the_first_on_the_clock_are_taken_and_ties_go_by_number() -> None:
    def reading(client: int, seconds: float | None, reason: str = "") -> Reading:
        return Reading(Answer(sent(client), simulated_seconds=seconds, reason=reason))

    readings = [
        reading(0, 5.0),
        reading(1, 2.0),
        reading(2, 9.0, "it left"),
        reading(3, 2.0),
        reading(4, None, "broken"),
    ]
    cut = [each.answer for each in the_first(readings, 1)]
    assert [answer.reason.partition(",")[0] for answer in cut] == [
        "it needed 5 s",
        "",
        "it left",
        "it needed 2 s",
        "broken",
    ]
    assert [answer.simulated_seconds for answer in cut] == [2.0, 2.0, 2.0, 2.0, None]
    assert the_first(readings, 4) == readings
    assert the_first(readings, 0) == readings


def test_every_round_says_how_long_it_took_and_what_the_clock_reads(small: RunConfig) -> None:
    _, clients, rounds = run(small, tiers=TIERS, jitter="lognormal(sigma=0.3)", stragglers="pareto(shape=2)")
    slowest = clients.groupby("round")["simulated_seconds"].max()
    assert rounds["simulated_seconds"].tolist() == slowest.tolist()
    assert rounds["cumulative_simulated_seconds"].tolist() == pytest.approx(slowest.cumsum().tolist())
    _, even, _ = run(small, tiers=TIERS, run_name="even")
    assert (clients["simulated_seconds"] != even["simulated_seconds"]).all()
    drop = ["train_seconds", "encode_seconds", "message_bytes", "simulated_seconds"]
    assert clients.drop(columns=drop).equals(even.drop(columns=drop))  # time changes nothing else


def test_clients_are_drawn_from_those_that_are_on_and_who_leaves_is_dropped_by_name(
    small: RunConfig, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("client,on,off\n0,0,1e9\n1,0,1e9\n2,0,1e9\n3,0,1e-6\n4,1e6,1e9\n")
    config = small.changed(tiers=TIERS, availability=f"trace:{trace}", num_rounds=3, quorum=3)
    _, clients, rounds = run(config)
    assert set(clients[clients["round"] == 1]["client"]) == {0, 1, 2, 3}
    [gone] = clients[clients["client"] == 3]["status"]
    assert gone.startswith("dropped: it left after 1e-06 s of ")
    assert clients[clients["client"] == 3]["simulated_seconds"].tolist() == [1e-6]
    assert set(clients[clients["round"] > 1]["client"]) == {0, 1, 2}  # 3 has left, 4 is not there yet, 5 never
    assert rounds["waited_seconds"].tolist() == [0, 0, 0]
    _, _, later = run(
        config.changed(quorum=4, num_rounds=1, tiers="full:1:1"),
        run_name="later",
        availability="markov(on=9, off=36)",
    )
    assert later["waited_seconds"].tolist()[0] > 0
    assert later["simulated_seconds"].tolist()[0] > later["waited_seconds"].tolist()[0]


def test_a_cut_off_run_goes_on_at_the_time_and_with_the_losses_that_it_had(small: RunConfig) -> None:
    config = small.changed(
        tiers=TIERS, availability="markov(on=300, off=100)", sampling="loss(d=5)", clients_per_round=2, num_rounds=4,
        jitter="exponential(mean=1.0)", quorum=1,
    )  # fmt: skip
    whole, _, rounds = run(config, run_name="whole")

    def cut(row: Mapping[str, Any]) -> None:
        if row["round"] == 3:  # before its checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(load_config(None, config.changed(run_name="cut").to_flower()), cut)
    directory = Path(config.output.runs_dir) / "cut"
    resumed, again = execute(load_run(directory)), read_rounds(directory)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, resumed.arrays[name])
    assert again["cumulative_simulated_seconds"].tolist() == rounds["cumulative_simulated_seconds"].tolist()


def test_over_sampling_in_a_simulation_takes_the_fastest_and_a_deadline_the_fast(small: RunConfig) -> None:
    config = small.changed(tiers=TIERS, num_rounds=1, clients_per_round=3)
    _, clients, rounds = run(config, over_sampling=1.0)
    ok = clients[clients["status"] == "ok"]
    assert (len(clients), len(ok)) == (6, 3)
    assert set(ok["tier"]) == {"fast"}
    assert rounds["simulated_seconds"].tolist() == [ok["simulated_seconds"].max()]
    assert clients["simulated_seconds"].max() == ok["simulated_seconds"].max()
    assert clients[clients["tier"] == "slow"]["status"].str.contains("the round was over after").all()
    seconds = float(ok["simulated_seconds"].max()) * 1.2
    _, timed, _ = run(config, sampling=f"deadline(seconds={seconds})", run_name="deadline")
    assert set(timed["tier"]) == {"fast"}
    _, late, _ = run(config, sampling=f"deadline(seconds={seconds})", jitter="slow(share=0.4, times=100)", quorum=0,
                     run_name="late")  # fmt: skip
    assert late["status"].str.contains("the deadline is").any()
    assert late["simulated_seconds"].max() <= seconds


def test_by_size_clients_count_by_their_examples_over_their_chance(small: RunConfig) -> None:
    config = small.changed(partition="dirichlet:0.3", num_rounds=1, clients_per_round=6, tiers="full:1:1")
    every, all_clients, _ = run(config, sampling="size", run_name="every")
    uniform, _, _ = run(config, run_name="uniform")
    for name, array in uniform.arrays.items():
        np.testing.assert_array_equal(array, every.arrays[name])
    sizes = all_clients.set_index("client")["num_examples"]
    _, clients, _ = run(config, sampling="size", clients_per_round=3, run_name="some", learning_rate=1e-9)
    chances = dict(zip(sizes.index, inclusion(sizes.to_numpy(float), 3), strict=True))
    weights = [sizes[client] / chances[client] for client in clients["client"]]
    assert len(clients) == 3
    assert sum(weights) == pytest.approx(sizes.sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "size", "weighting": "clients"}, "unbiased for clients that count by their examples"),
        ({"sampling": "size", "over_sampling": 0.5}, "over-sampling takes the fastest"),
        ({"sampling": "size", "least_coverage": 1}, "both say whom to draw"),
        ({"sampling": "size", "scheme": "ef21", "compressor": "TopK(fraction=0.1)"}, "says itself how much a client"),
        ({"sampling": "size", "task": "bilevel", "scheme": "rafbo"}, "a bilevel task samples uniformly"),
        ({"sampling": "size", "dp_clip": 1.0, "dp_noise": 1.0, "compressor": "Identity()"}, "drawn uniformly"),
        (
            {
                "scheme": "marina",
                "compressor": "RandK(fraction=0.5)",
                "clients_per_round": 6,
                "availability": "diurnal()",
            },
            r"scheme marina needs every client in every round, and with availability = 'diurnal\(\)'",
        ),
        ({"availability": "trace:/nowhere.csv"}, "availability = 'trace:/nowhere.csv'.*No such file"),
    ],
)
def test_what_does_not_go_together_is_refused(small: RunConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(small, **changes)


def test_infinite_times_are_none() -> None:
    timeline = Timeline(RunConfig())
    assert timeline.present(range(5), 5) == (range(5), 0.0)
    assert timeline.stay(sent(), 0, 0).left == math.inf
