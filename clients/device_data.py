"""A device's own examples: a CSV or Parquet file, or a folder of images, read with what the device has.

CSV needs numpy alone, Parquet pyarrow, images Pillow. What the values mean (shape, classes, normalisation) is the
server's word, so that all clients and the test split agree.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.data.spec import DataSpec

from .data import Examples, normalised, parse_meta

LABEL = "label"
IMAGES = ("image", "img")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class DeviceDataError(ValueError):
    """Data on a device that cannot be used: names the file, what was seen and what was expected."""


@dataclass(frozen=True, eq=False)
class DeviceData:
    """The examples of the one client on this device."""

    spec: DataSpec
    _examples: Examples

    @classmethod
    def open(cls, path: Path, meta: str) -> "DeviceData":
        """Read a file or folder; `meta` is what `FederatedData.meta` says of the run's data set."""
        if not meta:
            raise DeviceDataError(
                f"{path}: the server sent no description of the data set; data of a device's own is for engine 'flower'"
            )
        spec, mean, std = parse_meta(json.loads(meta))
        if not path.exists():
            raise DeviceDataError(f"data-path {path} does not exist on this device")
        read = _reader(path)
        features, labels = read(path, spec)
        if len(labels) == 0:
            raise DeviceDataError(f"{path} holds no examples")
        if not np.isfinite(features).all():
            raise DeviceDataError(f"{path} holds values that are not finite")
        return cls(spec, (normalised(features, mean, std), labels))

    def client(self, client: int) -> Examples:
        """The examples of the device, whatever its number."""
        return self._examples

    def client_labels(self, client: int) -> NDArray[np.int64]:
        """int64 (n,)."""
        return self._examples[1]

    def client_features(self, client: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (len(rows), *input_shape): those of some of the examples, by their places."""
        return self._examples[0][rows]


def _reader(path: Path) -> Callable[[Path, DataSpec], Examples]:
    if path.is_dir():
        return _read_folder
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DeviceDataError(f"data-path {path} is no .csv, no .parquet and no folder of images")
    return readers[path.suffix.lower()]


def _read_csv(path: Path, spec: DataSpec) -> Examples:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DeviceDataError(f"{path} is not CSV: {error}") from None
    if not rows:
        raise DeviceDataError(f"{path} is empty")
    header, body = rows[0], rows[1:]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DeviceDataError(f"{path} line {number} has {len(row)} fields, its header {len(header)}")
    table = np.array(body, dtype=str).reshape(len(body), len(header))
    return _from_columns(path, spec, {name: table[:, index] for index, name in enumerate(header)})


def _read_parquet(path: Path, spec: DataSpec) -> Examples:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DeviceDataError(f"{path} is Parquet, which needs pyarrow: `pip install pyarrow`, or give CSV") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DeviceDataError(f"{path} is not Parquet: {error}") from None
    image = next((name for name in IMAGES if name in table.column_names), None)
    if image is None:
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        return _from_columns(path, spec, columns)
    labels = _labels(path, spec, _column(path, table.column_names, lambda: table[LABEL].to_pylist()))
    cells = table[image].to_pylist()
    pixels = [_pixels(path, spec, io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)) for cell in cells]
    return _stacked(pixels, spec), labels


def _read_folder(path: Path, spec: DataSpec) -> Examples:
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    if not folders:
        raise DeviceDataError(
            f"{path} has no folders; expected one for each class, such as {path / spec.class_names[0]}"
        )
    pixels, names = [], []
    for folder in folders:
        for file in sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES):
            pixels.append(_pixels(file, spec, file))
            names.append(folder.name)
    return _stacked(pixels, spec), _labels(path, spec, names)


def _from_columns(path: Path, spec: DataSpec, columns: dict[str, NDArray[Any]]) -> Examples:
    labels = _labels(path, spec, _column(path, columns, lambda: list(columns[LABEL])))
    names = [name for name in columns if name != LABEL]
    wanted = int(np.prod(spec.input_shape))
    if len(names) != wanted:
        raise DeviceDataError(
            f"{path} has {len(names)} columns beside {LABEL!r}, the data set has {wanted} values an example, "
            f"of shape {spec.input_shape}"
        )
    values = np.empty((len(labels), wanted), dtype=np.float32)
    for index, name in enumerate(names):
        try:
            values[:, index] = columns[name]
        except (TypeError, ValueError) as error:
            raise DeviceDataError(f"{path} column {name!r} holds something that is no number: {error}") from None
    if spec.kind == "image" and len(values) and not (values.min() >= 0 and values.max() <= 255):
        raise DeviceDataError(f"{path} has values from {values.min():g} to {values.max():g}, pixels are 0 to 255")
    return values.reshape(len(values), *spec.input_shape), labels


def _column(path: Path, columns: Sequence[str] | dict[str, Any], read: Callable[[], list[Any]]) -> list[Any]:
    if LABEL not in columns:
        raise DeviceDataError(f"{path} has no column {LABEL!r}; it has {', '.join(map(str, list(columns)[:8]))}")
    return read()


def _labels(path: Path, spec: DataSpec, values: Sequence[Any]) -> NDArray[np.int64]:
    """Class numbers, from the classes' names or from numbers below the number of classes."""
    numbers = {name: number for number, name in enumerate(spec.class_names)}
    labels = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        text = str(value)
        number = numbers.get(text, int(text) if text.isdecimal() else -1)
        if not 0 <= number < spec.num_classes:
            raise DeviceDataError(
                f"{path} has the label {text!r}; the classes are {', '.join(spec.class_names[:10])}, or 0 to "
                f"{spec.num_classes - 1}"
            )
        labels[row] = number
    return labels


def _pixels(path: Path, spec: DataSpec, source: Path | io.BytesIO) -> NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DeviceDataError(f"{path} is an image, which needs Pillow: `pip install pillow`, or give CSV") from None
    if spec.kind != "image":
        raise DeviceDataError(f"{path} is an image, the data set holds {spec.kind}s")
    channels, height, width = spec.input_shape
    try:
        with Image.open(source) as image:
            if image.size != (width, height):
                raise DeviceDataError(f"{path} has {image.size[0]}x{image.size[1]} pixels, expected {width}x{height}")
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DeviceDataError(f"{path} is no image: {error}") from None
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _stacked(pixels: Sequence[NDArray[np.uint8]], spec: DataSpec) -> NDArray[np.float32]:
    return np.array(pixels, dtype=np.float32).reshape(len(pixels), *spec.input_shape)
