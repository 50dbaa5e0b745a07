"""Trials by hand: `python -m tests.faults SEED [LAST]` prints a seed's plan and tries it, or all from SEED to LAST."""

import argparse
import collections
import sys
import time

import torch

from .plan import Plan
from .trial import Violation, try_seed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("last", type=int, nargs="?")
    arguments = parser.parse_args()
    if arguments.last is None:
        print(Plan.draw(arguments.seed), flush=True)
    torch.set_num_threads(1)
    start, bad = time.monotonic(), 0
    seen: collections.Counter[str] = collections.Counter()
    seeds = range(arguments.seed, (arguments.seed if arguments.last is None else arguments.last) + 1)
    for seed in seeds:
        try:
            trial = try_seed(seed)
        except Violation as violation:
            bad += 1
            print(violation, flush=True)
        else:
            seen.update(trial.struck, lives=trial.num_lives)
    told = ", ".join(f"{count} × {what}" for what, count in sorted(seen.items()))
    print(f"{len(seeds) - bad} of {len(seeds)} seeds hold, in {time.monotonic() - start:.1f} s: {told}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
