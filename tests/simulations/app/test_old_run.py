"""A run that an earlier version began: every later one must go on with it, and read its logs."""

import json
import shutil
from pathlib import Path

import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.config import ConfigError
from fl_mlmc.simulations.app.launch import execute, load_run
from fl_mlmc.strategies.checkpoint import load_state

OLD = Path(__file__).parent / "old_run" / "run"
ROUNDS, CUT, SAVED = 6, 3, 2


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the run, as a user has it who updated."""
    return shutil.copytree(OLD, tmp_path / "run", symlinks=True)


def test_its_logs_are_read(old: Path) -> None:
    clients, rounds = read_clients(old), read_rounds(old)
    assert rounds["round"].tolist() == list(range(1, CUT + 1))
    assert rounds["accuracy"].between(0, 1).all()
    assert len(clients) == 3 * CUT
    assert set(clients["status"]) == {"ok"}
    state = load_state(old / "checkpoint")
    assert state is not None
    assert (state.server_round, len(state.vector), set(state.optimizer)) == (SAVED, 310, {"momentum_buffer"})


def test_it_is_not_resumed_in_silence(old: Path) -> None:
    with pytest.raises(ConfigError, match="go on all the same with --force"):
        execute(load_run(old))


def test_it_goes_on_and_ends_well(old: Path) -> None:
    saved = json.loads((OLD / "checkpoint-2" / "state.json").read_text())["log_sizes"]
    result = execute(load_run(old), force=True)
    assert result.rounds["round"].tolist() == list(range(1, ROUNDS + 1))
    assert set(result.clients["status"]) == {"ok"}  # nobody lost a memory
    for name, size in saved.items():
        assert (old / name).read_bytes()[:size] == (OLD / name).read_bytes()[:size]
    told = json.loads((old / "run.json").read_text())
    assert told["status"] == "completed"
    [note] = told["resumed"]
    assert (note["after_round"], note["forced"]) == (SAVED, True)
