"""The parts of a server come back whatever ends them, and how they fare can be read."""

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_mlmc.deploy import parts as parts_module
from fl_mlmc.deploy.cli import app
from fl_mlmc.deploy.federation import init
from fl_mlmc.deploy.parts import Health, Part, Parts


def wait_for(condition: object, seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, seconds in {"FIRST_SECONDS": 0.01, "MOST_SECONDS": 0.02, "WRITE_SECONDS": 0.02}.items():
        monkeypatch.setattr(parts_module, name, seconds)
    (tmp_path / "state").mkdir()
    return tmp_path


def part(folder: Path, name: str) -> Part | None:
    health = Health.read(folder)
    return health.parts.get(name) if health else None


def test_a_part_survives_whatever_it_raises_even_when_nobody_hears(folder: Path) -> None:
    raised = iter([OSError(24, "Too many open files"), MemoryError(), SystemExit(1), KeyboardInterrupt(), None])
    lives: list[int] = []
    deafened: list[str] = []

    def deaf(line: str) -> None:
        deafened.append(line)
        raise BrokenPipeError

    parts = Parts(folder, deaf)

    def work() -> None:
        lives.append(1)
        error = next(raised, None)
        if error is not None:
            raise error
        while not parts.is_stopped:
            parts.beat("registrar")
            parts.wait(0.01)

    parts.start("registrar", work, patience=5.0)
    wait_for(lambda: len(lives) == 5)
    wait_for(lambda: (found := part(folder, "registrar")) is not None and (found.ends, found.state) == (4, "running"))
    found = part(folder, "registrar")
    assert found is not None
    assert found.reason == "KeyboardInterrupt: "
    parts.stop()
    parts.join()
    assert [line for line in deafened if "Too many" in line] == [
        "registrar ended by OSError: [Errno 24] Too many open files; starting it again in 0.01 s"
    ]


def test_a_full_disk_does_not_end_the_one_who_writes(folder: Path) -> None:
    (folder / "state" / "health.partial").mkdir()
    parts = Parts(folder, lambda line: None)
    time.sleep(0.1)
    assert Health.read(folder) is None
    (folder / "state" / "health.partial").rmdir()
    wait_for(lambda: (found := part(folder, "health")) is not None and found.ends > 0)
    parts.stop()
    parts.join()


def test_death_and_silence_of_a_part_are_told() -> None:
    start = 1_000_000.0
    health = Health(
        start,
        {
            "gate": Part(15.0, since=start, seen=start),
            "registrar": Part(15.0, since=start, seen=start - 16.0),
            "superlink": Part(15.0, "waiting", start, start, 2, "OSError: x"),
        },
    )
    gate, registrar, superlink = health.lines(start)
    assert gate.startswith("gate           running since 1970-01-")
    assert registrar.startswith("registrar      SILENT for 16 s since ")
    assert superlink.startswith("superlink      waiting since ")
    assert superlink.endswith(", ended 2 ×, the last time by OSError: x")
    (said,) = health.lines(start + 100.0)
    assert said == "the server has shown no sign of life for 100 s; is `deploy server` running?"


def test_status_tells_of_the_parts_even_without_a_superlink(tmp_path: Path) -> None:
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", 2, {})
    done = CliRunner().invoke(app, ["status", str(tmp_path / "fed")])
    assert done.exit_code == 2
    assert done.output.splitlines()[0] == "the server was never started"
    assert "no SuperLink answers" in done.output
