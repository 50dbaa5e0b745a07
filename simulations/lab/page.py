"""A report as one HTML file: no other file and no network is needed to read it.

plotly's own script goes into the file. A content policy forbids the page to load anything. All texts are escaped: some
come from devices.
"""

from html import escape
from pathlib import Path

from fl_mlmc.run.config import ConfigError

from ..showing import Shown
from .compare import Comparison
from .facts import Facts
from .tables import tables

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 0 auto; padding: 12px 16px 60px; }
h1 { font-size: 1.6em; margin: .6em 0 .2em; } h2 { font-size: 1.2em; margin: 2em 0 .4em; }
p.note, caption { color: #555; font-size: .9em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6em 0; }
caption { text-align: left; padding: 4px 0; }
th, td { padding: 3px 14px 3px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th { color: #555; font-weight: 600; } th:first-child, td:first-child, table.left th, table.left td { text-align: left; }
td.long { white-space: normal; overflow-wrap: anywhere; }
details summary { cursor: pointer; margin: .8em 0; }
@media (max-width: 600px) { body { padding: 8px 8px 40px; font-size: 14px; } th, td { padding-right: 9px; } }
"""


def write_page(comparison: Comparison, target: Path, title: str) -> Path:
    """Write the report of `comparison` to the file `target`; ConfigError where plotly is not installed."""
    try:
        from . import figures
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("plotly"):
            raise
        raise ConfigError("an HTML report is drawn by plotly: pip install 'fl-mlmc[report]'") from None
    facts = Facts(comparison)
    drawn = [
        ("curves", figures.curves(comparison)),
        ("clients", figures.clients(facts)),
        ("levels", figures.levels(facts)),
        ("coverage", figures.coverage(facts)),
    ]
    plots: dict[str, str] = {}
    for name, figure in drawn:
        if figure is not None:
            plots[name] = figure.to_html(
                full_html=False,
                include_plotlyjs="inline" if not plots else False,
                div_id=name,
                config={"responsive": True, "displaylogo": False},
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_page(title, _sections(facts, plots)), encoding="utf-8")
    return target


def _sections(facts: Facts, plots: dict[str, str]) -> list[str]:
    comparison = facts.comparison
    several = len(comparison.curves) > len(comparison.methods)
    band = " A line is the mean over seeds, its band ± their deviation." if several else ""
    parts = [
        *(_table(shown) for shown in tables(comparison)),
        _head("Curves", f"The menu chooses what is on the axis below. A click in the legend hides a line.{band}"),
        plots["curves"],
        _head("Tiers", ""),
        _table(facts.tiers(), left=2),
        _head("Clients", "A point for each client and method. Bytes and rounds are a run's, the mean over seeds."),
        plots["clients"],
    ]
    if "levels" in plots:
        parts += [
            _head("Levels", "How often each level was drawn, and the chance that it had when it was."),
            plots["levels"],
        ]
    if "coverage" in plots:
        parts += [_head("Coverage", "Clients that hold a coordinate, the mean over each tensor."), plots["coverage"]]
    if (drops := facts.drops()).rows:
        parts += [_head("Drops", ""), _table(drops, is_left=True)]
    if (privacy := facts.privacy()).rows:
        parts += [_head("Privacy", ""), _table(privacy)]
    parts.append(_head("Settings", ""))
    if (apart := facts.differences()).rows:
        parts.append(_table(apart, is_left=True))
    for shown in (facts.settings(), facts.runs(), facts.versions()):
        parts.append(f"<details><summary>{escape(shown.title)}</summary>{_table(shown, is_left=True)}</details>")
    return parts


def _page(title: str, parts: list[str]) -> str:
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _head(title: str, note: str) -> str:
    return f"<h2>{escape(title)}</h2>" + (f'<p class="note">{escape(note)}</p>' if note else "")


def _table(shown: Shown, is_left: bool = False, left: int = 1) -> str:
    """A table whose first `left` columns, or all if `is_left`, begin at the left."""
    names = "".join(f"<th>{escape(name)}</th>" for name in shown.columns)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in shown.rows)
    kind = ' class="left"' if is_left else ""
    return (
        f'<div class="wide"><table{kind}><caption>{escape(shown.title)}</caption>'
        f"<thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    return f'<td class="long">{escape(text)}</td>' if len(text) > 60 else f"<td>{escape(text)}</td>"
