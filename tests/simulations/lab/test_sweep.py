"""A study as a person starts it: the queue, what is done stays done, and one failure ends no other."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.cli import app
from fl_mlmc.simulations.lab.crew import Crew
from fl_mlmc.simulations.lab.progress import Pace
from fl_mlmc.simulations.lab.study import Study, Trial

ROOT = Path(__file__).parents[3]


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def begun(self, trial: Trial) -> None:
        self.said.append(("begun", trial.seed))

    def advanced(self, trial: Trial, row: Mapping[str, Any]) -> None:
        self.said.append(("row", trial.seed))

    def ended(self, trial: Trial, status: str) -> None:
        self.said.append((status, trial.seed))


def play(line: Connection, log: Path) -> None:
    """A worker that computes nothing: seed 1 fails, seed 2 takes the whole process with it."""
    while True:
        try:
            seed = json.loads(line.recv_bytes())["seed"]
        except EOFError:
            return
        if seed == 2:
            os._exit(7)
        line.send_bytes(json.dumps({"row": {"round": 1}, "peak_bytes": 100}).encode())
        line.send_bytes(json.dumps({"end": "diverged" if seed == 1 else "completed", "peak_bytes": 100}).encode())


def trials(count: int, tmp_path: Path) -> list[Trial]:
    return [Trial("m", RunConfig(seed=seed, runs_dir=tmp_path, run_name=str(seed))) for seed in range(count)]


def test_a_failure_and_a_lost_process_end_their_own_runs_only(tmp_path: Path) -> None:
    heard = Heard()
    few = trials(4, tmp_path)
    ended = Crew(tmp_path, jobs=1, target=play).conduct(few, heard)
    assert [ended[trial] for trial in few if trial.seed != 2] == ["completed", "diverged", "completed"]
    assert "its process ended with 7" in ended[few[2]]
    assert heard.said.count(("begun", 3)) == 1
    assert [kind for kind, seed in heard.said if seed == 0] == ["begun", "row", "completed"]


@pytest.mark.parametrize(("free", "most"), [(None, 3), (1000, 3), (110, 1)])
def test_a_second_process_begins_where_memory_is_free_for_it(tmp_path: Path, free: int | None, most: int) -> None:
    crew = Crew(tmp_path, jobs=3, free_bytes=lambda: free)
    assert crew._has_room([], 0)
    hands: list[Any] = [None]
    assert crew._has_room(hands, 100) == (most > 1)
    assert crew._has_room(hands, 0) == (free is None), "the first one's size is not known yet"


def test_the_time_left_counts_rounds_of_this_start_alone(tmp_path: Path) -> None:
    now = [0.0]
    first, second = (Trial("m", RunConfig(seed=seed, num_rounds=10, run_name=str(seed))) for seed in (0, 1))
    pace = Pace([first, second], lambda: now[0])
    assert pace.seconds_left is None
    now[0] = 4.0
    for number in (7, 8):  # it went on after round 6
        pace.advance(first, number)
    assert pace.seconds_left == pytest.approx(2.0 * 12)
    pace.end(first)
    assert pace.share == pytest.approx(0.5)
    assert pace.seconds_left == pytest.approx(2.0 * 10)


def study_of(small: RunConfig, tmp_path: Path, rounds: int = 2) -> Path:
    keys = {"seed", "runs-dir", "run-name", "compressor"}
    settings = {key: value for key, value in small.to_flower().items() if key not in keys} | {"num-rounds": rounds}
    (tmp_path / "one.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    path = tmp_path / "few.toml"
    path.write_text(
        f'scenario = "one.toml"\nruns-dir = "{tmp_path / "runs"}"\nbaseline = "Identity()"\n'
        '[grid]\ncompressor = ["Identity()", "QSGD(levels=4)"]\nseed = [0, 1]\n'
    )
    return path


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_where_it_was(small: RunConfig, tmp_path: Path) -> None:
    path = study_of(small, tmp_path, rounds=40)
    command = [sys.executable, "-m", "fl_mlmc.simulations.cli", "sweep", str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    study = Study.read(path)
    while not (study.trials[0].is_done and (study.trials[1].directory / "checkpoint").exists()):
        assert time.monotonic() < deadline, first.communicate()
        time.sleep(0.02)
    first.kill()
    first.wait()
    done = (study.trials[0].directory / "rounds.jsonl").stat().st_mtime_ns
    kept = (study.trials[1].directory / "rounds.jsonl").read_text().splitlines()[:1]
    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=True)
    assert "1 done before" in second.stdout
    assert (study.trials[0].directory / "rounds.jsonl").stat().st_mtime_ns == done, "what is done is not repeated"
    assert (study.trials[1].directory / "rounds.jsonl").read_text().splitlines()[:1] == kept, "it went on"
    assert all(trial.is_done for trial in study.trials)
    assert "accuracy at equal cost, mean ± deviation over 2 seeds" in second.stdout
    assert "accuracy less that of Identity()" in second.stdout


def test_a_study_that_is_complete_shows_its_figures_and_runs_nothing(small: RunConfig, tmp_path: Path) -> None:
    from fl_mlmc.simulations.app.launch import execute

    path = study_of(small, tmp_path, rounds=1)
    for trial in Study.read(path).trials:
        execute(trial.config)
    done = CliRunner().invoke(app, ["sweep", str(path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [method["label"] for method in found["methods"]] == ["Identity()", "QSGD(levels=4)"]
    assert found["methods"][1]["difference"]["rounds"]["count"] == 2
    table = CliRunner().invoke(app, ["report", str(path)])
    assert "accuracy at equal cost" in table.output
    assert (tmp_path / "runs" / "few" / "report.png").is_file()
    wrong = CliRunner().invoke(app, ["sweep", str(tmp_path / "none.toml")])
    assert wrong.exit_code == 2
    assert "there is no scenario" in wrong.output
