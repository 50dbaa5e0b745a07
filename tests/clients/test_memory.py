"""A client's memory: there and whole, or missed by name."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from fl_mlmc.clients.memory import ClientMemory, LostMemoryError

LIKE = torch.zeros(3)


def test_a_memory_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = {"shift": torch.tensor([1.5, -0.0, 1e-45]), "found": torch.ones(3)}
    ClientMemory(tmp_path, 4).save(7, state, keep=[])
    loaded = ClientMemory(tmp_path, 4).load(7, LIKE)
    assert loaded.keys() == state.keys()
    assert all(loaded[name].numpy().tobytes() == state[name].numpy().tobytes() for name in state)


def test_a_memory_is_one_round_deep(tmp_path: Path) -> None:
    memory = ClientMemory(tmp_path, 4)
    for server_round, keep in [(2, 0), (5, 2), (6, 2), (9, 6)]:
        memory.save(server_round, {"shift": LIKE + server_round}, [keep])
    assert sorted(path.name for path in (tmp_path / "4").iterdir()) == ["6.npz", "9.npz"]
    assert memory.load(6, LIKE)["shift"].tolist() == [6, 6, 6]


def test_the_memory_of_a_checkpoint_stays(tmp_path: Path) -> None:
    memory = ClientMemory(tmp_path, 4)
    for server_round, keep in [(2, (0, 0)), (5, (2, 2)), (6, (5, 2)), (9, (6, 2))]:
        memory.save(server_round, {"shift": LIKE}, keep)
    assert sorted(path.name for path in (tmp_path / "4").iterdir()) == ["2.npz", "6.npz", "9.npz"]


def test_a_lost_memory_has_a_name(tmp_path: Path) -> None:
    memory = ClientMemory(tmp_path, 4)
    with pytest.raises(LostMemoryError, match="client 4 lost its memory of round 3"):
        memory.load(3, LIKE)
    memory.save(3, {"shift": LIKE}, keep=[])
    with pytest.raises(LostMemoryError, match="for another submodel than one of 5 coordinates"):
        memory.load(3, torch.zeros(5))
    path = tmp_path / "4" / "3.npz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LostMemoryError, match="client 4 lost its memory of round 3"):
        memory.load(3, LIKE)


def test_a_write_that_is_cut_off_leaves_the_memory_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = ClientMemory(tmp_path, 4)
    memory.save(2, {"shift": LIKE + 2}, keep=[])
    memory.save(3, {"shift": LIKE + 3}, keep=[2])

    def cut(file: BinaryIO, **state: Any) -> None:
        file.write(b"half a file")
        raise OSError("no space left on device")

    # A round that is done again, as after a resume, writes over its own file.
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", cut)
        with pytest.raises(OSError, match="no space left"):
            memory.save(3, {"shift": LIKE}, keep=[2])
    assert memory.load(2, LIKE)["shift"].tolist() == [2, 2, 2]
    assert memory.load(3, LIKE)["shift"].tolist() == [3, 3, 3]
    memory.save(3, {"shift": LIKE + 4}, keep=[2])
    assert sorted(path.name for path in (tmp_path / "4").iterdir()) == ["2.npz", "3.npz"]


def test_a_memory_that_holds_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "4").mkdir()
    np.savez(tmp_path / "4" / "3.npz", shift=np.array([Trap()], dtype=object))
    with pytest.raises(LostMemoryError, match="client 4 lost its memory of round 3"):
        ClientMemory(tmp_path, 4).load(3, LIKE)
    assert not (tmp_path / "ran").exists()
