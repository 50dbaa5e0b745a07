"""Where the code lies: the library in its own folder; the rooms within it in a wheel, beside it in a checkout.

Both are imported alike, `fl_mlmc.clients`, so an installed package takes one name (docs/decisions/0018).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

LIBRARY = "fl_mlmc"
ROOMS = ("clients", "deploy", "simulations", "strategies")


def beside(path: Sequence[str]) -> list[str]:
    """The folders to add to the package's `path` so that its rooms are found; none where they lie within."""
    home = Path(path[0])
    return [] if (home / ROOMS[0]).is_dir() else [str(home.parent)]


def folder(room: str) -> Path:
    """The folder of a room, or of the library; StopIteration for a room that is not here."""
    home = Path(__file__).parent
    if room == LIBRARY:
        return home
    return next(place / room for place in (home, home.parent) if (place / room / "__init__.py").is_file())


def folders() -> list[Path]:
    """The library's folder and those of the rooms that are here: Flower's bundle leaves some out."""
    home = Path(__file__).parent
    places = (place / room for room in ROOMS for place in (home, home.parent))
    return [home, *(place for place in places if (place / "__init__.py").is_file())]


def files(room: str, pattern: str = "*.py") -> Iterator[tuple[str, Path]]:
    """The files of a room or of the library in order: names as "clients/data.py", the same wherever they lie."""
    home = folder(room)
    for path in sorted(home.rglob(pattern)):
        name = path.relative_to(home)
        if room != LIBRARY or name.parts[0] not in ROOMS:
            yield f"{room}/{name.as_posix()}", path
