"""`fl-mlmc new`: a folder that runs as it stands, from an installed wheel, with no checkout in sight."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from fl_mlmc.frames import read_rounds
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.cli import app
from fl_mlmc.simulations.lab.study import Study

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "compare.toml", "data.py", "model.py", "pyproject.toml", "study.toml"]


def test_a_new_study_has_all_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-own"
    done = CliRunner().invoke(app, ["new", str(folder)])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert f"cd {folder} && fl-mlmc run study.toml" in done.output
    assert (folder / "README.md").read_text().startswith("# my-own\n")
    flower = tomllib.loads((folder / "pyproject.toml").read_text())
    assert flower["project"]["name"] == "my-own"
    monkeypatch.chdir(folder)
    scenario = RunConfig.from_flower(tomllib.loads((folder / "study.toml").read_text()))
    assert flower["tool"]["flwr"]["app"]["config"] == scenario.to_flower()
    study = Study.read(Path("compare.toml"))
    assert len(study.trials) == 9
    assert study.trials[0].config.engine.name == "local"


@pytest.mark.parametrize(
    ("name", "said"),
    [("2nd", "no name for a Flower app"), ("my_study", "no name for a Flower app"), ("x" * 40, "at most 39")],
)
def test_a_name_that_flower_refuses_is_refused(tmp_path: Path, name: str, said: str) -> None:
    done = CliRunner().invoke(app, ["new", str(tmp_path / name)])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not (tmp_path / name).exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "model.py").write_text("mine")
    done = CliRunner().invoke(app, ["new", str(tmp_path / "study")])
    assert done.exit_code == 2
    assert "not empty" in done.output
    assert (tmp_path / "study" / "model.py").read_text() == "mine"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds our wheel and, by a path file, what it depends on."""
    home = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *quiet, "--wheel-dir", str(home / "dist"), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], check=True)
    python = home / "venv" / "bin" / "python"
    # A path file within a folder on the path is not read, so the editable install there stays out of sight.
    (packages,) = (home / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = (home / "dist").glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *quiet, str(wheel)], check=True)
    for script in Path(sys.executable).parent.glob("fl*r*"):  # flwr, flower-superlink, …
        copy = python.parent / script.name
        copy.write_text(f"#!{python}\n" + script.read_text().partition("\n")[2])
        copy.chmod(0o755)
    return python.parent


def run(binaries: Path, folder: Path, *words: str) -> pd.DataFrame:
    """The rounds of a run of the installed command in `folder`, where a file of the user's shadows nothing."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{binaries}{os.pathsep}{env['PATH']}"
    command = [str(binaries / "fl-mlmc"), "run", "study.toml", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = (folder / "runs").iterdir()
    return read_rounds(directory.rename(folder / words[1].partition("=")[2]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_runs_from_the_wheel_alike_on_all_engines(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-study"
    subprocess.run([str(installed / "fl-mlmc"), "new", str(folder)], check=True, capture_output=True)
    (folder / "clients.py").write_text("raise ImportError('the user has a file of that name')\n")
    few = ("--set", "num-rounds=4")
    seen = {engine: run(installed, folder, "--set", f"engine={engine}", *few) for engine in ("local", "ray", "flower")}
    assert seen["local"]["accuracy"].iloc[-1] > 0.7
    for engine in ("ray", "flower"):
        assert seen[engine]["accuracy"].tolist() == seen["local"]["accuracy"].tolist()
        assert seen[engine]["uplink_bytes"].tolist() == seen["local"]["uplink_bytes"].tolist()
