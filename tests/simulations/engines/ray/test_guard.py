"""What a private Ray leaves when its driver is killed: nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_mlmc.simulations.engines.ray.guard import _descendants, _processes, ended_with_us

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

ROOT = Path(__file__).parents[4]
DRIVER = """
import ray, time
from fl_mlmc.simulations.engines.ray.session import ray_session
with ray_session(cpus=1):
    ray.get(ray.remote(lambda: 0).remote())
    print("ready", flush=True)
    time.sleep(600)
"""
SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


def wait_for_end(of: set[tuple[int, int]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := {(pid, since) for pid, since in of if _processes().get(pid, (0, 0))[1] == since}:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)


@pytest.mark.slow
def test_nothing_of_ray_outlives_a_driver_that_is_killed() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=env)
    assert driver.stdout is not None
    while driver.stdout.readline() != "ready\n":
        assert driver.poll() is None
    family = _descendants({driver.pid})
    assert len(family) > 4  # Ray's head, its agents, a worker, the guard
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for_end(family, seconds=20.0)  # Ray's agents took 63 s


def test_what_was_started_ends_with_the_block_and_nothing_else(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", SLEEPER])
    started: list[subprocess.Popen[bytes]] = []
    try:
        with ended_with_us(lambda: started.append(subprocess.Popen([sys.executable, "-c", SLEEPER]))):
            assert started[0].poll() is None
        assert started[0].wait(60.0) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        family = _descendants({stranger.pid})
        stranger.kill()
        for pid, _ in family:
            os.kill(pid, signal.SIGKILL)
        stranger.wait()
