import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_mlmc.simulations.engines import processors as counting
from fl_mlmc.simulations.engines.processors import processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_counts_and_not_the_machine() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); from fl_mlmc.simulations.engines.processors import processors; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(processors())"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("", {"cpu.max": "100000 100000"}, 1),
        ("", {"cpu.max": "max 100000"}, None),
        ("app.slice/run", {"app.slice/cpu.max": "150000 100000", "app.slice/run/cpu.max": "max 100000"}, 1),
        ("", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {"cpu.max": "nonsense"}, None),
    ],
)
def test_a_quota_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, files: dict[str, str], expected: int | None
) -> None:
    unlimited = len(os.sched_getaffinity(0))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    own.write_text(f"0::/{group}\n")
    monkeypatch.setattr(counting, "CGROUP", tmp_path)
    monkeypatch.setattr(counting, "_OWN", own)
    assert processors() == (unlimited if expected is None else expected)
