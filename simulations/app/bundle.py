"""The app's own files, as Flower bundles them and Ray clusters get them."""

import shutil
from importlib import metadata
from pathlib import Path

import tomli_w

import fl_mlmc
from fl_mlmc.rooms import LIBRARY, files
from fl_mlmc.run.config import RunConfig

PACKAGES = (LIBRARY, "clients", "simulations", "strategies")
SERVER_APP, CLIENT_APP = "fl_mlmc.simulations.app.server_app:app", "fl_mlmc.clients.client_app:app"


def stage_app(target: Path) -> Path:
    """The folder of a Flower app that runs this very code, made at `target`; the rooms lie within the library.

    Nothing but the imported package is needed, so an installed one serves as well as a checkout.
    """
    for package in PACKAGES:
        for pattern in ("*.py", "*.toml"):
            for name, path in files(package, pattern):
                copy = target / (name if package == LIBRARY else f"{LIBRARY}/{name}")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
    (target / "pyproject.toml").write_text(tomli_w.dumps(_pyproject()), encoding="utf-8")
    return target


def _pyproject() -> dict[str, object]:
    app = {
        "publisher": "fl-mlmc",
        "fab-include": [f"{LIBRARY}/**/*.py", f"{LIBRARY}/**/*.toml"],
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
