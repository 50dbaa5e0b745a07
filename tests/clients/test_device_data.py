"""A device's own files: what is read, and what is said of a file that cannot be."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from pyarrow import ipc, parquet

from fl_mlmc.clients.device_data import DeviceData
from fl_mlmc.clients.tables import DataError

META = json.dumps(
    {"input_shape": [1, 2, 2], "class_names": ["cat", "dog"], "kind": "image", "mean": [10.0], "std": [2.0]}
)
PIXELS = np.array([[0, 10, 20, 30], [4, 4, 4, 255]], dtype=np.uint8)


def write_csv(
    path: Path, labels: tuple[object, ...] = ("cat", "dog"), header: tuple[str, ...] = ("a", "b", "c", "d")
) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *header])
        writer.writerows([[label, *row] for label, row in zip(labels, PIXELS.tolist(), strict=True)])
    return path


def as_csv(folder: Path) -> Path:
    return write_csv(folder / "own.csv")


def as_numbers(folder: Path) -> Path:
    return write_csv(folder / "own.CSV", (0, 1))


def as_a_spreadsheet_saves_it(folder: Path) -> Path:
    """With a byte order mark, carriage returns and empty lines at the end."""
    text = as_csv(folder).read_text().replace("\n", "\r\n")
    (folder / "own.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    return folder / "own.csv"


def as_parquet(folder: Path) -> Path:
    frame = pd.DataFrame(PIXELS, columns=list("abcd")).assign(label=["cat", "dog"])
    frame.to_parquet(folder / "own.parquet")
    return folder / "own.parquet"


def as_arrow(folder: Path) -> Path:
    frame = pd.DataFrame(PIXELS, columns=list("abcd")).assign(label=["cat", "dog"])
    table = pa.Table.from_pandas(frame)
    with ipc.new_file(folder / "own.arrow", table.schema) as file:
        file.write_table(table)
    return folder / "own.arrow"


def as_images(folder: Path) -> Path:
    for name, row in zip(("cat", "dog"), PIXELS, strict=True):
        (folder / "own" / name).mkdir(parents=True)
        Image.fromarray(row.reshape(2, 2)).save(folder / "own" / name / "one.png")
        (folder / "own" / name / "Thumbs.db").write_bytes(b"left by a file manager")
    return folder / "own"


def as_parquet_of_images(folder: Path) -> Path:
    root = as_images(folder)
    files = [(root / name / "one.png").read_bytes() for name in ("cat", "dog")]
    frame = pd.DataFrame({"image": [{"bytes": data, "path": None} for data in files], "label": [0, 1]})
    frame.to_parquet(folder / "images.parquet")
    return folder / "images.parquet"


FORMS = [as_csv, as_numbers, as_a_spreadsheet_saves_it, as_parquet, as_arrow, as_images, as_parquet_of_images]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_examples(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    features, labels = DeviceData.open(write(tmp_path), META).client(17)
    np.testing.assert_array_equal(features, (PIXELS.reshape(2, 1, 2, 2).astype(np.float32) - 10) / 2)
    np.testing.assert_array_equal(labels, [0, 1])
    assert (features.dtype, labels.dtype) == (np.float32, np.int64)


def test_vectors_are_read_as_they_are(tmp_path: Path) -> None:
    meta = json.dumps({"input_shape": [2], "class_names": ["0", "1"], "kind": "vector", "mean": [0.0], "std": [1.0]})
    (tmp_path / "own.csv").write_text("x,label,y\n0.5,1,-2e3\n")
    features, labels = DeviceData.open(tmp_path / "own.csv", meta).client(0)
    np.testing.assert_array_equal(features, np.float32([[0.5, -2000]]))
    assert labels.tolist() == [1]
    (tmp_path / "own.csv").write_text("x,label,y\n0.5,1,nan\n")
    with pytest.raises(DataError, match=r"own.csv column 'y' row 0 \(line 2\) holds 'nan', which is not finite"):
        DeviceData.open(tmp_path / "own.csv", meta)


BROKEN = {
    "missing.csv": (None, "does not exist on this device"),
    "empty.csv": ("", "is empty"),
    "header.csv": ("label,a,b,c,d\n", "holds no examples"),
    "own.txt": ("label\n", "is no .csv, no .parquet, no .arrow file and no folder of images"),
    "label.csv": ("a,b,c,d\n1,2,3,4\n", "has no column 'label'; columns seen: a, b, c, d"),
    "short.csv": ("label,a,b,c,d\ncat,1,2,3\n", "line 2 has 4 fields, its header 5"),
    "width.csv": ("label,a\ncat,1\n", "has 1 columns beside 'label', the data set has 4"),
    "text.csv": ("label,a,b,c,d\ncat,1,2,x,4\n", "column 'c' row 0 .line 2. holds 'x', which is no number"),
    "nan.csv": ("label,a,b,c,d\ncat,1,2,nan,4\n", "column 'c' row 0 .line 2. holds 'nan', which is not finite"),
    "range.csv": ("label,a,b,c,d\ncat,1,2,3,256\n", "column 'd' row 0 .line 2. holds 256, pixels are 0 to 255"),
    "below.csv": ("label,a,b,c,d\ncat,1,2,-3,4\n", "column 'c' row 0 .line 2. holds -3, pixels are 0 to 255"),
    "class.csv": (
        "label,a,b,c,d\ncow,1,2,3,4\n",
        "column 'label' row 0 .line 2. has the label 'cow'; the classes are cat, dog, or 0 to 1",
    ),
    "high.csv": ("label,a,b,c,d\n2,1,2,3,4\n", "has the label '2'"),
    "bytes.csv": (b"label\xff\n", "is not CSV"),
    "bad.parquet": ("no parquet", "cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_reported_with_its_name_and_what_was_seen(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"{name}.*({reason})"):
        DeviceData.open(tmp_path / name, META)


def test_images_of_another_size_and_no_images_are_reported(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(DataError, match=r"own has no folders; expected one for each class, such as .*own/cat"):
        DeviceData.open(tmp_path / "own", META)
    (tmp_path / "own" / "cat").mkdir()
    with pytest.raises(DataError, match="own holds no examples"):
        DeviceData.open(tmp_path / "own", META)
    Image.new("L", (3, 2)).save(tmp_path / "own" / "cat" / "one.png")
    with pytest.raises(DataError, match=r"one.png has 3x2 pixels, expected 2x2"):
        DeviceData.open(tmp_path / "own", META)
    (tmp_path / "own" / "cat" / "one.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(DataError, match=r"one.png is no image"):
        DeviceData.open(tmp_path / "own", META)


def test_images_wider_than_high(tmp_path: Path) -> None:
    meta = json.dumps(
        {"input_shape": [3, 1, 2], "class_names": ["cat"], "kind": "image", "mean": [0.0] * 3, "std": [1.0] * 3}
    )
    (tmp_path / "own" / "cat").mkdir(parents=True)
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(tmp_path / "own" / "cat" / "one.png")
    features, _ = DeviceData.open(tmp_path / "own", meta).client(0)
    np.testing.assert_array_equal(features, np.float32([[[[1, 4]], [[2, 5]], [[3, 6]]]]))


def test_images_for_a_data_set_of_vectors_are_refused(tmp_path: Path) -> None:
    meta = json.dumps({"input_shape": [4], "class_names": ["0", "1"], "kind": "vector", "mean": [0.0], "std": [1.0]})
    with pytest.raises(DataError, match=r"one.png is an image, the data set holds vectors"):
        DeviceData.open(as_images(tmp_path), meta)


def image_meta(height: int, width: int) -> str:
    shape = [1, height, width]
    return json.dumps({"input_shape": shape, "class_names": ["cat"], "kind": "image", "mean": [0.0], "std": [1.0]})


def test_images_of_16_bits_are_refused_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "own" / "cat").mkdir(parents=True)
    deep = tmp_path / "own" / "cat" / "one.png"
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(deep)
    with pytest.raises(DataError, match=r"one\.png is an image of mode I;16; expected 8-bit pixels"):
        DeviceData.open(tmp_path / "own", image_meta(2, 2))
    cells = [{"bytes": deep.read_bytes(), "path": None}]
    for column in (cells, [deep.read_bytes()]):
        pd.DataFrame({"image": column, "label": [0]}).to_parquet(tmp_path / "own.parquet")
        with pytest.raises(DataError, match=r"own\.parquet column 'image' row 0 is an image of mode I;16"):
            DeviceData.open(tmp_path / "own.parquet", image_meta(2, 2))


def test_columns_that_cannot_be_values_do_not_matter(tmp_path: Path) -> None:
    values = {name: PIXELS[:, index] for index, name in enumerate("abcd")}
    odd = {
        "id": pa.array([b"x" * 16] * 2, pa.uuid()),
        "hash": pa.array([b"ab"] * 2, pa.binary(2)),
        "tags": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        "taken": pa.array([0, None], pa.timestamp("s")),
    }
    for name, read in ((odd | values, PIXELS), (values | odd, PIXELS)):
        parquet.write_table(pa.table({"label": ["cat", "dog"], **name}), tmp_path / "own.parquet")
        features, labels = DeviceData.open(tmp_path / "own.parquet", META).client(0)
        np.testing.assert_array_equal(features.reshape(2, 4), (read.astype(np.float32) - 10) / 2)
        assert labels.tolist() == [0, 1]


def test_named_classes_go_by_their_names(tmp_path: Path) -> None:
    """A device's own numbering is not the server's."""
    features = Features({"label": ClassLabel(names=["dog", "cat"])} | {name: Value("uint8") for name in "abcd"})
    rows = {"label": [1, 0]} | {name: PIXELS[:, index] for index, name in enumerate("abcd")}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "own.parquet")
    assert DeviceData.open(tmp_path / "own.parquet", META).client(0)[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    "labels",
    [[{"a": 1}] * 2, [[1], [0]], [0.0, 1.0], [None, "cat"], [[("a", 1)], []]],
    ids=["struct", "list", "float", "empty", "map"],
)
def test_what_is_no_class_is_refused_by_name(tmp_path: Path, labels: list[object]) -> None:
    values = {name: PIXELS[:, index] for index, name in enumerate("abcd")}
    kind = pa.map_(pa.string(), pa.int64()) if labels[-1] == [] else None
    parquet.write_table(pa.table({"label": pa.array(labels, kind), **values}), tmp_path / "own.parquet")
    with pytest.raises(DataError, match=r"own\.parquet column 'label' (holds .*; expected class|row 0 is empty)"):
        DeviceData.open(tmp_path / "own.parquet", META)


@pytest.mark.parametrize(
    ("module", "write", "needs"), [("pyarrow", as_parquet, "pyarrow"), ("PIL", as_images, "[pP]illow")]
)
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, write: Callable[[Path], Path], needs: str
) -> None:
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=f"needs {needs}: `pip install"):
        DeviceData.open(path, META)
