"""Notebooks run from their first cell to their last, in a folder of their own."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "examples"
QUICK = "levels"


def code(name: str) -> str:
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def played(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the notebook leaves."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with mpl.rc_context({"backend": "Agg"}):
        exec(compile(code(name), f"{name}.ipynb", "exec"), names := {})
    return names


def test_the_notebook_of_levels_shows_that_the_mean_is_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = played(QUICK, tmp_path, monkeypatch)
    assert names["mean"] == pytest.approx(names["update"].numpy(), rel=1e-5)
    biased, unbiased = (names["errors"](text) for text in ("TopK(fraction=0.05)", "MLMC(TopK(fraction=0.05))"))
    assert biased[-1] == pytest.approx(biased[0])
    assert unbiased[-1] < unbiased[0] / 3


@pytest.mark.long
def test_the_notebook_of_tiers_has_fewer_bytes_of_narrow_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = played("tiers", tmp_path, monkeypatch)
    sent = names["clients"].groupby("tier")["payload_bytes"].mean()
    assert sent["sensor"] < sent["phone"] < sent["gateway"]


@pytest.mark.long
def test_the_notebook_of_a_sweep_compares_at_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = played("sweep", tmp_path, monkeypatch)
    last = names["rounds"].groupby("compressor")["cumulative_uplink_bytes"].max()
    assert last["MLMC(TopK(fraction=0.05))"] < last["Identity()"] / 5


def test_every_notebook_is_played_here() -> None:
    played_here = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in NOTEBOOKS.glob("*.ipynb")]
    assert len(names) >= 3
    assert [name for name in names if name != QUICK and f'played("{name}"' not in played_here] == []
