"""What does it cost that logs and checkpoints outlive a power cut?

    python benchmarks/durable.py [--scenario SCENARIO.toml] [--rounds 20] [--pairs 3] [--folder FOLDER]

Runs a scenario in pairs, with `durable` and without, and prints the ratio of their median rounds, from row to row of
the log, so with the checkpoint in between. `--folder` lies on the disk that is asked about.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from fl_mlmc.simulations.app.launch import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="simulations/scenarios/quickstart.toml")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-", dir=arguments.folder) as folder:
        for pair in range(arguments.pairs):
            for durable in (True, False):
                place = Path(folder) / str(pair)
                seconds[durable] += rounds(arguments.scenario, arguments.rounds, place, durable)
    with_it, without = (statistics.median(seconds[durable]) for durable in (True, False))
    print(f"a round takes {with_it / without:.3f} × as long with durable as without ({1000 * without:.0f} ms)")


def rounds(scenario: str, num_rounds: int, runs: Path, durable: bool) -> list[float]:
    """Seconds of each round but the first."""
    ends: list[float] = []
    run(
        scenario,
        on_round=lambda row: ends.append(time.perf_counter()),
        quiet=True,
        durable=durable,
        num_rounds=num_rounds,
        runs_dir=runs,
        run_name=f"durable-{durable}",
    )
    return [after - before for before, after in pairwise(ends)]


if __name__ == "__main__":
    main()
