"""What clients receive: any unbiased compressor on the broadcast, or DoCoFL's anchors and corrections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_mlmc import Identity, decode
from fl_mlmc.frames import read_clients
from fl_mlmc.models import build_model
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.protocol import ANCHOR, PAYLOAD
from fl_mlmc.schemes import SCHEMES
from fl_mlmc.schemes.docofl import DoCoFL
from fl_mlmc.simulations.app.launch import RunResult, execute, load_config, load_run
from fl_mlmc.strategies.broadcast import Broadcaster
from fl_mlmc.submodels import plan


def run(config: RunConfig) -> RunResult:
    return execute(load_config(None, config.to_flower()))


def broadcaster_of(config: RunConfig) -> Broadcaster:
    return Broadcaster(config.compression, config.seed)


def vector_of(result: RunResult) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([array.ravel() for array in result.arrays.values()]))


@pytest.mark.parametrize(
    "compressor", ["Natural()", "QSGD(levels=127)", "MLMC(FixedPoint(), 'fixed')", "RandK(fraction=0.5)"]
)
def test_an_unbiased_broadcast_is_the_model_in_the_mean_and_smaller(small: RunConfig, compressor: str) -> None:
    model = build_model(small.training.model, (1, 8, 8), 10)
    vector, own = model.initial(0), plan(model.spec, "nested", 0.5)
    broadcaster = broadcaster_of(small.changed(downlink_compressor=compressor))
    total = torch.zeros(own.size, dtype=torch.float64)
    for number in range(1, 401):
        broadcast = broadcaster.begin(number, [vector])
        payload = broadcast.arrays(own)[PAYLOAD]
        assert len(payload) < 0.7 * 4 * own.size
        total += decode(payload, own.size)
    error = float((total / 400 - own.gather(vector)).square().sum() / own.gather(vector).square().sum())
    once = small.changed(downlink_compressor=compressor).compression.downlink.omega(own.gather(vector))
    assert once is not None
    assert error < 1.3 * once / 400


SCHEMES_IN_RUNS = {
    "direct": "MLMC(TopK(fraction=0.1))",
    "ef14": "TopK(fraction=0.1)",
    "ef21": "TopK(fraction=0.1)",
    "ef21_sgdm": "TopK(fraction=0.1)",
    "ef_bv": "TopK(fraction=0.1)",
    "diana": "MLMC(TopK(fraction=0.1))",
    "adiana(2.0, 0.1)": "RandK(fraction=0.5)",
    "marina": "RandK(fraction=0.5)",
    "dasha": "RandK(fraction=0.5)",
    "dasha_mvr": "RandK(fraction=0.5)",
    "proxskip(0.1, 0.5)": "Identity()",
    "compressed_scaffnew(0.1, 0.5)": "Identity()",
    "tamuna(0.1, 0.5)": "Identity()",
    "shadowheart(noise=20.0)": "RandK(fraction=0.5)",
    "scaffold(0.1, 3)": "RandK(fraction=0.5)",
}


@pytest.mark.sweep(quick=lambda scheme: scheme.partition("(")[0] in ("ef21", "diana", "marina", "tamuna", "scaffold"))
@pytest.mark.parametrize("scheme", SCHEMES_IN_RUNS)
def test_a_scheme_runs_over_an_unbiased_broadcast_and_over_docofl(small: RunConfig, scheme: str) -> None:
    kind = SCHEMES[scheme.partition("(")[0]]
    config = small.changed(
        scheme=scheme,
        compressor=SCHEMES_IN_RUNS[scheme],
        clients_per_round=6,
        local_steps=0 if kind.moves_itself or kind.takes_minibatches else 1,
        num_rounds=3,
        tiers="fast:1:0.5:speed=1e-3:up=1e5,small:0.5:0.5:speed=1e-3:up=1e5",  # shadowheart finds time for all of them
    )
    settings = {
        "plain": {},
        "natural": {"downlink_compressor": "Natural()"},
        "docofl": {"downlink_compressor": "ECUQ(bits=2)", "downlink_scheme": "docofl(ECUQ(bits=4), every=2, lead=1)"},
    }
    if not kind.points_are_models:
        del settings["docofl"]  # refused
    received = {}
    for name, changes in settings.items():
        result = run(config.changed(run_name=name, **changes))
        rows = read_clients(Path(config.output.runs_dir) / name)
        assert set(rows["status"]) == {"ok"}
        assert len(rows) == 18
        assert bool(vector_of(result).isfinite().all())
        received[name] = rows["downlink_bytes"].sum()
    assert received["natural"] < 0.8 * received["plain"]
    assert received.get("docofl", 0) < 0.8 * received["plain"]


def test_a_biased_broadcast_is_refused(small: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"downlink-compressor TopK\(fraction=0.5\) is biased"):
        small.changed(downlink_compressor="TopK(fraction=0.5)")
    small.changed(downlink_compressor="TopK(fraction=0.5)", downlink_scheme="docofl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("docofl(every=0)", "every is a whole number of at least 1, got 0"),
        ("docofl(every=2.5)", "every is a whole number of at least 1, got 2.5"),
        ("docofl(lead=-1)", "lead is a whole number of at least 0, got -1"),
        ("docofl(3)", "anchor is a compressor"),
        ("docofl(age=3)", "no option 'age'; its options: anchor, every, lead"),
        ("ECUQ(bits=2)", "goes to downlink-compressor"),
        ("docoful", "unknown downlink scheme 'docoful'"),
    ],
)
def test_a_downlink_scheme_that_is_none_is_refused(small: RunConfig, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small.changed(downlink_scheme=text)


def test_clients_have_the_anchor_that_was_newest_when_they_heard() -> None:
    docofl = DoCoFL(Identity(), every=3, lead=2)
    assert [docofl.anchor_round(number) for number in range(1, 11)] == [1, 1, 1, 1, 1, 4, 4, 4, 7, 7]
    assert [DoCoFL(Identity(), every=1, lead=0).anchor_round(number) for number in (1, 2, 9)] == [1, 2, 9]


def test_anchor_and_correction_make_the_model(small: RunConfig) -> None:
    model = build_model(small.training.model, (1, 8, 8), 10)
    own = plan(model.spec, "nested", 0.5)
    exact = broadcaster_of(small.changed(downlink_scheme="docofl(ECUQ(bits=2), every=2, lead=1)"))
    rough = broadcaster_of(
        small.changed(downlink_scheme="docofl(ECUQ(bits=4), every=2, lead=1)", downlink_compressor="ECUQ(bits=2)")
    )
    start, drift = model.initial(0), model.initial(1)
    for number in range(1, 8):
        vector = start + 0.01 * number * drift
        for broadcaster, allowed in ((exact, 1e-6), (rough, 0.05)):
            broadcast = broadcaster.begin(number, [vector])
            arrays = broadcast.arrays(own)
            received = decode(arrays[ANCHOR], own.size) + decode(arrays[PAYLOAD], own.size)
            wanted = own.gather(vector)
            assert float((received - wanted).norm() / wanted.norm()) < allowed


def test_every_anchor_is_kept_while_clients_have_it_and_drawn_on_its_own(small: RunConfig) -> None:
    model = build_model(small.training.model, (1, 8, 8), 10)
    own = plan(model.spec, "nested", 1.0)
    broadcaster = broadcaster_of(small.changed(downlink_scheme="docofl(QSGD(levels=4), every=2, lead=3)"))
    docofl = DoCoFL(every=2, lead=3)
    start, sent = model.initial(0), {}
    for number in range(1, 10):
        broadcast = broadcaster.begin(number, [start * number])  # by its length an anchor says of which round it is
        anchor = decode(broadcast.arrays(own)[ANCHOR], own.size)
        round_of = docofl.anchor_round(number)
        assert float(anchor.abs().max() / (start.norm() / 4)) == pytest.approx(round_of, rel=1e-4)
        assert sorted(broadcaster.state()) == sorted(f"anchor/{kept}" for kept in range(round_of, number + 1, 2))
        sent[round_of] = anchor / round_of
    assert len(sent) > 2
    assert not torch.allclose(sent[1], sent[3], rtol=1e-3)


def test_points_of_one_round_are_rounded_independently(small: RunConfig) -> None:
    model = build_model(small.training.model, (1, 8, 8), 10)
    own, vector = plan(model.spec, "nested", 1.0), model.initial(0)
    broadcaster = broadcaster_of(small.changed(downlink_compressor="QSGD(levels=4)"))
    broadcast = broadcaster.begin(1, [vector, vector])
    first, second = broadcast.arrays(own).values()
    assert first != second


def test_docofl_trains_with_few_bytes_on_the_critical_path_and_resumes(small: RunConfig) -> None:
    base = small.changed(
        num_rounds=12, local_steps=5, num_clients=8, compressor="Identity()", learning_rate=0.3, checkpoint_every=4
    )
    docofl = base.changed(
        downlink_scheme="docofl(ECUQ(bits=4), every=3, lead=1)", downlink_compressor="ECUQ(bits=2)", run_name="docofl"
    )
    plain, ours = run(base), run(docofl)
    assert ours.rounds["accuracy"].iloc[-1] > plain.rounds["accuracy"].iloc[-1] - 0.05
    rows = read_clients(ours.directory)
    late = (rows["downlink_bytes"] - rows["anchor_bytes"]).sum()
    assert late < 0.12 * read_clients(plain.directory)["downlink_bytes"].sum()

    def cut(row: Mapping[str, Any]) -> None:
        if row["round"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(load_config(None, docofl.changed(run_name="cut").to_flower()), cut)
    resumed = execute(load_run(Path(docofl.output.runs_dir) / "cut"))
    assert torch.equal(vector_of(resumed), vector_of(ours))
