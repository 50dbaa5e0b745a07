"""How many processors this process may use, which is not how many the machine has."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def processors() -> int:
    """Processors by affinity (`taskset`) and by the quota of the control group (containers, systemd); at least 1.

    A quota of one and a half processors counts as one: a second worker would wait for half of its time.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    return max(1, int(min(allowed, _quota())))


def _quota() -> float:
    """Processors that the control group of this process, or one above it, is limited to; infinite if none is."""
    try:
        own = next(line for line in _OWN.read_text().splitlines() if line.startswith("0::"))[3:]
    except (OSError, StopIteration):
        own = "/"
    least = float("inf")
    place = CGROUP / own.lstrip("/")
    for folder in (place, *place.parents):
        if not folder.is_relative_to(CGROUP):
            break
        least = min(least, _limit(folder))
    return least


def _limit(folder: Path) -> float:
    """The limit that a group of version 2 (cpu.max) or version 1 (cpu.cfs_quota_us) states."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
        return float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    for group in (folder, folder / "cpu"):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text()
            if int(quota) > 0:
                return int(quota) / int((group / "cpu.cfs_period_us").read_text())
        except (OSError, ValueError):
            continue
    return float("inf")
