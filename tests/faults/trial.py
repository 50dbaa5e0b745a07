"""The law of trials: whatever a plan does to a run, it goes on, says what it lost, and ends where it must.

Of each life: it ends well, or by what the plan did to it, with a status; what it saved outlives it. Of the run, once a
quiet life has ended it: its log has every round and client once, and nothing torn; replies that nothing befell are in
it as good ones, others with the reason; model and log are the bytes of a run of the same replies in another engine,
without deadlines, threads or faults. A private run's ε is that of every noisy model that was ever made.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_mlmc.aggregation import Ledger, ledger
from fl_mlmc.aggregation import private as private_room
from fl_mlmc.aggregation.ledger import RELEASES
from fl_mlmc.clients.client_app import app as client_app
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import CLIENTS, ROUNDS, RUN, status_of
from fl_mlmc.simulations.app import server_app
from fl_mlmc.simulations.app.launch import execute, load_run
from fl_mlmc.simulations.app.prepare import Ready, prepare_run
from fl_mlmc.strategies import cohort, device_grid, roster, tiered
from fl_mlmc.strategies.checkpoint import CHECKPOINT, MODEL, ServerState, load_state
from fl_mlmc.strategies.tiered import QuorumError

from . import plan as plans
from .clock import Clock
from .disk import Disk, Killed
from .link import BROKEN, HARMLESS, Clients, Link, Task
from .plan import Life, Plan, config_of

MEASURED = ("train_seconds", "encode_seconds", "seconds", "aggregate_seconds")
"""Columns that no two runs have in common."""
FORGOTTEN = ("num_late",)
"""What a process counts and takes along."""

QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where trials lie: what a disk is here is simulated."""

Row = dict[str, Any]


class Violation(AssertionError):
    """A plan under which a run did what it must not."""

    def __init__(self, plan: Plan, what: str) -> None:
        super().__init__(f"{what}\n{plan}\nAgain: python -m tests.faults {plan.seed}")


@dataclass
class Trial:
    """A plan and what came of it so far."""

    plan: Plan
    folder: Path
    saved: int = 0
    """The last round of which a checkpoint was made."""
    kept: Mapping[str, bytes] = field(default_factory=dict)
    """What the logs held then."""
    num_noisy: int = 0
    """Noisy models made."""
    excused: dict[Task, str] = field(default_factory=dict)
    """Why a client may have no good reply that the plan's own fault of replies does not explain."""
    num_lives: int = 0
    struck: list[str] = field(default_factory=list)
    """The faults of disks that came to pass."""
    events: list[int] = field(default_factory=list)
    """Changes of files in each life."""

    def run(self) -> None:
        """Live all lives; Violation if a law is broken."""
        disk = Disk(self.folder / "runs", self.plan.seed)
        disk.root.mkdir()
        for number, life in enumerate(self.plan.lives):
            self.num_lives += 1
            if self._live(disk, number, life):
                break
        self._check_end()

    @property
    def directory(self) -> Path:
        """The run's."""
        return self.folder / "runs" / "run"

    def _live(self, disk: Disk, number: int, life: Life) -> bool:
        """One process of the run; whether it ended well."""
        seed = 1000 * self.plan.seed + number
        clock = Clock(seed)
        clock.jumps = list(life.jumps)
        if (self.directory / RUN).exists():
            start: Callable[..., object] = lambda: execute(load_run(self.directory), place=place)  # noqa: E731
        else:
            start = partial(self._begin, lambda: place)
        links: list[Link] = []

        class Place:
            """A ServerApp process, on the simulated SuperLink."""

            def run(self, config: RunConfig, directory: Path, on_round: Any) -> None:
                clients = Clients(client_app, config, {}, _KNOWN[setting], disk.check_alive)
                links.append(Link(clock, clients, seed, faults, life.outages))
                server_app.serve(config, links[-1], on_round)

        place, faults, setting, error = Place(), self.plan.replies, self.plan.setting, None
        with disk.mounted(life.disk), clock.ticking(device_grid, roster), self._watched():
            try:
                start()
            except Killed as killed:
                error = killed
            except Exception as raised:
                error = raised
            clock.end()
        held_up = {task for link in links for task in link.held_up}
        has_failed = any(link.has_failed for link in links)
        if isinstance(error, Killed) and life.disk is not None and life.disk.kind == "power":
            disk.cut_power()
        self.events.append(disk.num_events)
        if disk.has_struck and life.disk is not None:
            self.struck.append(life.disk.kind)
        self._check_life(error, disk, bool(held_up), has_failed)
        for task in held_up:
            self.excused[task] = "no reply in time"
        return error is None

    def _begin(self, place: Callable[[], Any]) -> None:
        execute(config_of(self.plan.setting, str(self.folder / "runs")), place=place())

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Take note of checkpoints and noisy models, and let chance be the seed's."""
        save, trial = tiered.save_state, self
        rng = np.random.default_rng([self.plan.seed, self.num_lives])

        def noting(directory: Path, spec: Any, state: ServerState, *args: Any, **options: Any) -> None:
            save(directory, spec, state, *args, **options)
            log = directory.parent
            trial.saved = state.server_round
            trial.kept = {name: (log / name).read_bytes()[: part.size] for name, part in state.log.items()}

        def noise() -> np.random.Generator:
            trial.num_noisy += 1
            return rng

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server_app, "prepare_run", _prepared(trial.plan.setting))
            patch.setattr(tiered, "save_state", noting)
            patch.setattr(private_room, "secret_generator", noise)
            patch.setattr(cohort, "secret_generator", lambda: rng)
            patch.setattr(ledger, "epsilon", _epsilon)
            patch.setattr(private_room, "epsilon", _epsilon)
            yield

    def _check_life(self, error: BaseException | None, disk: Disk, held_up: bool, has_failed: bool) -> None:
        """A life ends well or by the plan, says so, and leaves what it had saved."""
        if error is not None and not isinstance(error, Killed):
            is_planned = (
                (isinstance(error, OSError) and disk.has_struck)
                or (isinstance(error, QuorumError) and (held_up or disk.has_struck))
                or (type(error).__name__ == "ConnectError" and has_failed)
            )
            if not is_planned:
                raise Violation(self.plan, f"life {self.num_lives} ended by {error!r}") from error
            status = status_of(self.directory)
            if not disk.has_struck and not status.startswith("failed: "):
                raise Violation(self.plan, f"life {self.num_lives} ended by {error!r}, its status is {status!r}")
        state = load_state(self.directory / CHECKPOINT)
        found = state.server_round if state else 0
        if found < self.saved:
            raise Violation(self.plan, f"round {self.saved} was saved, after life {self.num_lives} it is {found}")
        for name, kept in self.kept.items():
            path = self.directory / name
            if not path.exists() or not path.read_bytes().startswith(kept):
                raise Violation(self.plan, f"rows of {name} that a checkpoint counts on were lost in {self.num_lives}")

    def _check_end(self) -> None:
        if (status := status_of(self.directory)) != "completed":
            raise Violation(self.plan, f"the last life is over, the run's status is {status!r}")
        clients, rounds = (self._rows(name) for name in (CLIENTS, ROUNDS))
        if [row["round"] for row in rounds] != list(range(1, plans.ROUNDS + 1)):
            raise Violation(self.plan, f"the log has rounds {[row['round'] for row in rounds]}")
        faults = self._dispositions(clients)
        if self.plan.setting == "private":
            self._check_privacy(rounds)
            return
        model, *rows = _reference(self.plan.setting, tuple(sorted(faults.items())))
        if (self.directory / CHECKPOINT / MODEL).read_bytes() != model:
            raise Violation(self.plan, "the model has other bytes than that of the same replies in peace")
        for name, found, wanted in zip((CLIENTS, ROUNDS), (clients, rounds), rows, strict=True):
            for row, peaceful in zip(map(_comparable, found), wanted, strict=True):
                if row != peaceful:
                    other = {key: (row.get(key), peaceful.get(key)) for key in row if row[key] != peaceful.get(key)}
                    raise Violation(self.plan, f"{name}, round {row['round']}: (it is, it is in peace) {other}")

    def _rows(self, name: str) -> list[Row]:
        text = (self.directory / name).read_text()
        try:
            assert text.endswith("\n")
            return [json.loads(line) for line in text.splitlines()]
        except (ValueError, AssertionError) as error:
            raise Violation(self.plan, f"{name} has a torn row: {text[-200:]!r}") from error

    def _dispositions(self, rows: list[Row]) -> dict[Task, str]:
        """What became of every task without a good reply, as the oracle is to repeat it."""
        faults: dict[Task, str] = {}
        for row in rows:
            task, status = (row["round"], row["client"]), row["status"]
            planned = self.plan.replies.get(task, "")
            if status == "ok":
                if planned and planned not in HARMLESS:
                    raise Violation(self.plan, f"the reply to {task} was {planned!r}, and is in the log as good")
                continue
            if not (status.startswith("dropped: ") and len(status) > 12 and status.isprintable()):
                raise Violation(self.plan, f"the reply to {task} has no reason in the log: {status!r}")
            is_of_disk = "[Errno" in status and bool(self.struck)
            if planned in ("", *HARMLESS) and self.excused.get(task, "?") not in status and not is_of_disk:
                raise Violation(self.plan, f"nothing befell the reply to {task}, and its status is {status!r}")
            came = "no reply in time" not in status and not is_of_disk
            faults[task] = planned if planned in BROKEN and came else "lost"
        return faults

    def _check_privacy(self, rounds: list[Row]) -> None:
        counted = len(Ledger(self.directory / RELEASES))
        if not self.num_noisy <= counted <= self.num_noisy + self.num_lives:
            raise Violation(self.plan, f"{self.num_noisy} noisy models were made, the ledger has {counted}")
        promise = config_of("private", "").privacy.of(config_of("private", "").cohort)
        assert promise is not None
        spent = [row["epsilon"] for row in rounds]
        with self._watched():
            wanted = promise.epsilon(counted)
        if spent != sorted(set(spent)) or spent[-1] != wanted:
            raise Violation(self.plan, f"ε is logged as {spent}, that of {counted} models is {wanted}")


def _comparable(row: Mapping[str, Any]) -> Row:
    lost = ("status", "message_bytes") if row.get("status", "ok") != "ok" else ()
    return {key: value for key, value in row.items() if key not in (*MEASURED, *FORGOTTEN, *lost)}


@cache
def _reference(setting: str, faults: tuple[tuple[Task, str], ...]) -> tuple[bytes, list[Row], list[Row]]:
    """The model's bytes and both logs of a run in peace, on engine `local`, in which these replies did not count."""
    folder = Path(tempfile.mkdtemp(prefix="fl-mlmc-", dir=QUICK))
    try:
        config = config_of(setting, str(folder), engine="local", **PEACEFUL)
        grid = Clients(client_app, config, dict(faults), _KNOWN[setting])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server_app, "prepare_run", _prepared(setting))
            patch.setattr(server_app, "open_engine", lambda *_: nullcontext(grid))
            directory = server_app.serve(config)
        logs = [[json.loads(line) for line in (directory / name).open()] for name in (CLIENTS, ROUNDS)]
        clients, rounds = ([_comparable(row) for row in log] for log in logs)
        return (directory / CHECKPOINT / MODEL).read_bytes(), clients, rounds
    finally:
        shutil.rmtree(folder)


PEACEFUL: Mapping[str, Any] = {"durable": False}


_KNOWN: Mapping[str, dict[Any, Any]] = {setting: {} for setting in plans.SETTINGS}


@cache
def _prepared(setting: str) -> Callable[[RunConfig], Ready]:
    """`prepare_run` of a setting, done once."""
    ready = prepare_run(config_of(setting, ""))
    return lambda _: ready


def _epsilon(releases: Mapping[Any, int], delta: float) -> float:
    """In place of ε, which takes a second to compute: how many models it is of."""
    return float(sum(releases.values()))


def try_seed(seed: int) -> Trial:
    """The trial of a seed's plan."""
    return try_plan(Plan.draw(seed))


def try_plan(plan: Plan) -> Trial:
    """The trial of a plan, in a folder of its own; Violation if it breaks a law."""
    logger = logging.getLogger("flwr")
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [logging.NullHandler()], False
    folder = Path(tempfile.mkdtemp(prefix="fl-mlmc-", dir=QUICK)).resolve()
    try:
        trial = Trial(plan, folder)
        trial.run()
        return trial
    finally:
        logger.handlers[:], logger.propagate = before
        shutil.rmtree(folder)
