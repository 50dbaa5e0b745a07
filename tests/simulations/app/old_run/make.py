"""How the run in this folder came about; it is made once, and every later version must go on with it.

    python tests/simulations/app/old_run/make.py FOLDER

A run of six rounds that was cut off after the row of its third, with checkpoints every two: so there is a row to cut
away, a model, an optimizer with momentum, and clients with memories. Do not make it anew when the test fails: a run of
a user's has failed then.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_mlmc.simulations.app.launch import execute, load_config

NAME, ROUNDS, CUT = "run", 6, 3


def main(folder: Path) -> None:
    changes = {
        "seed": 7,
        "num_rounds": ROUNDS,
        "num_clients": 4,
        "clients_per_round": 3,
        "engine": "local",
        "model": "mlp(hidden=(4,))",
        "tiers": "small:0.5:0.5,full:1.0:0.5",
        "scheme": "ef21",
        "compressor": "TopK(fraction=0.2)",
        "server_optimizer": "sgd(momentum=0.9)",
        "local_steps": 2,
        "batch_size": 8,
        "device": "cpu",
        "checkpoint_every": 2,
        "runs_dir": str(folder),
        "run_name": NAME,
    }

    def cut(row: Mapping[str, Any]) -> None:
        if row["round"] == CUT:
            raise KeyboardInterrupt

    try:
        execute(load_config(None, changes), cut)
    except KeyboardInterrupt:
        print(f"made {folder / NAME}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
