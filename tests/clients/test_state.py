"""A client's memory: there and whole, or missed by name."""

from pathlib import Path

import pytest
import torch

from clients.state import ClientMemory, LostMemoryError

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
