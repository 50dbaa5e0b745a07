"""Federations whose network, disk and clocks fail as a seed says; SEED by hand: `python -m tests.faults SEED`."""

import queue
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl_mlmc.aggregation import ServerOptimizer
from fl_mlmc.run.disk import sync
from fl_mlmc.run.log import CLIENTS, ROUNDS, RoundLog
from fl_mlmc.simulations.app import server_app
from fl_mlmc.strategies import checkpoint, tiered

from .clock import Clock
from .disk import Disk, DiskFault, Killed
from .plan import Life, Plan
from .trial import Violation, try_plan, try_seed

FEW, MANY, CHUNKS = 12, 1_000, 20


def test_a_few_seeds_hold() -> None:
    for seed in range(FEW):
        try_seed(seed)


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_thousand_seeds_hold(chunk: int) -> None:
    for seed in range(chunk, MANY, CHUNKS):
        try_seed(seed)


def at_event(setting: str, kind: str, event: int) -> Plan:
    return Plan(event, setting, {}, (Life(DiskFault(kind, event, length=10**6)), Life()))


def try_events(setting: str, kind: str, events: Iterable[int]) -> None:
    for event in events:
        try_plan(at_event(setting, kind, event))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["kill", "power", "full", "broken"])
@pytest.mark.parametrize("setting", ["momentum", "memory", "private"])
def test_a_run_goes_on_from_every_change_of_a_file(setting: str, kind: str) -> None:
    event = 1
    while try_plan(at_event(setting, kind, event)).struck:
        event += 1
    assert event > 50  # it went through the whole run


def log_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def resume(cls: type[RoundLog], directory: Path, *args: Any, **options: Any) -> RoundLog:
        for name in (CLIENTS, ROUNDS):
            (directory / name).touch()
        return cls(directory)

    monkeypatch.setattr(RoundLog, "resume", classmethod(resume))


def log_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoundLog, "sync", lambda self: None)


def checkpoint_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "sync", lambda path: None)


def momentum_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerOptimizer, "restore", lambda self, state: None)


def ledger_begun_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before these trials found it."""
    monkeypatch.setattr(server_app, "Ledger", lambda path: None)


@pytest.mark.parametrize(
    ("plant", "setting", "kind", "seen"),
    [
        (log_not_cut, "momentum", "kill", "is no row of a log|the log has rounds"),
        (log_not_synced, "momentum", "power", "rows of ended rounds are lost|that a checkpoint counts on were lost"),
        (checkpoint_not_synced, "momentum", "power", "was saved, after life 1 it is|ended by|were lost"),
        (momentum_forgotten, "momentum", "kill", "other bytes than that of the same replies in peace"),
        (ledger_begun_late, "private", "kill", "the ledger of its releases"),
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    setting: str,
    kind: str,
    seen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation, match=seen):
        try_events(setting, kind, range(8, 80))


def test_a_reply_dropped_without_a_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiered, "reason_of", lambda error: "")
    with pytest.raises(Violation, match="has no reason in the log: 'dropped: '"):
        try_plan(Plan(0, "momentum", {(1, 0): "error", (1, 1): "error"}, (Life(),)))


def test_a_seed_says_all() -> None:
    seed = next(seed for seed in range(100) if len(Plan.draw(seed).lives) > 2)
    first, again = try_seed(seed), try_seed(seed)
    assert (first.struck, first.events) == (again.struck, again.events)
    assert str(Plan.draw(seed)) == str(Plan.draw(seed))


def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(40):
        disk = Disk(tmp_path / str(seed), seed)
        disk.root.mkdir()
        with disk.mounted(None):
            path = disk.root / "rows"
            path.write_bytes(b"first ")
            sync(path)
            sync(disk.root)
            with path.open("ab") as file:
                file.write(b"second")
            (disk.root / "new").touch()
        disk.cut_power()
        content = path.read_bytes()
        assert content.startswith(b"first ")
        outcomes.add((content.endswith(b"second"), b"\0" in content, (disk.root / "new").exists()))
    assert {(True, False, True), (False, False, False), (False, True, True)} <= outcomes


def test_a_write_may_be_cut_by_the_end_of_the_process(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 3)
    disk.root.mkdir()
    with disk.mounted(DiskFault("kill", 2)), pytest.raises(Killed):
        (disk.root / "rows").write_bytes(b"x" * 100)
    assert 0 < (disk.root / "rows").stat().st_size < 100


def test_time_passes_for_those_who_wait() -> None:
    clock, told = Clock(5), []
    module = SimpleNamespace(time=None, threading=None, queue=None)
    with clock.ticking(module):
        arrived = module.queue.SimpleQueue()  # type: ignore[attr-defined]

        def late() -> None:
            module.time.sleep(100.0)  # type: ignore[attr-defined]
            arrived.put("late")

        module.threading.Thread(target=late).start()  # type: ignore[attr-defined]
        with pytest.raises(queue.Empty):
            arrived.get(timeout=40.0)
        told.append(clock.now)
        assert arrived.get(timeout=1000.0) == "late"
        told.append(clock.now)
    clock.end()
    assert told == [40.0, 100.0]
