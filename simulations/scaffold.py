"""`fl-mlmc new`: the folder of a study of one's own, which runs as it stands."""

import shutil
import tomllib
from pathlib import Path

import tomli_w

from fl_mlmc.run.config import ConfigError, RunConfig

from .app.bundle import CLIENT_APP, SERVER_APP

STUDY = Path(__file__).parent / "study"
"""What a new folder holds, as files that are run and checked like all others."""
SCENARIO, NAME = "study.toml", "my-study"
HEAD = "# Makes this folder a Flower app: `flwr run .` reads the keys here, `fl-mlmc run` those of study.toml."
LONGEST_NAME = 39
"""Of an app, by Flower."""


def scaffold(folder: Path) -> list[Path]:
    """Make `folder` with a model, data, a scenario and a pyproject.toml that makes it a Flower app; the files.

    ConfigError if it holds files already, or its name is none that Flower takes.
    """
    name = folder.resolve().name
    if not (name[:1].isalpha() and name.replace("-", "").isalnum() and name.isascii() and len(name) <= LONGEST_NAME):
        raise ConfigError(
            f"{name!r} is no name for a Flower app: expected letters, digits and hyphens, a letter first, "
            f"at most {LONGEST_NAME}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and not empty: choose a new name")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(STUDY.iterdir()):
        if path.suffix in (".py", ".toml", ".md"):
            shutil.copyfile(path, folder / path.name)
    readme = folder / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
    (folder / "pyproject.toml").write_text(_pyproject(name), encoding="utf-8")
    return sorted(folder.iterdir())


def _pyproject(name: str) -> str:
    """The file that makes the folder a Flower app, with every key of a run as the scenario has it."""
    scenario = tomllib.loads((STUDY / SCENARIO).read_text(encoding="utf-8"))
    app = {
        "publisher": "me",
        "components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
        "config": RunConfig().to_flower() | scenario,
    }
    project = {"name": name, "version": "0.1.0", "dependencies": ["fl-mlmc"]}
    return f"{HEAD}\n{tomli_w.dumps({'project': project, 'tool': {'flwr': {'app': app}}})}"
