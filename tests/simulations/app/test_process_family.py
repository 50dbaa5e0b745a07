import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl_mlmc.simulations.app.process_family import ProcessFamily

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def family() -> Iterator[ProcessFamily]:
    family = ProcessFamily()
    yield family
    family.end(grace_seconds=1.0)


def start(family: ProcessFamily, tmp_path: Path, code: str) -> subprocess.Popen[bytes]:
    return family.start(
        [sys.executable, "-c", textwrap.dedent(code)], tmp_path, os.environ, (tmp_path / "log").open("wb")
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "waited 100 s in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_orphan_in_a_session_of_its_own_is_a_member(family: ProcessFamily, tmp_path: Path) -> None:
    parent = start(
        family,
        tmp_path,
        f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "{SLEEP}"], start_new_session=True)
        open("pid", "w").write(str(child.pid))
        """,
    )
    parent.wait()
    orphan = int((tmp_path / "pid").read_text())
    assert family.members() == {orphan}
    family.end()
    assert not is_alive(orphan)


def test_an_orphan_that_lost_its_environment_is_known_by_its_group(family: ProcessFamily, tmp_path: Path) -> None:
    parent = start(
        family,
        tmp_path,
        f"""
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "{SLEEP}"], env={{}})
        open("pid.new", "w").write(str(child.pid))
        os.rename("pid.new", "pid")
        input_never_comes = os.read(os.pipe()[0], 1)
        """,
    )
    wait_for((tmp_path / "pid").exists)
    orphan = int((tmp_path / "pid").read_text())
    assert family.members() == {parent.pid, orphan}
    parent.kill()
    parent.wait()
    assert family.members() == {orphan}


def test_who_ignores_the_request_is_killed_after_the_grace(family: ProcessFamily, tmp_path: Path) -> None:
    stubborn = start(
        family,
        tmp_path,
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("ready", "w").close()
        time.sleep(600)
        """,
    )
    wait_for((tmp_path / "ready").exists)
    family.end(grace_seconds=0.3)
    assert stubborn.poll() == -signal.SIGKILL
    assert not family.members()


def test_strangers_are_left_alone(family: ProcessFamily, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as stranger:
        start(family, tmp_path, SLEEP)
        family.end()
        assert stranger.poll() is None
        stranger.kill()


def test_members_go_when_their_program_is_killed(tmp_path: Path) -> None:
    code = f"""
        import os, sys, time
        from pathlib import Path
        from fl_mlmc.simulations.app.process_family import ProcessFamily
        here = Path(sys.argv[1])
        member = ProcessFamily().start([sys.executable, "-c", "{SLEEP}"], here, os.environ, open(here / "log", "wb"))
        print(member.pid, flush=True)
        time.sleep(600)
        """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    member = int(program.stdout.readline())
    assert is_alive(member)
    program.kill()
    program.communicate()
    wait_for(lambda: not is_alive(member))
