"""Examples run, and are as short as they promise."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_ladder_of_ones_own_takes_less_than_thirty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "own_ladder.py"
    runpy.run_path(str(path), run_name="__main__")
    assert "keeps all laws" in capsys.readouterr().out
    lines = path.read_text().split("@dataclass")[1].split("if __name__")[0].splitlines()
    assert len([line for line in lines if line.strip()]) < 30


@pytest.mark.long
def test_the_notebook_compares_compressors_at_equal_bytes() -> None:
    cells = json.loads((EXAMPLES / "sweep.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    last = names["rounds"].groupby("compressor")[["accuracy", "cumulative_uplink_bytes"]].last()
    plain = last.loc["Identity()"]
    for compressor in names["COMPRESSORS"][1:]:
        assert last.loc[compressor, "accuracy"] > 0.7
        assert last.loc[compressor, "cumulative_uplink_bytes"] < plain["cumulative_uplink_bytes"] / 8
    assert names["figure"].axes[1].get_xscale() == "log"
