"""What a run says while it goes on, in a terminal and in a pipe, from the command and from Python."""

import io
import re
import tomllib
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import fl_mlmc
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations import run
from fl_mlmc.simulations.cli import app
from fl_mlmc.simulations.progress import Telling
from fl_mlmc.strategies.rows import headline
from tests.simulations.app.test_launch import settings

ROW = {"round": 3, "accuracy": 0.8123, "loss": 0.61349, "cumulative_uplink_bytes": 12345}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (ROW, "accuracy 0.812  loss 0.613  uplink 12.3 kB"),
        ({**ROW, "accuracy": float("nan"), "loss": float("nan")}, "uplink 12.3 kB"),
        ({"loss": 2.0, "cumulative_uplink_bytes": 0}, "loss 2.000  uplink 0 bytes"),
    ],
)
def test_a_headline_leaves_out_what_was_not_measured(row: dict[str, float], told: str) -> None:
    assert headline(row) == told


def test_a_pipe_gets_a_line_a_round() -> None:
    console = Console(file=(output := io.StringIO()))
    with Telling(20, "local", console) as told:
        told.advance(ROW)
    assert output.getvalue().splitlines() == [
        "starting engine local, 20 rounds",
        "round 3/20  accuracy 0.812  loss 0.613  uplink 12.3 kB",
    ]


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_terminal_gets_a_bar_as_wide_as_it_is(width: int) -> None:
    console = Console(file=(output := io.StringIO()), force_terminal=True, width=width, no_color=True)
    with Telling(20, "local", console) as told:
        told.advance(ROW)
    assert "\x1b[" in output.getvalue()
    last = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", output.getvalue()).splitlines()[-1].rpartition("\r")[2]
    for part in ("3/20", "accuracy 0.812", "-:--"):
        assert part in last
    assert len(last) <= width


def test_a_run_from_python_tells_of_its_rounds_and_shows_in_one_line(
    small: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(None, **settings(small))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("round ")]
    assert len(lines) == small.num_rounds
    assert "accuracy" in lines[-1]
    assert repr(result).startswith(f"RunResult({str(result.directory)!r}: {small.num_rounds} rounds, accuracy ")
    assert len(repr(result)) < 400
    run(None, quiet=True, **settings(small, run_name="quiet"))
    assert "round" not in capsys.readouterr().err


def test_runs_that_begin_at_once_have_names_of_their_own(small: RunConfig) -> None:
    few = [run(None, quiet=True, **settings(small, run_name="", num_rounds=1)) for _ in range(3)]
    assert len({result.directory for result in few}) == 3


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == fl_mlmc.__version__
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"fl-mlmc {fl_mlmc.__version__}\n")
