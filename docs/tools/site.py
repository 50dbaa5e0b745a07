"""What the site needs beyond its pages; `mkdocs.yml` names this file as a hook.

The decision notes get a page that lists them. A page may link to a file of the repository that is no page, such as
`../examples/own-model`. On the site that file, or that folder, is a page of its own which shows the text. A page that
loads anything from another host ends the build: the site must open without a network.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SHOWN = "repository"
"""The folder of the site that holds pages of files outside docs/."""
OUTSIDE = re.compile(r"(?<=\]\()((?:\.\./)+)([^)#\s]*)")
LINK = re.compile(r"!?\[([^\]]*)\]\((?!https?:)[^)]*\)")
LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]+""")
LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "sh", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file and folder outside docs/ that a page links to."""
    targets = {
        target
        for page in files.documentation_pages()
        for path in _outside(page)
        if (target := ROOT / path).exists()  # a link to nothing stays, and ends a strict build
    }
    for target in sorted(targets):
        files.append(File.generated(config, _place(target), content=_shown(target)))
    files.append(File.generated(config, "decisions/index.md", content=_decisions()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the pages made of their targets."""
    source = page.file.src_uri
    up = "../" * source.count("/")

    def inside(match: re.Match[str]) -> str:
        target = ROOT / _named(source, match.group(0))
        return up + _place(target) if files.get_file_from_path(_place(target)) else match.group(0)

    return markdown if source.startswith(f"{SHOWN}/") else OUTSIDE.sub(inside, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads a script, a style or a picture from elsewhere."""
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host, and must not: {found.group(0)}")
    return output


def _decisions() -> str:
    """The page that lists the decision notes by their titles."""
    notes = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    titles = [note.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for note in notes]
    rows = [f"* [{title}]({note.name})" for title, note in zip(titles, notes, strict=True)]
    return "# Why things are as they are\n\nChoices that someone may question, with their reasons.\n\n" + "\n".join(
        rows
    )


def _outside(page: File) -> list[str]:
    """The paths from the repository's root that a page links to and that lie outside docs/."""
    named = [_named(page.src_uri, match.group(0)) for match in OUTSIDE.finditer(page.content_string)]
    return [path for path in named if not path.startswith("docs/")]


def _named(source: str, link: str) -> str:
    """A link of docs/`source`, as a path from the repository's root."""
    return (ROOT / "docs" / source).parent.joinpath(link).resolve().relative_to(ROOT).as_posix()


def _place(target: Path) -> str:
    """Where the site shows a file or a folder of the repository."""
    return f"{SHOWN}/{target.relative_to(ROOT).as_posix().removesuffix('.md')}.md"


def _shown(target: Path) -> str:
    name = target.relative_to(ROOT).as_posix()
    if target.suffix == ".md":
        return LINK.sub(r"\1", target.read_text(encoding="utf-8"))
    files = sorted(path for path in target.rglob("*") if path.is_file()) if target.is_dir() else [target]
    shown = [_text(path) for path in files if "__pycache__" not in path.parts]
    return f"# {name}\n\nA copy of what the repository holds.\n" + "".join(shown)


def _text(path: Path) -> str:
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        shown = zip(cells, texts, strict=True)
        parts = [
            f"```python\n{text}\n```" if cell["cell_type"] == "code" else text.replace("# ", "## ", 1)
            for cell, text in shown
        ]
        return "\n" + "\n\n".join(parts) + "\n"
    language = LANGUAGES.get(path.suffix, "text")
    return f"\n**{path.relative_to(ROOT)}**\n\n````{language}\n{path.read_text(encoding='utf-8')}\n````\n"
