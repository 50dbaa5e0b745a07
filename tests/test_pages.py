"""Pages that say where things are: every path that they name is there, and holds the names beside it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURE, CONTRIBUTING = (ROOT / name for name in ("docs/architecture.md", "CONTRIBUTING.md"))
PACKAGES = ("fl_mlmc", "clients", "strategies", "simulations", "deploy")

QUESTIONS = 10
"""Of the kind "where is …?", that the architecture page answers."""


def defined(tree: ast.Module) -> set[str]:
    """What a module defines at its top, and "Class.method" of its classes."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def missing(line: str, root: Path = ROOT) -> list[str]:
    """The paths in quotes that `line` names and that are not there, and the names beside them that no file has.

    A name in quotes goes with the Python file that is named before it.
    """
    found, names = [], None
    for quoted in re.findall(r"`([^`\s]+)`", line):
        if "/" in quoted:
            path = root / quoted
            names = defined(ast.parse(path.read_text())) if path.suffix == ".py" and path.is_file() else None
            found += [] if path.exists() else [quoted]
        elif names is not None and re.fullmatch(r"[\w.]+", quoted) and quoted not in names:
            found.append(quoted)
    return found


def answers() -> list[str]:
    """The rows of the table of questions."""
    table = ARCHITECTURE.read_text(encoding="utf-8").partition("## Where is …?")[2]
    return [line for line in table.splitlines() if line.startswith("| ")][1:]


def paragraphs(page: Path) -> list[str]:
    """A page's list items and paragraphs, each on one line."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [" ".join(part.split()) for part in re.split(r"\n(?=\n|\* |\| )", text) if part.strip()]


@pytest.mark.parametrize("line", answers())
def test_an_answer_is_where_the_page_says(line: str) -> None:
    assert line.count("`") >= 4
    assert missing(line) == []


def test_the_page_answers_every_question() -> None:
    assert len(answers()) == QUESTIONS


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=lambda page: page.name)
def test_every_path_and_name_in_a_page_is_there(page: Path) -> None:
    assert [name for line in paragraphs(page) for name in missing(line)] == []


def drawn(page: Path) -> Iterator[str]:
    """The paths of the drawing of rooms: a folder's parts stand two spaces to its right."""
    drawing = page.read_text(encoding="utf-8").partition("## The rooms")[2].split("```")[1]
    parents: list[str] = []
    for line in drawing.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first, _, said = line.strip().partition(" ")
        parents[depth:] = [first]
        yield "".join(parents)
        folder = "".join(part for part in parents if part.endswith("/"))
        yield from (folder + name for name in re.findall(r"[\w/]+\.(?:py|md)\b", said))


def test_what_is_drawn_is_there_and_every_folder_is_drawn() -> None:
    paths = set(drawn(ARCHITECTURE))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {f"{folder.relative_to(ROOT)}/" for folder in folders} <= paths


def test_the_way_of_an_update_names_files_that_are_there() -> None:
    way = ARCHITECTURE.read_text(encoding="utf-8").partition("## One update's way")[2].split("```")[1]
    named = re.findall(r"[a-z_]+/[\w/]+\.py", way)
    assert len(named) >= 12
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_a_path_or_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "part.py").write_text("KEYS: dict = {}\nclass Part:\n    def method(self): ...\n")
    assert missing("`room/`, `room/part.py`: `KEYS`, `Part.method`", tmp_path) == []
    assert missing("`room/part.py` (`Part.gone`), `gone/part.py` (`Part`)", tmp_path) == ["Part.gone", "gone/part.py"]
