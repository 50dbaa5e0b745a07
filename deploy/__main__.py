"""`python -m deploy`, on devices that have no `fl-mlmc` command."""

from .cli import app

app(prog_name="python -m deploy")
