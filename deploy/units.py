"""systemd units, filled in for this machine."""

import getpass
import sys
from pathlib import Path
from string import Template

from fl_mlmc.rooms import LIBRARY, folder

TEMPLATES = Path(__file__).parent / "units"
KINDS = ("server", "node")


def unit(kind: str, directory: Path, user: str = "") -> str:
    """The text of a unit that runs `deploy KIND DIRECTORY` at boot; a path with spaces is quoted."""
    return Template((TEMPLATES / f"{kind}.service").read_text()).substitute(
        python=sys.executable,
        app=folder(LIBRARY).parent,
        directory=directory.absolute(),
        user=user or getpass.getuser(),
    )
