"""Tables as people read them: in a terminal of any width, and as plain columns where output is piped."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Shown:
    """A table's words: a title, a name for each column, and the rows. Texts are shown as they are, markup or not."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def print(self, console: Console) -> None:
        """Print to `console`: with lines in a terminal, plain when piped, and row by row where columns do not fit."""
        table = self._table(console.is_terminal or console.is_jupyter)
        wide = Measurement.get(console, console.options.update(width=10_000), table).maximum
        if not console.is_terminal:
            width = console.width
            console.width = max(wide, width)  # a pipe has no edge
            console.print(table)
            console.width = width
        elif wide <= console.width:
            console.print(table)
        else:
            self._print_stacked(console)

    def _table(self, has_lines: bool) -> Table:
        table = Table(
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD if has_lines else None,
            pad_edge=False,
            show_header=any(self.columns),
            padding=(0, 1) if has_lines else (0, 2, 0, 0),
        )
        for number, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def _print_stacked(self, console: Console) -> None:
        console.print(Text(self.title, style="bold"))
        for first, *others in self.rows:
            console.print(Text(first))
            for column, cell in zip(self.columns[1:], others, strict=True):
                console.print(Text(f"  {column}: {cell}" if column else f"  {cell}"))
