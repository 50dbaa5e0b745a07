"""Private runs that are killed and go on: the ledger counts every noisy model that was ever made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_mlmc.aggregation import Ledger, Private, PrivateMean, ServerOptimizer
from fl_mlmc.aggregation import private as room
from fl_mlmc.aggregation.ledger import RELEASES, LedgerError
from fl_mlmc.frames import read_rounds
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.simulations.app.launch import execute, load_run
from fl_mlmc.simulations.app.server_app import serve
from fl_mlmc.strategies import tiered
from fl_mlmc.strategies.checkpoint import CHECKPOINT
from fl_mlmc.strategies.tiered import QuorumError, TieredStrategy

pytest.importorskip("dp_accounting")


class Killed(BaseException):
    """The process ends here."""


def nothing(*_: Any) -> None:
    """Killed before anything of the call was done."""


def torn(ledger: Ledger, *_: Any) -> None:
    """The first bytes of a line reached the disk."""
    with open(ledger._path, "ab") as file:
        file.write(b'{"number": ')


# What is called, and what of the call is done before the process ends; None: all of it.
MOMENTS: dict[str, tuple[Any, str, Callable[..., Any] | None]] = {
    "before the round": (TieredStrategy, "configure_train", nothing),
    "before the line": (Ledger, "add", nothing),
    "inside the line": (Ledger, "add", torn),
    "after the line": (Ledger, "add", None),
    "after the noise": (PrivateMean, "result", None),
    "before the step": (ServerOptimizer, "step", nothing),
    "after the step": (ServerOptimizer, "step", None),
    "before the row": (RoundLog, "append_round", nothing),
    "after the row": (RoundLog, "append_round", None),
    "before the checkpoint": (tiered, "save_state", nothing),
    "after the checkpoint": (tiered, "save_state", None),
}


@pytest.fixture
def private(small: RunConfig) -> RunConfig:
    return small.changed(compressor="Identity()", dp_clip=0.5, dp_noise=2.0, num_rounds=4, checkpoint_every=2)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every noisy model that is made."""
    made: list[int] = []
    generator = room.secret_generator

    def counting() -> np.random.Generator:
        made.append(1)
        return generator()

    monkeypatch.setattr(room, "secret_generator", counting)
    return made


def killed_at(config: RunConfig, moment: str, call: int) -> None:
    """Run `config` up to the moment's `call`-th time."""
    owner, name, part = MOMENTS[moment]
    original, seen = getattr(owner, name), 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen < call:
            return original(*args, **options)
        (original if part is None else part)(*args, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            serve(config)


def directory(config: RunConfig) -> Path:
    return Path(config.output.runs_dir) / config.output.run_name


def check_count(config: RunConfig, draws: list[int], kills: int) -> None:
    """The ledger holds every model that was made, at most one more for each kill, and the log's ε is that of all."""
    promise = config.privacy.of(config.cohort)
    assert isinstance(promise, Private)
    counted = len(Ledger(directory(config) / RELEASES))
    assert len(draws) <= counted <= len(draws) + kills
    spent = read_rounds(directory(config))["epsilon"].tolist()
    assert len(spent) == config.num_rounds
    assert spent == sorted(set(spent))
    assert spent[-1] == promise.epsilon(counted)


def test_a_run_that_nothing_ends_has_a_line_a_round(private: RunConfig, draws: list[int]) -> None:
    serve(private)
    check_count(private, draws, kills=0)
    rows = [json.loads(line) for line in (directory(private) / RELEASES).read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert json.loads((directory(private) / CHECKPOINT / "state.json").read_text())["num_releases"] == 4


@pytest.mark.parametrize("moment", MOMENTS)
def test_wherever_a_run_is_killed_every_noisy_model_counts(private: RunConfig, draws: list[int], moment: str) -> None:
    is_checkpoint = "checkpoint" in moment
    killed_at(private, moment, call=1 if is_checkpoint else 3)
    made = len(draws)
    assert made == {"after the checkpoint": 2, "before the checkpoint": 2}.get(
        moment, 3 if moment.split()[-1] in ("noise", "step", "row") else 2
    )
    serve(private.changed(resume=True))
    assert len(draws) > made
    check_count(private, draws, kills=1)


def test_rounds_that_are_made_again_cost_again(private: RunConfig, draws: list[int]) -> None:
    config = private.changed(num_rounds=4, checkpoint_every=4)
    killed_at(config, "after the row", call=3)
    killed_at(config.changed(resume=True), "after the row", call=2)
    serve(config.changed(resume=True))
    assert len(draws) == 3 + 2 + 4
    check_count(config, draws, kills=0)
    rows = [json.loads(line) for line in (directory(config) / RELEASES).read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3, 1, 2, 1, 2, 3, 4]


def test_a_round_without_its_quorum_made_a_noisy_model_too(
    private: RunConfig, draws: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiered, "read_update", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(QuorumError):
        serve(private)
    assert len(Ledger(directory(private) / RELEASES)) == len(draws) == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the ledger of its releases"),
        (lambda path: path.write_text(path.read_text().split("\n")[0] + "\n"), "holds 1 releases, .* counted 2"),
        (lambda path: path.write_text(path.read_text().replace("1,", "9,", 1)), "the file is damaged"),
    ],
)
def test_a_run_does_not_go_on_without_its_ledger_and_its_log_is_not_touched(
    private: RunConfig, draws: list[int], damage: Callable[[Path], object], reason: str
) -> None:
    killed_at(private, "after the row", call=3)
    damage(directory(private) / RELEASES)
    log = (directory(private) / "rounds.jsonl").read_text()
    for go_on in (lambda: execute(load_run(directory(private))), lambda: serve(private.changed(resume=True))):
        with pytest.raises(LedgerError, match=reason):
            go_on()
    assert (directory(private) / "rounds.jsonl").read_text() == log
    assert len(draws) == 3


def test_a_checkpoint_of_before_there_were_ledgers_cannot_go_on(private: RunConfig) -> None:
    killed_at(private, "after the row", call=3)
    state = directory(private) / CHECKPOINT / "state.json"
    facts = json.loads(state.read_text())
    del facts["num_releases"], facts["digest"]
    state.write_text(json.dumps(facts))
    with pytest.raises(LedgerError, match="counts no releases"):
        execute(load_run(directory(private)))


def test_other_runs_have_no_ledger(small: RunConfig) -> None:
    killed_at(small.changed(checkpoint_every=1), "before the row", call=2)
    assert not (directory(small) / RELEASES).exists()
    serve(small.changed(resume=True))
