"""The app's own files, as Flower bundles them and Ray clusters get them."""

import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import tomli_w

import fl_mlmc
from fl_mlmc import own
from fl_mlmc.own import INDEX
from fl_mlmc.rooms import LIBRARY, files
from fl_mlmc.run.config import ConfigError, RunConfig

OWN = "own"
"""The folder of an app with the files of the user's own."""
PACKAGES = (LIBRARY, "clients", "simulations", "strategies")
SERVER_APP, CLIENT_APP = "fl_mlmc.server_app:app", "fl_mlmc.client_app:app"


def stage_app(target: Path, config: RunConfig | None = None) -> Path:
    """The folder of a Flower app that runs this very code, made at `target`; the rooms lie within the library.

    Nothing but the imported package is needed, so an installed one serves as well as a checkout. The files of the
    user's own that `config` names go along, and what runs there takes such files from nowhere else (`fl_mlmc.own`).
    """
    for package in PACKAGES:
        for pattern in ("*.py", "*.toml"):
            for name, path in files(package, pattern):
                copy = target / (name if package == LIBRARY else f"{LIBRARY}/{name}")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
    texts = config.own_texts().values() if config else ()
    index = _bring(own.sources(texts), target / OWN)
    (target / INDEX).write_text(tomli_w.dumps(index), encoding="utf-8")
    (target / "pyproject.toml").write_text(tomli_w.dumps(_pyproject(index.values())), encoding="utf-8")
    return target


def _bring(sources: Iterable[own.Source], target: Path) -> dict[str, str]:
    """Copy files of the user's own, each study's as it lies; where each was, and where in the app it is."""
    places: dict[Path, Path] = {}
    index: dict[str, str] = {}
    for source in sources:
        place = places.setdefault(source.root, target / str(len(places)))
        for file in source.files():
            copy = place / file.relative_to(source.root)
            if fnmatch(file.name, "test_*.py") or fnmatch(file.name, "*_test.py"):
                raise ConfigError(f"{file} cannot travel: Flower leaves out test_*.py and *_test.py; rename it")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            index[str(file)] = copy.relative_to(target.parent).as_posix()
    return index


def _pyproject(own_files: Iterable[str]) -> dict[str, object]:
    app = {
        "publisher": "fl-mlmc",
        "fab-include": [f"{LIBRARY}/**/*.py", f"{LIBRARY}/**/*.toml", INDEX, *own_files],
        "components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
        "config": RunConfig().to_flower(),
    }
    project = {"name": "fl-mlmc", "version": fl_mlmc.__version__, "dependencies": _dependencies()}
    return {"project": project, "tool": {"flwr": {"app": app}}}


def _dependencies() -> list[str]:
    """What the package asks for, extras left out; Flower alone where it is imported from a folder, not installed."""
    try:
        asked = metadata.requires("fl-mlmc") or []
    except metadata.PackageNotFoundError:
        asked = ["flwr"]
    return [line for line in asked if "extra ==" not in line]
