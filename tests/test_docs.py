"""Pages keep their word: links lead somewhere, snippets parse, commands exist, sentences are short."""

import ast
import re
import runpy
import shlex
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted(DOCS.rglob("*.md"))]
MOST_WORDS = 30
"""In a sentence of a page that teaches."""

PLAIN = [ROOT / "README.md", *(page for page in PAGES if DOCS in page.parents and page.parent.name != "decisions")]
"""Pages that teach, so their sentences are short: all of docs/ but the decision notes."""

FENCE = re.compile(r"^([ \t]*)(`{3,})(\w*)[^\n]*\n(.*?)^\1\2[ \t]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def each(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT).as_posix())


def snippets(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page in one of these languages."""
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match.group(3) in languages:
            yield textwrap.dedent(match.group(4))


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may name after its "#", as GitHub and the site make them of headings."""
    titles = re.findall(r"^#+ +(.*?)[ #]*$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@each(PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    lost = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@each(PAGES)
def test_every_snippet_parses(page: Path) -> None:
    for text in snippets(page, "python"):
        ast.parse(text)
    for text in snippets(page, "toml"):
        table = tomllib.loads(text)
        if not any(isinstance(value, dict) for value in table.values()):  # a run config is flat
            assert set(table) <= set(RunConfig.keys())
    shell = "\n".join(snippets(page, "sh", "bash"))
    told = subprocess.run(["bash", "-n"], input=shell, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, ""), told.stderr


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command that a page names: in shell snippets, and in quotes within its prose."""
    lines = [line for text in snippets(page, "sh", "bash") for line in text.replace("\\\n", " ").splitlines()]
    lines += [
        text for text in re.findall(r"`([^`]+)`", prose(page)) if text.startswith(("fl-mlmc ", "make ", "python "))
    ]
    for line in lines:
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:
            continue  # a quote that spans lines is no command of ours
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set("|&;()"):
                yield command
                command = []
            else:
                command.append(word)


@cache
def fl_mlmc_command() -> click.Command:
    return typer.main.get_command(app)


def refusal(words: list[str]) -> str:
    """Why a command cannot be run as it stands; "" where it can, or where it is none of ours."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    program = words[0].rpartition("/")[2] if words else ""
    if program == "fl-mlmc":
        return refused_by(fl_mlmc_command(), [word for word in words[1:] if word != "…"])
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        return "".join(word for word in words[1:2] if word not in targets)
    if program == "python" and len(words) > 1 and words[1].startswith(("benchmarks/", "docs/")):
        return "" if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    return ""


def refused_by(command: click.Command, words: list[str]) -> str:
    """What is wrong with the words after a command: a subcommand, an option or a key that does not exist."""
    if isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            return "".join(word for word in words[:1] if word not in known)
        inner = command.get_command(click.Context(command), words[0])
        return refused_by(inner, words[1:]) if inner else f"no command {words[0]!r}"
    try:
        given, _, _ = command.make_parser(click.Context(command)).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    keys = [str(setting).partition("=")[0] for setting in given.get("settings") or []]
    return ", ".join(key for key in keys if key not in {*RunConfig.keys(), "KEY", "key"})


@each(PAGES)
def test_every_command_exists_with_its_options(page: Path) -> None:
    assert [(words, why) for words in commands(page) if (why := refusal(words))] == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("fl-mlmc run study.toml --set seed=1", ""),
        ("A=1 .venv/bin/fl-mlmc report runs/A --out both.png", ""),
        ("fl-mlmc deploy run DIR --resume runs/A", ""),
        ("fl-mlmc --version", ""),
        ("ls -l", ""),
        ("fl-mlmc walk", "no command 'walk'"),
        ("fl-mlmc run --quickly", "--quickly"),
        ("fl-mlmc run --set sede=1", "sede"),
        ("make haste", "haste"),
        ("python benchmarks/gone.py", "no file benchmarks/gone.py"),
    ],
)
def test_a_command_that_is_gone_is_found(line: str, why: str) -> None:
    assert why in refusal(shlex.split(line))
    assert bool(why) == bool(refusal(shlex.split(line)))


def sentences(text: str) -> Iterator[str]:
    """The sentences of paragraphs, list items and table cells; a quoted piece of code is one word."""
    text = re.sub(r"^(?: {4,}|:::|#).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "Code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[*+-]|\d+\.) )|\n(?=\|)", text)
    cells = [cell for block in blocks for cell in (block.split("|") if block.startswith("|") else [block])]
    for cell in cells:
        yield from re.split(r"(?<=[.!?:])[\"')*]*\s+(?=[\"'(*\[]*[A-ZΑ-Ω0-9])", " ".join(cell.split()))


def num_words(sentence: str) -> int:
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


@each(PLAIN)
def test_no_sentence_is_long(page: Path) -> None:
    assert [text for text in sentences(prose(page)) if num_words(text) > MOST_WORDS] == []


def test_a_long_sentence_is_found_and_a_table_is_read_by_the_cell() -> None:
    long = " ".join(["word"] * MOST_WORDS)
    assert [num_words(text) for text in sentences(f"A {long}.\nB {long}. C.\n\n* {long}\n* {long}")] == [
        31,
        31,
        1,
        30,
        30,
    ]
    assert max(num_words(text) for text in sentences(f"| `a b c` | {long} |\n|---|---|\n| {long} | x |")) == MOST_WORDS


def test_every_name_of_the_reference_exists() -> None:
    names = re.findall(
        r"^::: (\S+)", "".join(page.read_text() for page in (DOCS / "reference").glob("*.md")), re.MULTILINE
    )
    assert len(names) > 40
    homes = [name.rpartition(".") for name in names]
    assert [name for home, _, name in homes if not hasattr(import_module(home), name)] == []


def test_start_here_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = "".join(snippets(DOCS / "index.md", "python"))
    exec(compile(code, "index.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"# ([\d,]+ bytes.*)", code)


def test_the_table_of_keys_is_current_and_its_pages_tell_of_them() -> None:
    tool = runpy.run_path(str(DOCS / "tools" / "keys.py"))
    page_of = tool["page_of"]
    assert tool["table"]() == (DOCS / "keys.md").read_text(encoding="utf-8"), "run `python docs/tools/keys.py`"
    homes = RunConfig.homes()
    assert [key for key, home in homes.items() if not home.field.description] == []
    told = {page: (DOCS / page).read_text(encoding="utf-8") for page in map(page_of, homes)}
    assert [key for key in homes if not re.search(rf"(?<![\w-]){key}(?![\w-])", told[page_of(key)])] == []
