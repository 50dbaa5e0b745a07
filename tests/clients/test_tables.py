"""Tables of users, cell by cell: the same from every reader, and errors that say where."""

import decimal
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, ipc, parquet

from fl_mlmc.clients.tables import READERS, DataError, Table

ROWS = 3


def as_parquet(path: Path, table: pa.Table) -> Path:
    parquet.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def as_arrow_file(path: Path, table: pa.Table) -> Path:
    with ipc.new_file(path.with_suffix(".arrow"), table.schema) as file:
        file.write_table(table)
    return path.with_suffix(".arrow")


def as_arrow_stream(path: Path, table: pa.Table) -> Path:
    with ipc.new_stream(path.with_suffix(".arrow"), table.schema) as file:
        file.write_table(table)
    return path.with_suffix(".arrow")


def as_csv(path: Path, table: pa.Table) -> Path:
    csv.write_csv(table, path.with_suffix(".csv"))
    return path.with_suffix(".csv")


TYPED = [as_parquet, as_arrow_file, as_arrow_stream]
Write = Callable[[Path, pa.Table], Path]


def opened(path: Path) -> Table:
    return READERS[path.suffix](path)


CLASSES = {
    "int8": (pa.array([3, -1, 3], pa.int8()), [3, -1, 3]),
    "uint64": (pa.array([3, 1, 3], pa.uint64()), [3, 1, 3]),
    "bool": (pa.array([True, False, True]), [True, False, True]),
    "decimal": (pa.array([decimal.Decimal(2), decimal.Decimal(1), decimal.Decimal(2)]), [2, 1, 2]),
    "string": (pa.array(["b", "a", "b"]), ["b", "a", "b"]),
    "large_string": (pa.array(["b", "a", "b"], pa.large_string()), ["b", "a", "b"]),
    "string_view": (pa.array(["b", "a", "b"], pa.string_view()), ["b", "a", "b"]),
    "bytes": (pa.array(["ß".encode(), b"a", "ß".encode()]), ["ß", "a", "ß"]),
    "fixed bytes": (pa.array([b"b", b"a", b"b"], pa.binary(1)), ["b", "a", "b"]),
    "categories": (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
}
KEYS = CLASSES | {
    "float": (pa.array([0.5, 0.0, 0.5]), [0.5, 0.0, 0.5]),
    "date": (pa.array([date(2026, 1, 2), date(2026, 1, 1), date(2026, 1, 2)]), None),
}


@pytest.mark.parametrize("write", TYPED)
@pytest.mark.parametrize("kind", KEYS)
def test_classes_and_keys_of_every_type(tmp_path: Path, write: Write, kind: str) -> None:
    cells, expected = KEYS[kind]
    table = opened(write(tmp_path / "t", pa.table({"c": cells})))
    for read in (table.keys, table.classes) if kind in CLASSES else (table.keys,):
        values = read("c")
        if read == table.classes:
            assert values.tolist() == expected
        assert np.unique(values, return_inverse=True)[1].tolist() == [1, 0, 1]


NEITHER = {
    "struct<a: int64>": pa.array([{"a": 1}] * ROWS),
    "list<": pa.array([[1], [2], [1]]),
    "fixed_size_list<": pa.array([[1], [2], [1]], pa.list_(pa.int64(), 1)),
    "map<string, int64": pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
    "null": pa.nulls(ROWS),
    "struct<bytes: binary": pa.array([{"bytes": b"a"}] * ROWS),
}


@pytest.mark.parametrize("write", TYPED)
@pytest.mark.parametrize("kind", [*NEITHER, "double", "date32[day]"])
def test_what_is_no_class_or_no_key_is_refused_by_name(tmp_path: Path, write: Write, kind: str) -> None:
    cells = {"double": KEYS["float"][0], "date32[day]": KEYS["date"][0], **NEITHER}[kind]
    path = write(tmp_path / "t", pa.table({"c": cells}))
    for read in (opened(path).keys, opened(path).classes) if kind in NEITHER else (opened(path).classes,):
        with pytest.raises(DataError) as caught:
            read("c")
        assert f"{path} column 'c' holds {kind}" in str(caught.value)
        assert "expected " in str(caught.value)


UNUSED = {
    **NEITHER,
    "fixed_size_binary": pa.array([b"ab"] * ROWS, pa.binary(2)),
    "uuid": pa.array([uuid.uuid4().bytes] * ROWS, pa.uuid()),
    "duration": pa.array([1] * ROWS, pa.duration("s")),
    "empty cells": pa.array([None, "x", None]),
    "list of structs": pa.array([[{"a": [1]}]] * ROWS),
}


@pytest.mark.parametrize("write", TYPED)
@pytest.mark.parametrize("kind", UNUSED)
def test_columns_that_nobody_asks_for_do_not_matter(tmp_path: Path, write: Write, kind: str) -> None:
    if kind == "duration" and write is as_parquet:
        pytest.skip("Parquet has none")
    table = opened(write(tmp_path / "t", pa.table({"odd": UNUSED[kind], "c": [1, 2, 3]})))
    assert table.classes("c").tolist() == [1, 2, 3]


@pytest.mark.parametrize("write", TYPED)
@pytest.mark.parametrize("kind", [pa.uuid(), pa.binary(16), pa.binary()], ids=str)
def test_ids_divide_rows(tmp_path: Path, write: Write, kind: pa.DataType) -> None:
    ids = [b"\xff" * 16, b"\x00" * 16, b"\xff" * 16]
    table = opened(write(tmp_path / "t", pa.table({"user": pa.array(ids, kind)})))
    assert np.unique(table.keys("user"), return_inverse=True)[1].tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"column 'user' (holds .*uuid.*; expected class|row 0 holds .* UTF-8)"):
        table.classes("user")


@pytest.mark.parametrize("write", [*TYPED, as_csv])
@pytest.mark.parametrize("row", [0, 2, 1500])
def test_an_empty_cell_has_its_row(tmp_path: Path, write: Write, row: int) -> None:
    cells = [None if number == row else str(number) for number in range(2000)]
    path = write(tmp_path / "t", pa.table({"c": cells, "d": range(2000)}))
    line = rf" \(line {row + 2}\)" if write is as_csv else ""
    for read in (opened(path).classes, lambda name: list(opened(path).cells(name)), opened(path).numbers):
        with pytest.raises(DataError, match=rf"{path} column 'c' row {row}{line} is empty") as caught:
            read("c")
        assert "expected a value in each row" in str(caught.value)


NO_NUMBERS = {"x": "which is no number", "nan": "which is not finite", "1e300": "which is not finite"}


@pytest.mark.parametrize("write", [*TYPED, as_csv])
@pytest.mark.parametrize("cell", NO_NUMBERS)
def test_what_is_no_number_has_its_row(tmp_path: Path, write: Write, cell: str) -> None:
    path = write(tmp_path / "t", pa.table({"c": ["1", "-2.5e1", cell]}))
    with pytest.raises(DataError, match=rf"{path} column 'c' row 2.* holds '{cell}', {NO_NUMBERS[cell]}"):
        opened(path).numbers("c")


@pytest.mark.parametrize(
    "cells",
    [[1.0, 0.0, 1.0], [1, 0, 1], [True, False, True], ["1", "0", "1e0"], [decimal.Decimal(1), decimal.Decimal(0)] * 2],
)
def test_numbers_of_every_type(tmp_path: Path, cells: list[object]) -> None:
    path = as_parquet(tmp_path / "t", pa.table({"c": pa.array(cells)}))
    numbers = opened(path).numbers("c")
    assert numbers.dtype == np.float32
    assert numbers[:3].tolist() == [1, 0, 1]


@pytest.mark.parametrize("write", TYPED)
@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (pa.string(), pa.binary()),
        (pa.large_string(), pa.large_binary()),
        (pa.string_view(), pa.binary_view()),
        (pa.binary(), pa.binary()),
    ],
    ids=str,
)
def test_a_text_that_is_not_utf_8_has_its_row(
    tmp_path: Path, write: Write, kind: pa.DataType, raw: pa.DataType
) -> None:
    buffers = pa.array([b"fine", b"fine", b"\xff\xfe"]).cast(raw).buffers()
    path = write(tmp_path / "t", pa.table({"c": pa.Array.from_buffers(kind, 3, buffers)}))
    with pytest.raises(DataError, match=rf"{path} column 'c' row 2 .*UTF-8"):
        opened(path).classes("c")


@pytest.mark.parametrize("write", [*TYPED, as_csv])
def test_no_table_and_half_a_table_name_their_file(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "t", pa.table({"c": [f"text {number}" for number in range(5000)]}))
    whole = path.read_bytes()
    for content in (b"", b"\xff\xfe\x00", whole[: len(whole) // 2] + b"\xff"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(path)):
            opened(path).classes("c")


def test_a_broken_page_names_file_and_column(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "t", pa.table({"c": np.random.default_rng(0).random(5000), "d": range(5000)}))
    content = bytearray(path.read_bytes())
    content[4:3000] = bytes(2996)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} column 'c' cannot be read: "):
        opened(path).keys("c")


def test_a_column_that_is_there_twice_is_refused_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,b\n1,2,3\n")
    table = opened(tmp_path / "t.csv")
    assert table.classes("a").tolist() == [1]
    with pytest.raises(DataError, match="more than one column 'b'"):
        table.classes("b")
    path = as_parquet(tmp_path / "t", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["b", "b"]))
    with pytest.raises(DataError, match="more than one column 'b'"):
        opened(path).classes("b")


def test_files_that_follow_each_other_are_one_table(tmp_path: Path) -> None:
    first = as_parquet(tmp_path / "1", pa.table({"c": ["a", "b"]}))
    second = as_parquet(tmp_path / "2", pa.table({"c": ["c", None]}))
    third = as_parquet(tmp_path / "3", pa.table({"c": [1]}))
    table = Table((*opened(first).parts, *opened(second).parts))
    assert table.num_rows == 4
    with pytest.raises(DataError, match=f"{second} column 'c' row 1 is empty"):
        table.classes("c")
    with pytest.raises(DataError, match=f"{third} column 'c' holds int64, in {first} it holds string"):
        Table((*opened(first).parts, *opened(third).parts)).classes("c")


def test_a_line_of_csv_may_be_several(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('text,n\n"two\nlines",1\n\nnone,x\n')
    table = opened(tmp_path / "t.csv")
    assert list(table.cells("text")) == [["two\nlines", "none"]]
    with pytest.raises(DataError, match=r"column 'n' row 1 \(line 5\) holds 'x'"):
        table.numbers("n")
