"""Parts of the user's own: "ladder.py:Stretches" or "my_study.ladders:Stretches" names an object in a file.

>>> [str(part) for part in references("MLMC(ladder.py:Stretches(length=10))")]
['ladder.py:Stretches']

Whose process it is decides where files are looked for. In the user's own, from the folder it stands in and then along
`sys.path`. In one that runs an app (a device, Flower's, a worker of a Ray cluster) in that app alone, whatever the text
says: a config from elsewhere cannot make it import what its app did not bring (SECURITY.md).
"""

import ast
import importlib
import importlib.util
import re
import sys
import sysconfig
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from .rooms import LIBRARY, folder, folders

LONGEST_TEXT = 2000
"""Characters that a text may have; no longer one is looked at."""
INDEX = "own.toml"
"""The file of an app that says which of the user's files it brought: their paths at home, and where they lie here."""
SAID_OF = "__fl_mlmc_reference__"
"""What a part of one's own is told by, noted on it: its text is `repr`'s, and other processes find it by that."""

_NAME = r"[^\W\d]\w*"
_REFERENCE = re.compile(
    rf"""
    (?P<quoted> '[^'\n]*\.py' | "[^"\n]*\.py" ) : (?P<a>{_NAME})
    | '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*"                          # a text: nothing in it is a reference
    | (?<![^'"(),=:\[\]{{}}\n]) (?P<file> \s*(?:[A-Za-z]:[\\/])? [^'"(),=:\[\]{{}}\n]* ) (?<=\.py) : (?P<b>{_NAME})
    | (?<![\w./\\:~-]) (?P<module> {_NAME}(?:\.{_NAME})* ) : (?P<c>{_NAME})
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Reference:
    """`name` in the file or module `where`. `str` is its text, the path in quotes if it would not be read without."""

    where: str
    name: str

    def __str__(self) -> str:
        text = f"{self.where}:{self.name}"
        match = _REFERENCE.fullmatch(text)
        return text if match and not match["quoted"] else f"{self.where!r}:{self.name}"


class References(Protocol):
    """Which references may be followed."""

    def __contains__(self, reference: object, /) -> bool:
        """Whether this one may."""
        ...


class _Every:
    def __contains__(self, reference: object, /) -> bool:
        return True


EVERY: References = _Every()
"""All of them: for texts of the user's own, and of the server whose app this process runs."""


def references(text: str) -> list[Reference]:
    """The parts of one's own that a text names, in order."""
    return list(_split(text)[1].values())


def placed(text: str) -> tuple[str, Mapping[str, Reference]]:
    """The text with a plain name in the place of each reference, and which reference each of these names stands for."""
    return _split(text)


@dataclass(frozen=True)
class Source:
    """A file of the user's own. `home`: its path where it was written; `path`: where it lies here."""

    home: str
    path: Path

    @property
    def root(self) -> Path:
        """The folder that its neighbours are imported from: the first above it that is no package."""
        return next(above for above in self.path.parents if not (above / "__init__.py").is_file())

    @property
    def is_packed(self) -> bool:
        """Whether it lies in a package."""
        return self.root != self.path.parent

    def files(self) -> list[Path]:
        """The file, and the neighbours that it and they import: what must be there to load it. Packages as a whole."""
        found: dict[Path, None] = {}
        waiting = _package(self.root / self.path.relative_to(self.root).parts[0]) if self.is_packed else [self.path]
        while waiting:
            file = waiting.pop()
            if file not in found:
                found[file] = None
                for top in _imported(file, _version(file)):
                    waiting += _package(self.root / top)
        return sorted(found)

    def neighbours(self) -> dict[str, Path]:
        """The files that plain imports from `root` find, by the names that they are imported by."""
        tops = {file.relative_to(self.root).parts[0] for file in self.files() if file != self.path or self.is_packed}
        return {Path(top).stem: _top(self.root / Path(top).stem) for top in sorted(tops)}


class App:
    """The app that this process runs: files of the user's own come from it alone."""

    def __init__(self, place: Path) -> None:
        self.place = place
        index = place / INDEX
        self.brought: Mapping[str, str] = tomllib.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}

    def source(self, where: str) -> Source:
        """The file that `where` names in it; ValueError if it brought none of that name."""
        for name in [self.brought[where]] if where in self.brought else _names(where):
            path = (self.place / name).absolute()
            if path.is_file() and path.resolve().is_relative_to(self.place.resolve()):
                return Source(where, path)
        raise ValueError(
            f"there is no {where!r} in the app that runs here: parts of one's own come with the app and from nowhere "
            "else. `fl-mlmc run` brings them along; an app that `flwr run` bundles needs them among its files"
        )

    def home(self, path: Path) -> str:
        """Where a file of the app was written, as far as it says."""
        name = path.relative_to(self.place).as_posix()
        return next((home for home, copy in self.brought.items() if copy == name), name)


def running_app() -> App | None:
    """The app that this process runs, or None in a process of the user's own."""
    home = folder(LIBRARY).parent
    if (home / INDEX).is_file():
        return App(home)
    for place in map(Path, sys.path):  # Flower unpacks apps there; such a one imports an installed library
        if place.parent.name == "apps" and (place / "pyproject.toml").is_file():
            return App(place)
    return None


def find(where: str) -> Source:
    """The file that a path ending in .py, or a module's name, stands for; ValueError that says where it was not."""
    if app := running_app():
        return app.source(where)
    places = [Path.cwd(), *(Path(place or ".").absolute() for place in sys.path)]
    paths = (place / Path(name).expanduser() for place in places for name in _names(where))
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        hint = "" if re.fullmatch(r"[\w./\\~-]+", where) else "; a path with brackets or commas stands in quotes"
        raise ValueError(
            f"there is no file {' or '.join(map(repr, _names(where)))} in {Path.cwd()}, where paths and modules are "
            f"looked for first, nor along sys.path{hint}"
        )
    if any(path.is_relative_to(place) for place in _installed()):
        raise ValueError(
            f"{where!r} is an installed package ({path}), and other machines are not told to import those: name a "
            "file of your own that imports it"
        )
    return Source(str(path), path)


def sources(texts: Iterable[str]) -> list[Source]:
    """The files that texts name, each once."""
    return list(dict.fromkeys(find(reference.where) for text in texts for reference in references(text)))


def files(texts: Iterable[str]) -> list[tuple[str, Path]]:
    """All files that the parts in texts are made of, neighbours too: the path at home of each, and where it lies."""
    app = running_app()
    paths = {path for source in sources(texts) for path in source.files()}
    return sorted((app.home(path) if app else str(path), path) for path in paths)


def versions(text: str) -> tuple[Any, ...]:
    """What the files are that a text names: it changes when one of them, or a neighbour, does. For keys of caches."""
    return tuple(_versions(find(reference.where)) for reference in references(text))


def absolute(text: str) -> str:
    """The text with each reference by the absolute path of its file, for processes that stand elsewhere.

    ValueError if there is no such file. What an app brought is named by its path at home already.
    """
    if running_app() is not None:
        return text
    plain, named = _split(text)
    for place, reference in named.items():
        plain = plain.replace(place, str(Reference(str(find(reference.where).path), reference.name)), 1)
    return plain


def load(reference: Reference) -> Any:
    """The object that a reference names; loaded anew when its file, or a neighbour that it imports, has changed.

    ValueError if there is none; what its file raises is told with the user's line first.
    """
    source = find(reference.where)
    module = _loaded(source, _versions(source))
    if not hasattr(module, reference.name):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ValueError(
            f"{source.path} has no object {reference.name!r}; it defines {', '.join(sorted(own)) or 'nothing'}"
        )
    found = getattr(module, reference.name)
    if isinstance(found, type):
        setattr(found, SAID_OF, str(Reference(source.home, reference.name)))
    return found


def name_of(kind: type, otherwise: str = "") -> str:
    """What texts call a class: `otherwise`, or its own name; one that was found by a reference, by that."""
    return str(vars(kind).get(SAID_OF, otherwise or kind.__name__))


def blamed(error: BaseException) -> str:
    """What an error says, after the file and line of the user's that it comes from, if it does.

    >>> "/home/me/model.py, line 12, in net: NameError: name 'x' is not defined"  # doctest: +SKIP
    """
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    line = _line(error)
    return f"{line}: {said}" if line else said


def is_users(error: BaseException) -> bool:
    """Whether an error comes from a line of the user's."""
    return bool(_line(error))


def _line(error: BaseException) -> str:
    ours = folders() + _installed()
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = Path(frame.f_code.co_filename)
        if path.is_file() and not any(path.is_relative_to(place) for place in ours):
            within = "" if frame.f_code.co_name == "<module>" else f", in {frame.f_code.co_name}"
            return f"{path}, line {line}{within}"
    return ""


def _split(text: str) -> tuple[str, dict[str, Reference]]:
    named: dict[str, Reference] = {}
    if ":" not in text or len(text) > LONGEST_TEXT:
        return text, named

    def place(match: re.Match[str]) -> str:
        name = match["a"] or match["b"] or match["c"]
        if name is None:
            return match[0]
        where = match["quoted"][1:-1] if match["quoted"] else (match["file"] or match["module"]).strip()
        named[mark := f"__own_{len(named)}__"] = Reference(where, name)
        return mark

    return _REFERENCE.sub(place, text), named


def _names(where: str) -> Sequence[str]:
    """The files that a path or a module's name may stand for."""
    if where.endswith(".py"):
        return [where]
    path = where.replace(".", "/")
    return [f"{path}.py", f"{path}/__init__.py"]


def _installed() -> list[Path]:
    paths = sysconfig.get_paths()
    # An environment may see packages of another: the system's, the user's, or those that a path file names.
    seen = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    return [Path(place) for place in [*(paths[name] for name in ("purelib", "platlib", "stdlib", "platstdlib")), *seen]]


def _version(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _versions(source: Source) -> tuple[tuple[Path, tuple[int, ...]], ...]:
    return tuple((file, _version(file)) for file in source.files())


@lru_cache(maxsize=256)
def _imported(file: Path, version: tuple[int, ...]) -> list[str]:
    """The top names that a file imports and that may be its neighbours."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # to be told when it is loaded
        return []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    tops = dict.fromkeys(name.partition(".")[0] for name in names)
    return [top for top in tops if top != LIBRARY and top not in sys.stdlib_module_names]


def _top(stem: Path) -> Path:
    """The file of a module or package, given its path without an ending."""
    return stem / "__init__.py" if (stem / "__init__.py").is_file() else stem.with_name(f"{stem.name}.py")


def _package(stem: Path) -> list[Path]:
    """All files of the module or package `stem`; none if there is no such neighbour."""
    top = _top(stem)
    return sorted(stem.rglob("*.py")) if top.name == "__init__.py" else [top] if top.is_file() else []


class _Finder(MetaPathFinder):
    """Imports neighbours by their names, before anything else of these names."""

    def __init__(self, neighbours: Mapping[str, Path]) -> None:
        self._neighbours = neighbours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._neighbours.get(fullname)
        if file is None:
            return None
        return importlib.util.spec_from_file_location(fullname, file)


@contextmanager
def _importable(neighbours: Mapping[str, Path]) -> Iterator[None]:
    """Let the neighbours be imported, and leave no trace: another study has a `model.py`, too."""

    def taken() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in neighbours]

    before = {name: sys.modules.pop(name) for name in taken()}
    finder = _Finder(neighbours)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in taken():
            del sys.modules[name]
        sys.modules.update(before)


@lru_cache(maxsize=64)
def _loaded(source: Source, versions: tuple[tuple[Path, tuple[int, ...]], ...]) -> ModuleType:
    importlib.invalidate_caches()
    with _importable(source.neighbours()):
        try:
            if source.is_packed:
                return importlib.import_module(".".join(source.path.relative_to(source.root).with_suffix("").parts))
            return _executed(source)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{blamed(error)} (while it was imported)") from error


def _executed(source: Source) -> ModuleType:
    spec = importlib.util.spec_from_file_location(source.home, source.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.home] = module  # dataclasses look their module up
    module.__file__ = source.home  # what a file reads beside itself lies where it was written
    spec.loader.exec_module(module)
    return module
