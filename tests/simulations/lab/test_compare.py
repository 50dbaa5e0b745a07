"""Figures of methods, against sums by hand and scipy's own paired test."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from fl_mlmc.simulations.lab.compare import Comparison, Difference, Spread, labels_of
from fl_mlmc.simulations.lab.curves import Curve
from fl_mlmc.simulations.lab.sweep import compare_runs
from fl_mlmc.simulations.lab.tables import tables


def run(folder: Path, accuracies: list[float | None], uplink: int, **config: object) -> Path:
    """A run's log with such accuracies, `uplink` bytes up and 100 down in every round."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "completed", "config": config}))
    (folder / "clients.jsonl").touch()
    rows = [
        {"round": number, "accuracy": value, "loss": None if value is None else 1 - value, "uplink_bytes": uplink,
         "downlink_bytes": 100, "cumulative_uplink_bytes": number * uplink, "seconds": 2.0, "simulated_seconds": 1.0}
        for number, value in enumerate(accuracies, start=1)
    ]  # fmt: skip
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    shared = {"model": "mlp", "runs-dir": "anywhere"}
    return [
        run(tmp_path / "a0", [0.1, 0.5, None, 0.9], 1000, compressor="Identity()", seed=0, **shared),
        run(tmp_path / "a1", [0.2, 0.6, None, 0.8], 1000, compressor="Identity()", seed=1, **shared),
        run(tmp_path / "b0", [0.1, 0.4, 0.6, 0.7, 0.9], 10, compressor="Natural()", seed=0, **shared),
        run(tmp_path / "b1", [0.1, 0.4, 0.5, 0.6, 0.7], 10, compressor="Natural()", seed=1, **shared),
    ]


def test_runs_that_differ_by_their_seed_alone_are_one_method(runs: list[Path], tmp_path: Path) -> None:
    assert list(labels_of(runs).values()) == ["Identity()", "Identity()", "Natural()", "Natural()"]
    other = run(tmp_path / "c", [0.1], 1, compressor="Natural()", seed=0, model="cnn")
    assert labels_of([*runs, other])[other] == "compressor=Natural(), model=cnn"
    assert labels_of([runs[0]]) == {runs[0]: "a0"}
    again = run(tmp_path / "again", [0.1], 1, compressor="Identity()", seed=0, model="mlp")
    assert set(labels_of([runs[0], runs[2], again]).values()) == {
        "Identity() (a0)",
        "Natural() (b0)",
        "Identity() (again)",
    }


def test_at_equal_cost_counts_what_every_run_had(runs: list[Path]) -> None:
    found = compare_runs(runs)
    assert [found.budget(axis) for axis in ("rounds", "uplink", "bytes", "simulated")] == [4, 50, 550, 4]
    assert found.at("Identity()", "rounds") == Spread(pytest.approx(0.85), pytest.approx(math.sqrt(0.005)), 2)
    assert found.at("Identity()", "uplink").count == 0, "one round cost more than the others' whole run"
    assert found.at("Natural()", "uplink").mean == pytest.approx(0.8)
    assert found.at("Natural()", "rounds").mean == pytest.approx(0.65)
    curve = Curve.read(runs[0])
    assert [curve.at("rounds", rounds) for rounds in (1, 2, 3, 4)] == [0.1, 0.5, 0.5, 0.9], "nothing is interpolated"
    assert math.isnan(curve.at("rounds", 0))
    assert curve.cost_of("bytes", 0.85) == 4400
    assert math.isnan(curve.cost_of("bytes", 0.95))
    low = Curve.read(runs[0], metric="loss")
    assert low.cost_of("rounds", 0.5) == 2, "a loss is better low"
    assert (low.best, low.final) == (pytest.approx(0.1), pytest.approx(0.1))


def test_the_interval_of_a_difference_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.normal(1, 1, 6), rng.normal(0, 1, 6)
    found = Difference.of(dict(enumerate(own)), {**dict(enumerate(others)), 9: 5.0})
    wanted = stats.ttest_rel(own, others).confidence_interval(0.95)
    assert (found.low, found.high, found.count) == (pytest.approx(wanted.low), pytest.approx(wanted.high), 6)
    alone = Difference.of({1: 2.0}, {1: 1.5})
    assert (alone.mean, alone.count) == (0.5, 1)
    assert math.isnan(alone.low)


def test_tables_hold_the_figures_and_json_no_nan(runs: list[Path]) -> None:
    curves = compare_runs(runs).curves
    found = Comparison.of(curves, "Identity()", 0.75)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for shown in tables(found):
        shown.print(console)
    text = console.export_text()
    for part in ("0.8500 ± 0.0707", "mean ± deviation over 2 seeds", "cost until accuracy 0.75", "(1 of 2)", "4.4 kB"):
        assert part in text
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["methods"][1]["difference"]["rounds"]["count"] == 2
    with pytest.raises(ValueError, match="baseline 'x' is no method here: Identity"):
        Comparison.of(curves, "x")
    with pytest.raises(ValueError, match="no column 'f1'"):
        compare_runs(runs, "f1")


@pytest.mark.parametrize(("width", "is_terminal"), [(40, True), (80, True), (80, False)])
def test_a_narrow_terminal_and_a_pipe_lose_no_figure(
    runs: list[Path], width: int, is_terminal: bool, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as file:
        console = Console(width=width, file=file, force_terminal=is_terminal, no_color=True)
        for shown in tables(compare_runs(runs)):
            shown.print(console)
    lines = re.sub(r"\x1b\[\d*m", "", (tmp_path / "out").read_text()).splitlines()
    assert any("0.8500 ± 0.0707" in line for line in lines)
    assert not any("…" in line for line in lines)
    assert max(map(len, lines)) <= width or not is_terminal
    assert not set("".join(lines)) & set("│┃╭┌┏") or is_terminal
