"""What goes wrong in a trial, drawn from one integer."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fl_mlmc.run.config import RunConfig

from .disk import KINDS, DiskFault
from .link import BROKEN, HARMLESS, SILENT, TIMEOUT, Outage, Task

ROUNDS, CLIENTS, COHORT = 3, 4, 3
MOST_LIVES = 4

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "momentum": {"compressor": "MLMC(TopK(fraction=0.5))", "server_optimizer": "sgd(momentum=0.9)"},
    "memory": {"compressor": "TopK(fraction=0.5)", "scheme": "ef21", "checkpoint_every": 2},
    "downlink": {"compressor": "MLMC(TopK(fraction=0.5))", "server_optimizer": "adam", "downlink_scheme": "docofl()"},
    "private": {"compressor": "Identity()", "dp_clip": 0.5, "dp_noise": 2.0, "checkpoint_every": 2},
}
"""Runs with all there is to lose: an optimizer, clients' memories, anchors, a ledger."""


def config_of(setting: str, runs: str, **changes: Any) -> RunConfig:
    """The run of a setting, in the folder `runs`."""
    return RunConfig(
        **{
            "num_rounds": ROUNDS,
            "num_clients": CLIENTS,
            "clients_per_round": COHORT,
            "quorum": 1,
            "round_timeout": TIMEOUT,
            "engine": "flower",
            "model": "mlp(hidden=(3,))",
            "tiers": "small:0.5:0.5,full:1.0:0.5",
            "local_steps": 1,
            "batch_size": 4,
            "evaluate_every": 100,
            "device": "cpu",
            "runs_dir": runs,
            "run_name": "run",
            **SETTINGS[setting],
            **changes,
        }
    )


@dataclass(frozen=True)
class Life:
    """What befalls one process of the run."""

    disk: DiskFault | None = None
    outages: tuple[Outage, ...] = ()
    jumps: tuple[tuple[float, float], ...] = ()
    """Of the server's wall clock: (when, by how many seconds)."""


@dataclass(frozen=True)
class Plan:
    """All that goes wrong: replies by round and client, in whichever life; the rest life by life. The last is quiet."""

    seed: int
    setting: str
    replies: Mapping[Task, str]
    lives: tuple[Life, ...]

    @classmethod
    def draw(cls, seed: int) -> "Plan":
        draw = random.Random(seed)
        setting = draw.choice(list(SETTINGS))
        lives = [_life(draw) for _ in range(draw.randint(0, MOST_LIVES - 1))]
        return cls(seed, setting, _replies(draw), (*lives, Life()))

    def __str__(self) -> str:
        """A line a fault."""
        lines = [f"seed {self.seed}: setting {self.setting!r}"]
        lines += [f"  round {task[0]}, client {task[1]}: {fault}" for task, fault in sorted(self.replies.items())]
        for number, life in enumerate(self.lives, start=1):
            lines.append(f"  life {number}: disk {life.disk}, outages {life.outages}, clock jumps {life.jumps}")
        return "\n".join(lines)


def _replies(draw: random.Random) -> dict[Task, str]:
    """Faults of replies, such that one of every possible cohort is good: two of four clients at most lose theirs."""
    faults: dict[Task, str] = {}
    for server_round in range(1, ROUNDS + 1):
        for client in draw.sample(range(CLIENTS), CLIENTS):
            if draw.random() < 0.4:
                num_lost = sum(task[0] == server_round and fault not in HARMLESS for task, fault in faults.items())
                faults[server_round, client] = draw.choice((*HARMLESS, *(SILENT + BROKEN if num_lost < 2 else ())))
    return faults


def _life(draw: random.Random) -> Life:
    disk, outages, jumps = None, [], []
    if draw.random() < 0.8:
        disk = DiskFault(draw.choice(KINDS), draw.randint(1, 120), draw.choice((1, 3, 30, 10**6)))
    if draw.random() < 0.3:
        outages.append(Outage(draw.uniform(0, 15), draw.uniform(0.1, 15), is_ours=draw.random() < 0.3))
    if draw.random() < 0.3:
        jumps.append((draw.uniform(0, 15), draw.choice((-1e6, -60.0, 60.0, 1e6))))
    return Life(disk, tuple(outages), tuple(jumps))
