"""The command as a person uses it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app import launch
from fl_mlmc.simulations.app.places import RunFailed
from fl_mlmc.simulations.cli import app, parse_setting

ROOT = Path(__file__).parents[2]


def arguments(config: RunConfig, **changes: object) -> list[str]:
    settings = {**config.to_flower(), **changes}
    return ["run", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


def test_a_run_ends_with_its_figures_and_a_picture(small: RunConfig) -> None:
    done = CliRunner().invoke(app, arguments(small))
    assert done.exit_code == 0, done.output
    directory = Path(small.output.runs_dir) / "small"
    for part in ("final accuracy", "uplink", "downlink", "both ways", "time", "next     fl-mlmc report", "about "):
        assert part in done.output
    assert str(directory) in done.output
    assert (directory / "report.png").read_bytes().startswith(b"\x89PNG")


def test_several_runs_make_one_picture(small: RunConfig, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert CliRunner().invoke(app, arguments(small, **{"run-name": name})).exit_code == 0
    runs = [str(Path(small.output.runs_dir) / name) for name in ("one", "two")]
    done = CliRunner().invoke(app, ["report", *runs, "--out", str(tmp_path / "both.png")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "both.png").stat().st_size > 10_000
    for part in ("tier full", "least coverage", "accuracy at equal cost", "cost until accuracy"):
        assert part in done.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num-round": 3}, "did you mean 'num-rounds'"),
        ({"tiers": "a:0.5:0.5"}, "add up to 0.5"),
        ({"data-dir": "nowhere"}, "nowhere"),
        ({"partition": "dirichlet"}, "dirichlet"),
        ({"num-clients": "3"}, "clients-per-round is 4"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(small: RunConfig, change: dict[str, str], message: str) -> None:
    done = CliRunner().invoke(app, arguments(small, **change))
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (Path(small.output.runs_dir) / "small").exists()


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "does not exist" in done.output


def test_settings_are_read_as_the_key_wants_them() -> None:
    assert parse_setting("num-rounds=3") == ("num_rounds", 3)
    assert parse_setting("quorum=0.5") == ("quorum", 0.5)
    assert parse_setting("run-name=7") == ("run_name", "7")
    assert parse_setting("compressor=MLMC(TopK(fraction=0.1))") == ("compressor", "MLMC(TopK(fraction=0.1))")


def command(config: RunConfig, **changes: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fl_mlmc.simulations.cli", *arguments(config, **changes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Where the suite runs in the background, its children would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_a_run_that_fails_on_flower_exits_with_1(small: RunConfig) -> None:
    process = command(small, engine="flower", **{"learning-rate": 1e30})
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 1, output
    assert "round 1 has 0 good replies of 4" in " ".join(output.split())
    directory = Path(small.output.runs_dir) / "small"
    assert len((directory / "clients.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(("words", "command"), [(["run"], "run"), (["deploy", "run", "fed"], "deploy run fed")])
def test_a_run_that_failed_with_a_checkpoint_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], command: str
) -> None:
    run = tmp_path / "a run"

    def fail(config: RunConfig, *args: object, **how: object) -> None:
        raise RunFailed(run, "the server is gone")

    monkeypatch.setattr(launch, "execute", fail)
    before = CliRunner().invoke(app, words)
    (run / "checkpoint").mkdir(parents=True)
    done = CliRunner().invoke(app, words)
    assert (before.exit_code, done.exit_code) == (1, 1)
    assert "go on" not in before.output
    assert f"go on: fl-mlmc {command} --resume '{run}'" in done.output


def test_a_run_that_is_interrupted_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: RunConfig, *args: object, **how: object) -> None:
        (tmp_path / "cut" / "checkpoint").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "execute", stop)
    done = CliRunner().invoke(app, ["run", "--set", f"runs-dir={tmp_path}", "--set", "run-name=cut", "--set=model=mlp"])
    assert done.exit_code == 130
    assert f"go on: fl-mlmc run --resume {tmp_path / 'cut'}" in done.output


@pytest.mark.slow
def test_ctrl_c_stops_the_run_and_all_that_it_started(small: RunConfig) -> None:
    directory = Path(small.output.runs_dir) / "small"
    process = command(small, engine="flower", **{"num-rounds": 10_000})
    rounds = directory / "rounds.jsonl"
    deadline = time.monotonic() + 200
    while not (rounds.exists() and rounds.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=80)
    finally:
        process.terminate()
    assert process.returncode == 130, output
    assert "interrupted" in output
    assert json.loads((directory / "run.json").read_text())["status"].startswith("failed")
    left = subprocess.run(["pgrep", "-f", str(directory)], capture_output=True, text=True, check=False).stdout
    assert not left


@pytest.mark.parametrize(("name", "shown"), [("lr[/0.1]", "0.1]: 1 round"), ("[red]lr", "[red]lr: 1 round")])
def test_brackets_that_are_not_ours_stay(small: RunConfig, name: str, shown: str) -> None:
    config = small.changed(run_name=name, tiers="a[bold]:1.0:1.0", num_rounds=1)
    done = CliRunner().invoke(app, arguments(config), catch_exceptions=False)
    assert done.exit_code == 0
    assert shown in done.output
    told = CliRunner().invoke(app, ["report", str(Path(small.output.runs_dir) / name)], catch_exceptions=False)
    assert "tier a[bold]" in told.output
