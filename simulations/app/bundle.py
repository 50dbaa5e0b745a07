"""The app's own files, as Flower bundles them and Ray clusters get them."""

import shutil
from pathlib import Path

from fl_mlmc.run.config import ConfigError

APP = Path(__file__).parents[2]
"""The folder that `flwr run` takes for the app."""

PACKAGES = ("clients", "fl_mlmc", "simulations", "strategies")


def stage_app(target: Path) -> Path:
    """A copy of the app's own files; in the checkout Flower would first walk through .venv and all else there.

    ConfigError where this is no checkout.
    """
    if not (APP / "pyproject.toml").is_file():
        raise ConfigError(
            f"this engine runs the app's folder, and {APP} has no pyproject.toml: "
            "install from a checkout (`pip install -e .`), or use engine = 'local'"
        )
    target.mkdir()
    shutil.copy(APP / "pyproject.toml", target)
    for package in PACKAGES:
        shutil.copytree(APP / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target
