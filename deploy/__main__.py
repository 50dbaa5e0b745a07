"""`python -m fl_mlmc.deploy`, on devices that have no `fl-mlmc` command."""

from .cli import app

app(prog_name="python -m fl_mlmc.deploy")
