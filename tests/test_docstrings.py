"""Every public module, class, function and method says what it means. Public is what no leading underscore hides."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(
    path
    for package in ("fl_mlmc", "clients", "strategies", "simulations", "deploy")
    for path in (ROOT / package).rglob("*.py")
)

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(tree: ast.Module) -> list[str]:
    """The public names of a module without a docstring; "module" is the module itself, unless it is empty.

    A method that overrides another has one of its own: what is special about it, or what its caller gets.
    """
    return [name for name, node in _public(tree, "module" if tree.body else "") if not ast.get_docstring(node)]


def _public(node: Definition, name: str) -> Iterator[tuple[str, Definition]]:
    if name:
        yield name, node
    if isinstance(node, ast.Module | ast.ClassDef):
        for part in node.body:
            if isinstance(part, Definition) and not part.name.startswith("_"):
                yield from _public(part, part.name if isinstance(node, ast.Module) else f"{name}.{part.name}")


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert undocumented(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_a_name_without_a_docstring_is_found_wherever_it_is_public() -> None:
    text = '''
class Told:
    """A class."""
    def told(self): """A method."""
    def untold(self): ...
    def _private(self): ...
class Untold:
    class Inner: ...
class _Private:
    def method(self): ...
async def untold(): ...
'''
    assert undocumented(ast.parse(text)) == ["module", "Told.untold", "Untold", "Untold.Inner", "untold"]
    assert undocumented(ast.parse("")) == []
