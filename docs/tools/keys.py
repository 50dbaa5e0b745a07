"""Every run-config key in one table: its type, its default, its meaning, and the page that tells more.

    python docs/tools/keys.py          writes docs/keys.md

The table is made of the fields of `fl_mlmc.run.config`, so a key is described where it is defined. A test holds the
page to it.
"""

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.config.run_config import MAY_BE_OWN, Home

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "keys.md"

SECTIONS = {
    "": ("The run", "first-study.md"),
    "data": ("Data", "data.md"),
    "cohort": ("Clients and tiers", "tiers.md"),
    "training": ("Training", "first-study.md"),
    "compression": ("What travels", "schemes.md"),
    "aggregation": ("The server's step", "deploy.md"),
    "privacy": ("Differential privacy", "deploy.md"),
    "engine": ("Where clients compute", "performance.md"),
    "time": ("The simulated clock", "time.md"),
    "output": ("What a run leaves", "first-study.md"),
}
"""A section's heading, and the page for those of its keys that `PAGES` does not name."""

PAGES = {
    "compressor": "compressors.md",
    "model": "own.md",
    "objective": "data.md",
    "metrics": "data.md",
    "clients-per-round": "first-study.md",
    "server-learning-rate": "first-study.md",
    "resume": "deploy.md",
    "task": "bilevel.md",
    "problem": "bilevel.md",
    "outer-learning-rate": "bilevel.md",
    "multiplier-learning-rate": "bilevel.md",
    "outer-share": "bilevel.md",
    "client-optimizer": "own.md",
    "server-optimizer": "own.md",
    "distill": "tiers.md",
    "clip-norm": "tiers.md",
    "proximal": "rivals.md",
    "learning-rate-drops": "tiers.md",
    "learning-rate-schedule": "lab.md",
    "server-learning-rate-schedule": "lab.md",
    "early-stop": "lab.md",
    "keep-best": "lab.md",
    "masked-cross-entropy": "tiers.md",
    "average-by-label": "tiers.md",
    "weighting": "tiers.md",
    "quorum": "deploy.md",
    "over-sampling": "time.md",
    "sampling": "time.md",
    "round-timeout": "deploy.md",
    "evaluate-every": "data.md",
}

HEAD = """# Every key

A run is described by these keys. A scenario file sets some of them, and the others keep their defaults:

```toml
num-rounds = 40
compressor = "Dither(unit=1.0)"
learning-rate = 0.05
```

`--set KEY=VALUE` changes one for a single run. An unknown key or a wrong value is refused before anything starts.
Keys marked with ★ also take a part of your own, named by its file: [Your own parts](own.md).

<!-- the tables below are written by: python docs/tools/keys.py -->
"""


def table() -> str:
    """The page: a table for each section."""
    parts = [HEAD]
    homes = RunConfig.homes()
    for section, (title, _) in SECTIONS.items():
        parts += [f"\n## {title}\n", "| key | type | default | meaning | page |", "|---|---|---|---|---|"]
        parts += [_row(key, home) for key, home in homes.items() if home.section == section]
    return "\n".join(parts) + "\n"


def page_of(key: str) -> str:
    """The page that tells more of a key."""
    return PAGES.get(key, SECTIONS[RunConfig.homes()[key].section][1])


def _row(key: str, home: Home) -> str:
    field, page = home.field, page_of(key)
    meaning = (field.description or "").replace("|", "\\|")
    cells = (
        f"`{key}`{' ★' if key in MAY_BE_OWN else ''}",
        kind(field.annotation, field.metadata),
        f"`{_toml(field.default)}`",
        meaning[:1].upper() + meaning[1:],
        f"[{page.removesuffix('.md')}]({page})",
    )
    return "| " + " | ".join(cells) + " |"


def kind(annotation: Any, bounds: list[Any]) -> str:
    """A type in words, with its bounds: "whole number, ≥ 1"."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(kind(part, bounds) for part in get_args(annotation))
    word = {bool: "true or false", int: "whole number", float: "number", str: "text"}[annotation]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    said = [
        f"{sign} {_figure(limit)}"
        for bound in bounds
        for name, sign in signs.items()
        if (limit := getattr(bound, name, None)) is not None
    ]
    return ", ".join([word, *said])


def _figure(limit: float) -> str:
    power = int(limit).bit_length() - 1
    return f"2^{power}" if limit > 2**20 and limit == 2**power else f"{limit:g}"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
    print(PAGE)
