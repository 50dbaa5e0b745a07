"""Does a run that was killed end as if nothing had happened?

    python benchmarks/kill_points.py [--points 100] [--engine local] [--seed 0]

Runs a small scenario once in peace, then again and again: killed by SIGKILL after a random time, resumed, and compared
with the first. Model and logs must be the same bytes, but for the seconds that were measured. Exits with 1 if not.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.strategies.checkpoint import CHECKPOINT, MODEL, OPTIMIZER

MEASURED = ("train_seconds", "encode_seconds", "seconds", "aggregate_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as folder:
        torch.set_num_threads(1)  # so that there is no thread that a fork could lose
        execute(scenario(Path(folder), "warm-up", "local").changed(num_rounds=1))  # has the forks find all imported
        peaceful = scenario(Path(folder), "peaceful", arguments.engine)
        start = time.monotonic()
        if finish(run(peaceful)) != 0:
            sys.exit("the run in peace failed")
        duration = time.monotonic() - start
        bad = 0
        for point in range(arguments.points):
            config = scenario(Path(folder), f"killed-{point}", arguments.engine)
            seconds = draw.uniform(0, duration)
            child = run(config)
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            finish(child)
            directory = Path(config.output.runs_dir) / config.output.run_name
            begun = (directory / "run.json").exists()
            done = len(read_rounds(directory)) if begun and (directory / "rounds.jsonl").exists() else 0
            code = finish(resume(directory) if begun else run(config))
            same = code == 0 and outcome(directory) == outcome(Path(folder) / "peaceful")
            bad += not same
            print(f"killed after {seconds:6.2f} s with {done:2d} rounds: {'same' if same else 'DIFFERENT'}", flush=True)
    print(f"{arguments.points - bad} of {arguments.points} runs ended in the same bytes")
    sys.exit(bad > 0)


def scenario(folder: Path, name: str, engine: str) -> RunConfig:
    """A run that has all there is to lose: momentum, tiers, random levels, sparse cohorts."""
    return load_config(
        None,
        {
            "engine": engine,
            "num_rounds": 25,
            "num_clients": 12,
            "clients_per_round": 5,
            "model": "mlp(hidden=(32,))",
            "tiers": "small:0.5:0.5,full:1.0:0.5",
            "width_rule": "rolling",
            "compressor": "MLMC(TopK(fraction=0.1))",
            "server_optimizer": "adam",
            "server_learning_rate": 0.01,
            "local_steps": 5,
            "device": "cpu",
            "runs_dir": folder,
            "run_name": name,
        },
    )


def run(config: RunConfig) -> int:
    """Start the run in a process of its own; its id."""
    return _fork(lambda: execute(config))


def resume(directory: Path) -> int:
    """Start going on with the run in a process of its own; its id."""
    return _fork(lambda: execute(load_run(directory)))


def finish(child: int) -> int:
    """Wait for a process; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(directory: Path) -> tuple[bytes, bytes, str, str]:
    """All that must not depend on having been killed."""
    model, optimizer = ((directory / CHECKPOINT / name).read_bytes() for name in (MODEL, OPTIMIZER))
    return model, optimizer, _text(read_clients(directory)), _text(read_rounds(directory))


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def _text(frame: pd.DataFrame) -> str:
    return str(frame.drop(columns=list(MEASURED), errors="ignore").to_csv(index=False))


if __name__ == "__main__":
    main()
