"""What users' own files hold, on the server: what is used is read, and what cannot be used is named with its place."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from pyarrow import csv, ipc, parquet
from typer.testing import CliRunner

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.tables import DataError
from fl_mlmc.simulations.cli import app
from fl_mlmc.simulations.data.datasets import prepare

LABELS = [number % 2 for number in range(20)]
TEXTS = [f"good film {number}" for number in range(20)]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Write = Callable[[Path, pa.Table, pa.Table], tuple[str, Path | None]]
"""Leaves both splits in a folder, and says `dataset` and `data_dir`."""


def as_parquet(folder: Path, train: pa.Table, test: pa.Table) -> tuple[str, Path | None]:
    parquet.write_table(train, folder / "train.parquet")
    parquet.write_table(test, folder / "test.parquet")
    return "digits", folder


def as_parquet_set(folder: Path, train: pa.Table, test: pa.Table) -> tuple[str, Path | None]:
    as_parquet(folder, train, test)
    return str(folder), None


def as_arrow(folder: Path, train: pa.Table, test: pa.Table) -> tuple[str, Path | None]:
    for split, table in (("train", train), ("test", test)):
        with ipc.new_file(folder / f"{split}.arrow", table.schema) as file:
            file.write_table(table)
    return str(folder), None


def as_saved(folder: Path, train: pa.Table, test: pa.Table) -> tuple[str, Path | None]:
    DatasetDict(train=Dataset(train), test=Dataset(test)).save_to_disk(folder / "saved")
    return str(folder / "saved"), None


def as_csv(folder: Path, train: pa.Table, test: pa.Table) -> tuple[str, Path | None]:
    csv.write_csv(train, folder / "train.csv")
    csv.write_csv(test, folder / "test.csv")
    return str(folder), None


TABLES = [as_parquet, as_parquet_set, as_arrow]
FORMS = [*TABLES, as_saved]


def png(pixels: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8) if pixels is None else pixels).save(file, "PNG")
    return file.getvalue()


def prepared(
    tmp_path: Path, write: Write, columns: dict[str, Any], test: dict[str, Any] | None = None, by: str = "iid"
) -> FederatedData:
    folder = tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    dataset, data_dir = write(folder, pa.table(columns), pa.table(columns if test is None else test))
    return FederatedData.open(prepare(dataset, data_dir, by, 2, 0, tmp_path / "cache"))


@pytest.mark.parametrize("write", [*FORMS, as_csv])
def test_every_form_gives_the_same_examples(tmp_path: Path, write: Write) -> None:
    data = prepared(tmp_path, write, {"text": TEXTS, "label": LABELS, "writer": ["ann", "bob"] * 10}, by="by:writer")
    assert data.spec.class_names == ("0", "1")
    assert data.client(0)[1].tolist() == [0] * 10
    assert data.client(1)[1].tolist() == [1] * 10
    (tmp_path / "again").mkdir()
    again = prepared(tmp_path / "again", as_parquet, {"text": TEXTS, "label": LABELS})
    np.testing.assert_array_equal(data.train()[0], again.train()[0])


NO_CLASS = {
    "struct": (pa.array([{"a": label} for label in LABELS]), "struct<a: int64>"),
    "list": (pa.array([[label] for label in LABELS]), "list<"),
    "list of lists": (pa.array([[[label]] for label in LABELS]), "list<"),
}


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("kind", NO_CLASS)
@pytest.mark.parametrize("where", ["label", "column to divide by", "label of the test split"])
def test_what_is_no_class_is_refused_by_name(tmp_path: Path, write: Write, kind: str, where: str) -> None:
    cells, seen = NO_CLASS[kind]
    good: dict[str, Any] = {"text": TEXTS, "label": LABELS}
    train = {"label": {**good, "label": cells}, "column to divide by": {**good, "w": cells}}.get(where, good)
    test = {**good, "label": cells} if where == "label of the test split" else train
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, write, train, test, "by:w" if where == "column to divide by" else "iid")
    column = "w" if where == "column to divide by" else "label"
    assert f"column {column!r} holds {seen}" in str(caught.value)
    assert str(tmp_path / "mine") in str(caught.value)
    assert "; expected " in str(caught.value)


ODD = {
    "fixed-size binary": pa.array([b"ab"] * 20, pa.binary(2)),
    "uuid": pa.array([b"x" * 16] * 20, pa.uuid()),
    "map": pa.array([[("a", 1)]] * 20, pa.map_(pa.string(), pa.int64())),
    "nested": pa.array([[{"a": [1]}]] * 20),
    "nothing": pa.nulls(20),
}


@pytest.mark.parametrize("write", TABLES)
@pytest.mark.parametrize("kind", ODD)
def test_a_column_that_nobody_asked_for_does_not_matter(tmp_path: Path, write: Write, kind: str) -> None:
    data = prepared(tmp_path, write, {"odd": ODD[kind], "text": TEXTS, "label": LABELS})
    assert data.train()[1].tolist() == LABELS


@pytest.mark.parametrize("write", TABLES)
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_texts_of_every_type_are_seen(tmp_path: Path, write: Write, kind: pa.DataType) -> None:
    data = prepared(tmp_path, write, {"words": pa.array(TEXTS).cast(kind), "label": LABELS})
    assert data.spec.kind == "vector"
    assert np.ptp(data.train()[0], axis=0).max() > 0


BROKEN_IMAGES = {
    "without bytes": ({"bytes": None, "path": None}, "holds no image"),
    "empty bytes": ({"bytes": b"", "path": None}, "holds no image"),
    "empty": (None, "is empty; expected a value in each row"),
    "half": ({"bytes": png(np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8))[:80], "path": None}, "broken"),
    "a lost file": ({"bytes": None, "path": "/nowhere/1.png"}, "cannot be read: No such file"),
    "16 bits": ({"bytes": png(np.full((8, 8), 300, np.uint16)), "path": None}, "mode I;16; expected 8-bit pixels"),
    "no image": ({"bytes": b"<svg/>", "path": None}, "is no image: its format is not known"),
}


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("kind", BROKEN_IMAGES)
@pytest.mark.parametrize("row", [0, 13])
def test_a_broken_image_has_its_row(tmp_path: Path, write: Write, kind: str, row: int) -> None:
    cell, reason = BROKEN_IMAGES[kind]
    cells = [{"bytes": png(), "path": None}] * 20
    columns = {"image": pa.array([*cells[:row], cell, *cells[row + 1 :]], IMAGE), "label": LABELS}
    with pytest.raises(DataError, match=rf"column 'image' row {row} .*{reason}") as caught:
        prepared(tmp_path, write, columns)
    assert str(tmp_path / "mine") in str(caught.value)


def image_folder(folder: Path, shade: int = 0) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for count in range(3):
                pixels = np.full((4, 4), 100 * number + shade + count, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{count}.png")
    return folder


def test_a_broken_file_in_a_folder_of_images_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pics")
    assert FederatedData.open(prepare(str(folder), None, "iid", 2, 0, tmp_path / "cache")).spec.class_names == (
        "cat",
        "dog",
    )
    (folder / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=rf"{folder}/train/dog/1\.png of .*column 'image' row 4 holds no image: no bytes"
    ):
        prepare(str(folder), None, "iid", 2, 0, tmp_path / "cache")


@pytest.mark.parametrize("write", [*FORMS, as_csv])
@pytest.mark.parametrize("text_first", [True, False])
def test_text_beside_numbers_is_hinted_at(tmp_path: Path, write: Write, text_first: bool) -> None:
    texts, numbers = {"text": TEXTS, "label": list(map(str, LABELS))}, {"text": TEXTS, "label": LABELS}
    train, test = (texts, numbers) if text_first else (numbers, texts)
    if write is as_csv:  # where all is text, and what looks like numbers is numbers
        assert prepared(tmp_path, write, train, test).spec.class_names == ("0", "1")
        return
    with pytest.raises(DataError, match=r"one split has its classes as text, the other as numbers. Write both alike"):
        prepared(tmp_path, write, train, test)


def test_a_label_that_train_has_not_has_its_row(tmp_path: Path) -> None:
    test = {"text": TEXTS, "label": [*LABELS[:7], 5, *LABELS[8:]]}
    with pytest.raises(
        DataError, match=r"test\.parquet column 'label' row 7 holds 5: the test split holds \[5\], which is"
    ):
        prepared(tmp_path, as_parquet, {"text": TEXTS, "label": LABELS}, test)


def test_whole_numbers_written_as_real_ones_are_classes_of_the_train_split(tmp_path: Path) -> None:
    test = {"text": TEXTS, "label": list(map(float, LABELS))}
    assert prepared(tmp_path, as_parquet, {"text": TEXTS, "label": LABELS}, test).test()[1].tolist() == LABELS
    test["label"][3] = 0.5
    with pytest.raises(DataError, match=r"test\.parquet column 'label' row 3 holds 0\.5: "):
        prepared(tmp_path, as_parquet, {"text": TEXTS, "label": LABELS}, test)


FEATURES = {
    "text": (pa.array(TEXTS), "string"),
    "image": (pa.array([{"bytes": png(), "path": None}] * 20, IMAGE), "struct<bytes: binary"),
    "numbers": (pa.array(range(20)), "int64"),
}


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize(
    ("first", "second"), [("text", "image"), ("text", "numbers"), ("image", "text"), ("image", "numbers")]
)
def test_a_feature_of_another_kind_in_the_test_split_is_refused(
    tmp_path: Path, write: Write, first: str, second: str
) -> None:
    (cells, expected), (others, seen) = FEATURES[first], FEATURES[second]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, write, {"x": cells, "label": LABELS}, {"x": others, "label": LABELS})
    assert f"column 'x' holds {seen}" in str(caught.value)
    assert f"; expected {expected}" in str(caught.value)


def test_another_folder_of_the_same_name_is_another_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shade, parent in enumerate(("one", "two")):
        image_folder(tmp_path / parent / "pics", 50 * shade)
    sets = []
    for parent in ("one", "two"):
        monkeypatch.chdir(tmp_path / parent)
        sets.append(prepare("pics", None, "iid", 2, 0, tmp_path / "cache"))
    assert sets[0] != sets[1]
    assert FederatedData.open(sets[0]).digest != FederatedData.open(sets[1]).digest
    assert prepare(str(tmp_path / "two" / "pics"), None, "iid", 2, 0, tmp_path / "cache") == sets[1]


@pytest.mark.parametrize("write", [as_parquet, as_parquet_set, as_csv, as_arrow])
def test_new_content_of_the_same_size_and_time_is_another_data_set(tmp_path: Path, write: Write) -> None:
    """As a copy that keeps times leaves it."""
    first = prepared(tmp_path, write, {"text": TEXTS, "label": LABELS})
    before = {path: path.stat() for path in (tmp_path / "mine").iterdir()}
    second = prepared(tmp_path, write, {"text": TEXTS, "label": [1 - label for label in LABELS]})
    for path, stat in before.items():
        assert path.stat().st_size == stat.st_size
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    data_dir = tmp_path / "mine"
    again = prepare(
        *(("digits", data_dir) if write is as_parquet else (str(data_dir), None)), "iid", 2, 0, tmp_path / "cache"
    )
    assert FederatedData.open(again).digest == second.digest != first.digest


def test_another_vocabulary_at_the_same_path_is_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    _, folder = as_parquet(tmp_path / "mine", *[pa.table({"text": TEXTS, "label": LABELS})] * 2)
    seen = []
    for word in ("good", "film"):
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", word]))
        text = f"tokens({str(tmp_path)!r}, length=8)"
        seen.append(FederatedData.open(prepare("x", folder, "iid", 2, 0, tmp_path / "cache", text)).train()[0])
    assert not np.array_equal(*seen)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a\nb\n"])
def test_a_vocabulary_that_is_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "mine").mkdir()
    _, folder = as_parquet(tmp_path / "mine", *[pa.table({"text": TEXTS, "label": LABELS})] * 2)
    if content is not None:
        (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/vocab.txt"):
        prepare("x", folder, "iid", 2, 0, tmp_path / "cache", f"tokens({str(tmp_path)!r})")


def test_equal_data_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    first = prepared(tmp_path, as_parquet, {"text": TEXTS, "label": LABELS})
    moved = shutil.copytree(tmp_path / "mine", tmp_path / "moved")
    again = FederatedData.open(prepare("x", moved, "iid", 2, 0, tmp_path / "cache"))
    assert again.directory != first.directory
    assert again.digest == first.digest
    other = FederatedData.open(prepare("x", moved, "iid", 2, 1, tmp_path / "cache"))
    assert other.digest != first.digest  # others own the rows


@pytest.mark.parametrize("dataset", ["./nowhere", "/nowhere/pics", "~/nowhere", "nowhere.csv"])
def test_a_path_without_a_folder_is_not_looked_for_on_the_hub(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; expected a folder with a train and a test split"):
        prepare(dataset, None, "iid", 2, 0, tmp_path / "cache")


def test_a_folder_that_is_no_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"dataset {tmp_path}/empty cannot be read"):
        prepare(str(tmp_path / "empty"), None, "iid", 2, 0, tmp_path / "cache")
    (tmp_path / "train.csv").write_text("text,label\na,0\nb\n")
    (tmp_path / "test.csv").write_text("text,label\na,0\n")
    with pytest.raises(DataError, match=rf"{tmp_path}/train\.csv line 3 has 1 fields, its header 2"):
        prepare(str(tmp_path), None, "iid", 2, 0, tmp_path / "cache")


def with_image(cell: bytes | None, row: int) -> dict[str, Any]:
    cells = [{"bytes": cell if number == row else png(), "path": None} for number in range(20)]
    return {"image": pa.array(cells, IMAGE), "label": LABELS}


def jpeg_cut_off() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(file, "JPEG")
    return file.getvalue()[:2000]


def png_that_claims(width: int, height: int) -> bytes:
    content = bytearray(png())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


STRUCTS = NO_CLASS["struct"][0]
TEXT_SET: dict[str, Any] = {"text": TEXTS, "label": LABELS}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str, tuple[str, ...]]] = {
    "a struct as label": (
        TEXT_SET | {"label": STRUCTS},
        None,
        "iid",
        ("train.parquet column 'label' holds struct<a", "expected class numbers or names"),
    ),
    "a struct to divide by": (
        TEXT_SET | {"w": STRUCTS},
        None,
        "by:w",
        ("train.parquet column 'w' holds struct<a", "expected numbers, texts or times"),
    ),
    "an image without bytes": (
        with_image(None, 0),
        None,
        "iid",
        ("train.parquet column 'image' row 0 holds no image",),
    ),
    "an image of no bytes": (with_image(b"", 3), None, "iid", ("train.parquet column 'image' row 3 holds no image",)),
    "half a PNG": (
        with_image(BROKEN_IMAGES["half"][0]["bytes"], 4),
        None,
        "iid",
        ("column 'image' row 4 is a broken image",),
    ),
    "a JPEG cut off": (with_image(jpeg_cut_off(), 5), None, "iid", ("'image' mixes 2 image sizes", "row 5", "row 0")),
    "JPEGs cut off": (
        {"image": pa.array([{"bytes": jpeg_cut_off(), "path": None}] * 20, IMAGE), "label": LABELS},
        None,
        "iid",
        ("column 'image' row 0 is a broken image",),
    ),
    "a PNG that claims 30,000 x 30,000 pixels": (
        with_image(png_that_claims(30_000, 30_000), 6),
        None,
        "iid",
        ("column 'image' row 6 is no image", "900000000 pixels"),
    ),
    "16 bits in the test split": (
        with_image(png(), 0),
        with_image(png(np.full((8, 8), 300, np.uint16)), 7),
        "iid",
        ("test.parquet column 'image' row 7 is an image of mode I;16; expected 8-bit pixels",),
    ),
    "text beside numbers as labels": (
        TEXT_SET | {"label": list(map(str, LABELS))},
        TEXT_SET,
        "iid",
        ("test.parquet column 'label'", "one split has its classes as text, the other as numbers"),
    ),
}


@pytest.mark.parametrize(("train", "test", "partition", "parts"), CASES.values(), ids=CASES)
def test_the_command_ends_with_one_line_and_code_2(
    tmp_path: Path, train: dict[str, Any], test: dict[str, Any] | None, partition: str, parts: tuple[str, ...]
) -> None:
    as_parquet(tmp_path, pa.table(train), pa.table(train if test is None else test))
    settings = {"data-dir": tmp_path, "engine": "local", "num-rounds": 1, "num-clients": 2, "clients-per-round": 2}
    settings |= {"partition": partition, "model": "mlp(hidden=(8,))", "runs-dir": tmp_path / "runs"}
    command = ["run", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.output
    said = " ".join(done.output.split())
    assert all(part in said for part in parts), said
    assert str(tmp_path) in said
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
