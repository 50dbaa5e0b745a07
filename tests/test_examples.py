"""Examples run as their pages say, and are as short as they promise."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.simulations.app.launch import run
from fl_mlmc.simulations.cli import app

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def test_a_ladder_of_ones_own_takes_less_than_thirty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "own-compressor" / "ladder.py"
    runpy.run_path(str(path), run_name="__main__")
    assert "keeps all laws" in capsys.readouterr().out
    lines = path.read_text().split("@dataclass")[1].split("if __name__")[0].splitlines()
    assert len([line for line in lines if line.strip()]) < 30


def runs(arguments: list[str], runs_dir: Path) -> Path:
    """The directory of the run that the command makes, shortened to a few clients."""
    few = {"engine": "local", "num-rounds": 2, "num-clients": 6, "clients-per-round": 4, "local-epochs": 1}
    settings = [f"--set={key}={value}" for key, value in {**few, "runs-dir": runs_dir, "run-name": "mine"}.items()]
    done = CliRunner().invoke(app, [*arguments, *settings])
    assert done.exit_code == 0, done.output
    return runs_dir / "mine"


def test_the_ladder_of_the_page_compresses_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "compressors.md").read_text()
    line = next(line for line in re.findall(r"^fl-mlmc (run .*)$", page, re.M) if "ladder.py" in line)
    monkeypatch.chdir(ROOT)
    directory = runs(shlex.split(line), tmp_path)
    assert read_clients(directory)["level"].notna().all()
    assert "ladder.py':Stretches" in (text := (directory / "run.json").read_text()) or "ladder.py:Stretches" in text


@pytest.mark.parametrize("study", ["own-model/study.toml", "own-compressor/study.toml"])
def test_a_study_runs_from_its_own_folder(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXAMPLES / study
    monkeypatch.chdir(path.parent)
    directory = runs(["run", path.name], tmp_path)
    assert read_rounds(directory)["accuracy"].between(0, 1).all()
    assert (read_clients(directory)["status"] == "ok").all()


def test_rents_are_told_from_a_table_of_ones_own_by_function_and_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES / "own-table")
    done = run("study.toml", runs_dir=tmp_path, quiet=True)
    assert done.rounds["mae"].iloc[-1] < 0.75 * done.rounds["mae"].iloc[0]
    assert done.rounds["clients_mae_worst"].iloc[-1] > done.rounds["clients_mae"].iloc[-1]
    columns = {"targets": "rent", "features": "size,age,floor,has_lift", "test_share": 0.2, "partition": "by:town"}
    run("study.toml", dataset="flats.csv", learning_rate=1e-6, num_rounds=1, runs_dir=tmp_path, quiet=True, **columns)


def test_the_table_of_the_example_is_what_its_maker_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = runpy.run_path(str(EXAMPLES / "own-table" / "flats.py"))
    monkeypatch.setitem(names["make"].__globals__, "FLATS", tmp_path / "flats.csv")
    names["make"]()
    assert (tmp_path / "flats.csv").read_bytes() == (EXAMPLES / "own-table" / "flats.csv").read_bytes()
