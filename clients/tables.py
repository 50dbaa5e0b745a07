"""Tables as users have them: CSV, Parquet and Arrow files, the one reader of server and devices.

A column is read when it is asked for, and no other: what else a file holds does not matter. Every cell has its
origin, so that an error names file, column and row. CSV needs numpy alone, Parquet and Arrow need pyarrow.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

# A device that has CSV does without pyarrow.
if TYPE_CHECKING:
    import pyarrow as pa

Holds = Literal["whole", "truth", "real", "decimal", "text", "bytes", "time", "id", "image", "list", "field", "other"]
"""What the cells of a column are; an `id` is a UUID, a `list` one of whole numbers, a `field` one of CSV, whose text
may stand for anything."""

NUMBERS: frozenset[Holds] = frozenset({"whole", "truth", "real", "decimal", "text", "field"})
CLASSES: frozenset[Holds] = frozenset({"whole", "truth", "decimal", "text", "bytes", "field"})
KEYS: frozenset[Holds] = CLASSES | {"real", "time", "id"}

PIECE_ROWS = 1024
"""Rows of a column in memory at a time."""


class DataError(ValueError):
    """Data of a user's that cannot be used: names the file, and the column and row if it is a cell."""


@dataclass(frozen=True)
class Origin:
    """Where something stands, in words by which its owner finds it. Rows count from 0, lines of a file from 1."""

    source: str
    column: str = ""
    row: int | None = None
    line: int | None = None

    def error(self, seen: str) -> DataError:
        """What to raise of the thing here; `seen` goes on with the sentence."""
        return DataError(f"{self} {seen}")

    def __str__(self) -> str:
        column = f" column {self.column!r}" if self.column else ""
        row = "" if self.row is None else f" row {self.row}"
        line = "" if self.line is None else f" (line {self.line})"
        return self.source + column + row + line


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    holds: Holds
    kind: str
    """The same in the words of its file, such as "struct<a: int64>"."""
    class_names: tuple[str, ...] = ()
    """Of whole numbers that are classes of these names (datasets.ClassLabel)."""


@dataclass(frozen=True)
class Part:
    """One file of a table, or what stands for one."""

    source: str
    """How its owner calls it."""
    num_rows: int
    names: Sequence[str]
    columns: Mapping[str, Column]
    read: "Callable[[str], Iterator[pa.Array | NDArray[np.str_]]]" = field(repr=False)
    """Go through a column piece by piece."""
    lines: Sequence[int] = ()
    """In which line of the file each row ends, where there are lines."""
    rows: NDArray[np.int64] | None = None
    """The rows of the file that are taken, ascending; None: all."""

    def taken(self, rows: NDArray[np.int64]) -> "Part":
        """The part with some of its rows, int64, ascending."""

        def read(column: str) -> "Iterator[pa.Array | NDArray[np.str_]]":
            start = 0
            for piece in self.read(column):
                first, last = np.searchsorted(rows, [start, start + len(piece)])
                places = rows[first:last] - start
                yield piece[places] if isinstance(piece, np.ndarray) else piece.take(_arrow(places))
                start += len(piece)

        own = rows if self.rows is None else self.rows[rows]
        return replace(self, num_rows=len(rows), read=read, rows=own)


@dataclass(frozen=True)
class Table:
    """Columns of equal length, in one file or in several that follow each other."""

    parts: tuple[Part, ...]

    @property
    def source(self) -> str:
        """How its owner calls it."""
        more = len(self.parts) - 1
        return self.parts[0].source + (f" (and {more} more)" if more else "")

    @property
    def num_rows(self) -> int:
        """Rows of all files together."""
        return sum(part.num_rows for part in self.parts)

    @property
    def names(self) -> Sequence[str]:
        """Of the columns in the first file, in order; one may be there twice."""
        return self.parts[0].names

    @property
    def columns(self) -> Mapping[str, Column]:
        """By name, in order, as the first file has them."""
        return self.parts[0].columns

    def taken(self, rows: NDArray[np.int64]) -> "Table":
        """The table with some of its rows, int64, ascending, counted through all files."""
        ends = np.cumsum([part.num_rows for part in self.parts])
        shares = np.split(rows, np.searchsorted(rows, ends[:-1]))
        return Table(
            tuple(
                part.taken(share - (end - part.num_rows))
                for part, share, end in zip(self.parts, shares, ends, strict=True)
            )
        )

    def column(self, name: str) -> Column:
        """What the column holds; DataError where there is none of that name, or two, or files differ."""
        for part in self.parts:
            if name not in part.columns:
                raise Origin(part.source).error(f"has no column {name!r}; columns seen: {_listed(part.names)}")
            if list(part.names).count(name) > 1:
                raise Origin(part.source).error(f"has more than one column {name!r}; rename or drop the others")
            if part.columns[name].holds != self.columns[name].holds:
                raise Origin(part.source, name).error(
                    f"holds {part.columns[name].kind}, in {self.parts[0].source} it holds {self.columns[name].kind}"
                )
        return self.columns[name]

    def origin(self, name: str, row: int) -> Origin:
        """Where the cell of a column stands, `row` counted through all files; IndexError beyond the last."""
        for part in self.parts:
            if row < part.num_rows:
                row = row if part.rows is None else int(part.rows[row])
                return Origin(part.source, name, row, part.lines[row] if part.lines else None)
            row -= part.num_rows
        raise IndexError(f"row {row} beyond the end of {self.source}")

    def pieces(self, name: str) -> "Iterator[tuple[int, pa.Array | NDArray[np.str_]]]":
        """The column in pieces, each after the number of its first row; DataError at an empty cell."""
        self.column(name)
        start = 0
        for part in self.parts:
            for cells in part.read(name):
                if len(cells) == 0:
                    continue
                piece = cells if isinstance(cells, np.ndarray) else _plain(cells)
                missing = (
                    piece == "" if isinstance(piece, np.ndarray) else piece.is_null().to_numpy(zero_copy_only=False)
                )
                if missing.any():
                    origin = self.origin(name, start + int(missing.argmax()))
                    raise origin.error("is empty; expected a value in each row. Fill or drop such rows")
                yield start, piece
                start += len(piece)

    def cells(self, name: str) -> Iterator[list[Any]]:
        """The column's cells as Python values, piece by piece."""
        for start, piece in self.pieces(name):
            yield self._cells(name, start, piece)

    def classes(self, name: str) -> NDArray[Any]:
        """The column as values of classes, bytes as texts; DataError where it holds what no class can be."""
        values = self._sortable(name, CLASSES, "class numbers or names, one a row")
        if self.columns[name].holds == "bytes":
            for row, cell in enumerate(values):
                try:
                    values[row] = cell.decode()
                except UnicodeDecodeError:
                    raise self.origin(name, row).error(f"holds {_shown(cell)}, which is no text in UTF-8") from None
        return values

    def keys(self, name: str) -> NDArray[Any]:
        """The column as values to group rows by, (rows,); DataError where it holds what has no order."""
        return self._sortable(name, KEYS, "numbers, texts or times, one a row")

    def numbers(self, name: str) -> NDArray[np.float32]:
        """The column as finite numbers, float32 (rows,), texts read as such; DataError where a cell is none."""
        if (column := self.column(name)).holds not in NUMBERS:
            raise Origin(self.source, name).error(f"holds {column.kind}; expected numbers")
        pieces = [self._numbers(name, start, self._values(name, start, piece)) for start, piece in self.pieces(name)]
        return np.concatenate([np.empty(0, np.float32), *pieces])

    def is_text(self, name: str) -> bool:
        """Whether the column holds texts; in CSV, where all are, one with a cell that is neither empty nor a number."""
        if self.column(name).holds != "field":
            return self.columns[name].holds == "text"
        return any(cell and not _is_number(cell) for part in self.parts for piece in part.read(name) for cell in piece)

    def _sortable(self, name: str, allowed: frozenset[Holds], expected: str) -> NDArray[Any]:
        if (column := self.column(name)).holds not in allowed:
            raise Origin(self.source, name).error(f"holds {column.kind}; expected {expected}")
        pieces = [self._values(name, start, piece) for start, piece in self.pieces(name)]
        values = np.concatenate(pieces) if pieces else np.empty(0, object)
        return _typed(values) if column.holds == "field" else values

    def _values(self, name: str, start: int, piece: "pa.Array | NDArray[np.str_]") -> NDArray[Any]:
        """A piece in numpy's types; texts are objects of str, bytes of bytes."""
        if isinstance(piece, np.ndarray):
            return piece
        if self.columns[name].holds not in ("text", "bytes", "id"):
            return piece.to_numpy(zero_copy_only=False)
        values = np.empty(len(piece), dtype=object)
        values[:] = self._cells(name, start, piece)
        return values

    def _cells(self, name: str, start: int, piece: "pa.Array | NDArray[np.str_]") -> list[Any]:
        if isinstance(piece, np.ndarray):
            return piece.tolist()
        try:
            return piece.to_pylist()
        except UnicodeDecodeError:  # pyarrow does not look into a file's texts before
            row = next(row for row, cell in enumerate(piece) if not _is_readable(cell))
            raise self.origin(name, start + row).error("holds a text that is not in UTF-8") from None

    def _numbers(self, name: str, start: int, cells: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and named below
            try:
                numbers = cells.astype(np.float32)
            except (TypeError, ValueError):
                numbers = np.empty(len(cells), np.float32)
                for row, cell in enumerate(cells):
                    try:
                        numbers[row] = float(cell)
                    except (TypeError, ValueError):
                        raise self.origin(name, start + row).error(
                            f"holds {_shown(cell)}, which is no number"
                        ) from None
        if not np.isfinite(numbers).all():
            row = int((~np.isfinite(numbers)).argmax())
            raise self.origin(name, start + row).error(f"holds {_shown(cells[row])}, which is not finite")
        return numbers


def read_csv(path: Path, delimiter: str = ",") -> Table:
    """A CSV file with a header; empty lines are left out. DataError names file and line of what is no CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not CSV: {error}") from None
    if not rows:
        raise DataError(f"{path} is empty; expected CSV with a header")
    (_, header), body = rows[0], rows[1:]
    for line, row in body:
        if len(row) != len(header):
            raise DataError(f"{path} line {line} has {len(row)} fields, its header {len(header)}")
    indices = {name: index for index, name in enumerate(header)}

    def read(column: str) -> Iterator[NDArray[np.str_]]:
        index = indices[column]
        for start in range(0, len(body), PIECE_ROWS):
            yield np.array([row[index] for _, row in body[start : start + PIECE_ROWS]], dtype=str)

    columns = {name: Column("field", "fields of CSV") for name in header}
    return Table((Part(str(path), len(body), header, columns, read, [line for line, _ in body]),))


def read_parquet(path: Path) -> Table:
    """A Parquet file; of its columns only the types are looked at until one is asked for. DataError if it is none."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} is Parquet, which needs pyarrow: `pip install pyarrow`, or give CSV") from None
    try:
        file = parquet.ParquetFile(path)
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_reason(error)}. Write it again") from None

    def read(column: str) -> "Iterator[pa.Array]":
        with _named(path, column):
            for batch in file.iter_batches(PIECE_ROWS, columns=[column]):
                yield batch.column(column)

    return Table((arrow_part(str(path), num_rows, schema, read),))


def read_arrow(path: Path) -> Table:
    """A file of Arrow's own format (IPC), as a file or as a stream. DataError if it is none."""
    try:
        import pyarrow as pa
        from pyarrow import ipc
    except ImportError:
        raise DataError(f"{path} is Arrow, which needs pyarrow: `pip install pyarrow`, or give CSV") from None

    def batches(columns: list[int] | None = None) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
        options = ipc.IpcReadOptions(included_fields=columns)
        try:
            file = ipc.open_file(pa.memory_map(str(path)), options=options)
        except pa.ArrowInvalid:
            stream = ipc.open_stream(pa.memory_map(str(path)), options=options)
            return stream.schema, iter(stream)
        return file.schema, (file.get_batch(number) for number in range(file.num_record_batches))

    try:
        schema, _ = batches()
        _, rows = batches([0] if len(schema) else None)
        num_rows = sum(batch.num_rows for batch in rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Arrow: {_reason(error)}. Write it again") from None

    def read(column: str) -> "Iterator[pa.Array]":
        with _named(path, column):
            for batch in batches([schema.names.index(column)])[1]:
                yield from (batch.column(0).slice(start, PIECE_ROWS) for start in range(0, len(batch), PIECE_ROWS))

    return Table((arrow_part(str(path), num_rows, schema, read),))


READERS: Mapping[str, Callable[[Path], Table]] = {".csv": read_csv, ".parquet": read_parquet, ".arrow": read_arrow}
"""By the ending of a file's name."""


def arrow_part(source: str, num_rows: int, schema: "pa.Schema", read: "Callable[[str], Iterator[pa.Array]]") -> Part:
    """A part with the columns of an Arrow schema, and what Hugging Face's `datasets` noted of them there."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        columns = {item.name: _arrow_column(item.type, noted.get(item.name)) for item in schema}
    except (ValueError, AttributeError, TypeError) as error:
        raise Origin(source).error(f"has notes of `datasets` in its schema that cannot be read: {error}") from None
    return Part(source, num_rows, schema.names, columns, read)


def _arrow_column(kind: "pa.DataType", noted: Any) -> Column:
    holds = _arrow_holds(kind)
    feature = noted if isinstance(noted, dict) else {}
    if feature.get("_type") == "Image" and holds in ("bytes", "text", "image"):
        holds = "image"
    if holds == "list":  # of the classes of a row
        inner = noted[0] if isinstance(noted, list) and noted else feature.get("feature")
        feature = inner if isinstance(inner, dict) else {}
    if feature.get("_type") == "ClassLabel" and holds in ("whole", "list"):
        return Column(holds, str(kind), tuple(map(str, feature.get("names") or ())))
    return Column(holds, str(kind))


def _arrow_holds(kind: "pa.DataType") -> Holds:
    from pyarrow import types

    while hasattr(kind, "storage_type"):
        if kind.extension_name == "arrow.uuid":
            return "id"
        kind = kind.storage_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests: dict[Holds, Callable[[pa.DataType], bool]] = {
        "truth": types.is_boolean,
        "whole": types.is_integer,
        "real": types.is_floating,
        "decimal": types.is_decimal,
        "text": lambda kind: str(kind) in ("string", "large_string", "string_view"),
        "bytes": lambda kind: (
            str(kind) in ("binary", "large_binary", "binary_view") or types.is_fixed_size_binary(kind)
        ),
        "time": types.is_temporal,
        "image": lambda kind: types.is_struct(kind) and kind.get_field_index("bytes") >= 0,
        "list": lambda kind: (types.is_list(kind) or types.is_large_list(kind)) and types.is_integer(kind.value_type),
    }
    return next((holds for holds, is_so in tests.items() if is_so(kind)), "other")


def _plain(piece: "pa.Array") -> "pa.Array":
    """The values of an array of an extension type or of a dictionary."""
    while hasattr(piece, "storage"):
        piece = piece.storage
    return piece.dictionary_decode() if hasattr(piece, "dictionary_decode") else piece


@contextmanager
def _named(path: Path, column: str) -> Iterator[None]:
    """Whatever pyarrow raises within names the file and the column."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Origin(str(path), column).error(f"cannot be read: {_reason(error)}. Write it again") from None


def _typed(fields: NDArray[np.str_]) -> NDArray[Any]:
    """Whole numbers where all fields are, otherwise the texts as they are."""
    try:
        return fields.astype(np.int64)
    except (OverflowError, ValueError):
        return fields.astype(object)


def _arrow(values: NDArray[np.int64]) -> "pa.Array":
    import pyarrow as pa

    return pa.array(values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_readable(cell: "pa.Scalar") -> bool:
    try:
        cell.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _shown(cell: object, most: int = 40) -> str:
    text = repr(cell.item() if isinstance(cell, np.generic) else cell)
    return text if len(text) <= most else text[: most - 1] + "…"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "") or "none"
