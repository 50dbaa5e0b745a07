"""A run that was cut off goes on as if it had not been."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.simulations.app.run_lock import RunBusyError, writing

ROOT = Path(__file__).parents[3]
MEASURED = ["train_seconds", "encode_seconds", "seconds", "aggregate_seconds"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writes stop in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def longer(small: RunConfig, name: str) -> RunConfig:
    config = small.changed(num_rounds=9, server_optimizer="sgd(momentum=0.9)", run_name=name)
    return load_config(None, config.to_flower())


@pytest.mark.parametrize("num_points", [2, pytest.param(8, marks=pytest.mark.long)])
def test_runs_killed_at_random_moments_end_in_the_same_bytes(num_points: int) -> None:
    command = [sys.executable, "benchmarks/kill_points.py", "--points", str(num_points), "--seed", str(num_points)]
    process = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{num_points} of {num_points} runs ended in the same bytes" in process.stdout


@pytest.mark.parametrize("size", [6_000, 3_000], ids=["while logging", "while checkpointing"])
def test_a_full_disk_stops_the_run_with_nothing_torn(small: RunConfig, size: int) -> None:
    whole = execute(longer(small, "whole"))
    config = longer(small, "cut")
    with pytest.raises(Exception, match="File too large"), files_up_to(size):
        execute(config)
    directory = Path(config.output.runs_dir) / "cut"
    for name in ("clients.jsonl", "rounds.jsonl"):
        for line in (directory / name).read_text().splitlines(keepends=True):
            assert line.endswith("\n")
            json.loads(line)
    assert not [path for path in directory.iterdir() if path.name.endswith(".partial")]
    assert json.loads((directory / "run.json").read_text())["status"].startswith("failed: ")
    resumed = execute(load_run(directory))
    assert all((whole.arrays[name] == resumed.arrays[name]).all() for name in whole.arrays)
    for read in (read_clients, read_rounds):
        assert (
            read(directory)
            .drop(columns=MEASURED, errors="ignore")
            .equals(read(whole.directory).drop(columns=MEASURED, errors="ignore"))
        )


def test_checkpoints_come_as_often_as_asked(small: RunConfig) -> None:
    config = longer(small, "every-four").changed(checkpoint_every=4, quorum=4)
    rows: list[int] = []

    def stop(row: object) -> None:
        rows.append(len(rows))
        if len(rows) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, stop)
    directory = Path(config.output.runs_dir) / "every-four"
    assert os.readlink(directory / "checkpoint") == "checkpoint-4"
    assert list(execute(load_run(directory)).rounds["round"]) == list(range(1, 10))


@pytest.mark.parametrize("follow_links", [True, False], ids=["links became folders", "links kept"])
def test_a_copied_run_goes_on_in_the_same_bytes(small: RunConfig, tmp_path: Path, follow_links: bool) -> None:
    whole = execute(longer(small, "whole"))
    config = longer(small, "cut")

    def stop(row: Mapping[str, Any]) -> None:
        if row["round"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, stop)
    copy = shutil.copytree(Path(config.output.runs_dir) / "cut", tmp_path / "else where", symlinks=not follow_links)
    shutil.rmtree(Path(config.output.runs_dir) / "cut")
    resumed = execute(load_run(copy))
    assert resumed.directory == copy
    assert all((whole.arrays[name] == resumed.arrays[name]).all() for name in whole.arrays)
    assert list(resumed.rounds["round"]) == list(range(1, 10))


def test_a_finished_run_is_left_as_it_is(small: RunConfig) -> None:
    done = execute(load_config(None, small.to_flower()))
    before = {path: path.stat().st_mtime_ns for path in done.directory.rglob("*")}
    assert len(execute(load_run(done.directory)).rounds) == small.num_rounds
    assert {path: path.stat().st_mtime_ns for path in done.directory.rglob("*")} == before


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    with writing(tmp_path), pytest.raises(RunBusyError, match="another process is still writing"):  # noqa: SIM117
        with writing(tmp_path, seconds=0.1):
            pass
    with writing(tmp_path, seconds=0):
        pass


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run to resume: it has no run\.json"):
        load_run(tmp_path)
