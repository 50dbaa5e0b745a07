"""A run seen from another terminal: what its log says, while it grows."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from fl_mlmc.run.config import ConfigError
from fl_mlmc.simulations.app.run_lock import writing
from fl_mlmc.simulations.lab.watch import Seen, follow, lines, memory_of, writer_of
from tests.simulations.lab.test_compare import run


def test_rows_are_read_as_they_are_completed_and_once(tmp_path: Path) -> None:
    one = run(tmp_path / "one", [0.1, 0.5], 1000, **{"num-rounds": 4})
    seen = Seen(one)
    assert [row["round"] for row in seen.look()] == [1, 2]
    text = (one / "rounds.jsonl").read_text()
    third = json.dumps({**json.loads(text.splitlines()[1]), "round": 3, "cumulative_uplink_bytes": 3000}) + "\n"
    (one / "rounds.jsonl").write_text(text + third[:20])
    assert seen.look() == []
    (one / "rounds.jsonl").write_text(text + third)
    assert [row["round"] for row in seen.look()] == [3]
    reasons = ["late", "late", "bad\x1b[2J"]
    rows = [{"round": 1, "client": 0, "status": f"dropped: {reason}"} for reason in reasons]
    (one / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen.look()
    told = list(lines(seen, {"status": "running", "config": {"num-rounds": 4, "engine": "local"}}))
    assert told[:4] == [
        "round 3/4  2.0 s left", "accuracy 0.500  loss 0.500", "3.0 kB up, 300 bytes down",
        "0.50 rounds a second, engine local",
    ]  # fmt: skip
    assert told[4:6] == ["2 dropped: late", "1 dropped: bad [2J"]
    assert "fl-mlmc run --resume" in told[-1], "nobody writes it"
    (one / "rounds.jsonl").write_text(text.splitlines()[0] + "\n")  # as a resume cuts it
    assert [row["round"] for row in seen.look()] == [1]


def test_its_writer_is_found_by_its_lock(tmp_path: Path) -> None:
    one = run(tmp_path / "one", [0.1], 1000)
    if writer_of(one) is None:
        pytest.skip("this system has no /proc/locks")
    assert writer_of(one) == 0
    with writing(one):
        assert writer_of(one) == os.getpid()
    assert memory_of(os.getpid()) > 10_000_000


@pytest.mark.parametrize("width", [None, 40, 80])
def test_a_run_that_is_over_is_told_and_left(tmp_path: Path, width: int | None) -> None:
    one = run(tmp_path / "one", [0.1, 0.5], 1000, **{"num-rounds": 2})
    console = Console(file=(output := io.StringIO()), force_terminal=width is not None, width=width, no_color=True)
    assert follow(one, console) == "completed"
    assert ("round 1/2" in output.getvalue()) == (width is None), "a pipe gets a line a round"
    for part in ("round 2/2", "accuracy 0.500", "completed"):
        assert part in output.getvalue()
    if width:
        assert max(map(len, output.getvalue().splitlines())) < width + 30  # and what moves the cursor
    with pytest.raises(ConfigError, match="holds no run"):
        follow(tmp_path, console)
