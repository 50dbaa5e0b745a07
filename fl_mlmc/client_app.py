"""Flower's way in to what a client does, on a device or simulated; pyproject.toml names `fl_mlmc.client_app:app`.

Flower looks both apps up in two threads at once. The package must be whole before a room is looked for: its path is
(`rooms`), and a statement that imports it waits for that, where one that imports a room does not.
"""

import fl_mlmc  # noqa: F401 - waits until the package is whole
from fl_mlmc.clients.client_app import app as _app

app = _app
