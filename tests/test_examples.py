"""Examples run, and are as short as they promise."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_ladder_of_ones_own_takes_less_than_thirty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "own_ladder.py"
    runpy.run_path(str(path))
    assert "keeps all laws" in capsys.readouterr().out
    lines = path.read_text().split("@dataclass")[1].split("for vector in")[0].splitlines()
    assert len([line for line in lines if line.strip()]) < 30
