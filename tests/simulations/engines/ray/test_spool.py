"""What a worker lays into shared memory is what the driver reads, and nothing stays behind."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc.simulations.engines.ray import spool as ray_spool
from fl_mlmc.simulations.engines.ray.crew import Member
from fl_mlmc.simulations.engines.ray.queue import QUEUED_BATCHES
from fl_mlmc.simulations.engines.ray.spool import Spool
from fl_mlmc.simulations.engines.ray.worker import SHARED_BYTES, Answer, Done, Parcel, Return
from fl_mlmc.simulations.engines.simulated import identify_process


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ray_spool, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(ray_spool, "PLACE_BYTES", 1 << 16)
    return tmp_path


@pytest.fixture
def ends(folder: Path) -> Iterator[tuple[Spool, Spool]]:
    """The two ends of a spool, its name taken away."""
    made = Spool.create(QUEUED_BATCHES)
    assert made is not None
    driver, path = made
    worker = Spool(path)
    path.unlink()
    yield worker, driver
    worker.close()
    driver.close()


batches = st.lists(st.lists(st.binary(max_size=3000), max_size=5), min_size=QUEUED_BATCHES, max_size=QUEUED_BATCHES)


@settings(max_examples=50, deadline=None)
@given(first=batches, second=batches)
def test_every_place_gives_back_what_was_laid_there_last(first: list[list[bytes]], second: list[list[bytes]]) -> None:
    made = Spool.create(QUEUED_BATCHES)
    assert made is not None
    driver, path = made
    worker = Spool(path)
    path.unlink()
    for batch in (first, second):
        assert all(worker.write(place, pieces) for place, pieces in enumerate(batch))
        assert [driver.read(place, [len(piece) for piece in pieces]) for place, pieces in enumerate(batch)] == batch
    worker.close()
    driver.close()


def test_what_is_too_large_or_finds_no_memory_is_refused_whole(
    ends: tuple[Spool, Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, driver = ends
    assert worker.write(0, [b"kept"])
    assert not worker.write(0, [bytes(1 << 15)] * 2 + [b"x"])

    def full(*args: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not worker.write(0, [bytes(100)])
    assert driver.read(0, [4]) == [b"kept"]


def test_it_takes_the_memory_that_was_laid_into_it(folder: Path) -> None:
    made = Spool.create(QUEUED_BATCHES)
    assert made is not None
    driver, path = made
    assert path.stat().st_blocks == 0
    driver.write(0, [bytes(5000)])
    assert 5000 <= 512 * path.stat().st_blocks < 1 << 15
    driver.close()


def test_without_shared_memory_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_spool, "SHARED_MEMORY", tmp_path / "none")
    assert Spool.create(QUEUED_BATCHES) is None


@pytest.mark.parametrize("size", [SHARED_BYTES, 1 << 17])  # the second does not fit into a place
@pytest.mark.parametrize("is_near", [True, False])
def test_answers_come_back_as_they_were(ends: tuple[Spool, Spool], size: int, is_near: bool) -> None:
    identify_process()
    worker, driver = ends if is_near else (None, None)
    arrays = {"small": Array("uint8", (3,), "raw", b"abc"), "large": Array("uint8", (size,), "raw", os.urandom(size))}
    reply = Message(RecordDict({"model": ArrayRecord(arrays)}), dst_node_id=3, message_type="train")
    back = Return.pack(Done([Answer(reply, None, 0.5)] * 2), worker, 1)
    assert (back.large is None) == (is_near and size == SHARED_BYTES)
    for answer in back.open(driver, 1).answers:
        assert answer.reply.content == reply.content
        assert answer[1:] == (None, 0.5)


class _Actor:
    """Takes down the places that its batches were told."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.run = self

    def remote(self, parcel: Parcel) -> object:
        self.places.append(parcel.place)
        return object()


def test_no_batch_is_told_a_place_that_was_not_read() -> None:
    actor = _Actor()
    member = Member(actor, "node", False, Path("progress"), None)
    for number, finished in enumerate([None, None, 1, 0, 2, 3]):  # not in the order in which they were sent
        if finished is not None:
            member.done(finished)
        member.send(Parcel(number, 1, b"", [], [], False), [])
        held = [batch.place for batch in member.batches.values()]
        assert len(set(held)) == len(held)
    assert actor.places == [0, 1, 1, 0, 1, 0]
