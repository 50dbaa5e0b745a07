"""A device's own examples: a CSV, Parquet or Arrow file, or a folder of images, read with what the device has.

CSV needs numpy alone, Parquet and Arrow pyarrow, images Pillow. What the values mean (shape, classes, normalisation)
is the server's word, so that all clients and the test split agree.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.data.spec import DataSpec

from .data import Examples, Labels, normalised, parse_meta
from .images import Picture
from .tables import NUMBERS, READERS, DataError, Origin, Table

LABEL = "label"
IMAGES = ("image", "img")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


@dataclass(frozen=True, eq=False)
class DeviceData:
    """The examples of the one client on this device."""

    spec: DataSpec
    _examples: Examples

    @classmethod
    def open(cls, path: Path, meta: str) -> "DeviceData":
        """Read a file or folder; `meta` is what `FederatedData.meta` says of the run's data set.

        DataError if nothing there can be used.
        """
        if not meta:
            raise DataError(
                f"{path}: the server sent no description of the data set; data of a device's own is for engine 'flower'"
            )
        spec, mean, std = parse_meta(json.loads(meta))
        if not path.exists():
            raise DataError(f"data-path {path} does not exist on this device")
        features, labels = _folder(path, spec) if path.is_dir() else _file(path, spec)
        if len(labels) == 0:
            raise DataError(f"{path} holds no examples")
        return cls(spec, (normalised(features, mean, std), labels))

    def client(self, client: int) -> Examples:
        """The examples of the device, whatever its number."""
        return self._examples

    def client_labels(self, client: int) -> Labels:
        """Those of all examples."""
        return self._examples[1]

    def client_features(self, client: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (len(rows), *input_shape): those of some of the examples, by their places."""
        return self._examples[0][rows]


def _file(path: Path, spec: DataSpec) -> Examples:
    if (read := READERS.get(path.suffix.lower())) is None:
        raise DataError(f"data-path {path} is no {', no '.join(READERS)} file and no folder of images")
    table = read(path)
    labels = _labels(table, spec) if spec.targets == "classes" else _numbers(table, spec)
    image = next((name for name in IMAGES if name in table.columns), None)
    if image is None or table.column(image).holds in NUMBERS:
        return _values(table, spec), labels
    cells = (cell for piece in table.cells(image) for cell in piece)
    return _stacked((_pixels(cell, table.origin(image, row), spec) for row, cell in enumerate(cells)), spec), labels


def _folder(path: Path, spec: DataSpec) -> Examples:
    if spec.targets != "classes":
        raise DataError(f"{path} is a folder of images by class, the data set has targets of the kind {spec.targets!r}")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    if not folders:
        raise DataError(f"{path} has no folders; expected one for each class, such as {path / spec.class_names[0]}")
    files = [
        file
        for folder in folders
        for file in sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
    ]
    pixels = _stacked((_pixels(file, Origin(str(file)), spec) for file in files), spec)
    labels = [_class(file.parent.name, spec, Origin(str(file.parent))) for file in files]
    return pixels, np.array(labels, dtype=np.int64)


def _values(table: Table, spec: DataSpec) -> NDArray[np.float32]:
    """The columns of numbers, in order; float32 (n, *input_shape). What cannot be a number is not looked at.

    Where the data set is a table itself, the columns of its names.
    """
    targets = (LABEL,) if spec.targets == "classes" else spec.class_names
    names = [name for name in table.names if name not in targets and table.columns[name].holds in NUMBERS]
    names = list(spec.columns) or names
    wanted = int(np.prod(spec.input_shape))
    if len(names) != wanted:
        beside = ", ".join(map(repr, targets))
        raise DataError(
            f"{table.source} has {len(names)} columns beside {beside}, the data set has {wanted} values an example, "
            f"of shape {spec.input_shape}"
        )
    values = np.empty((table.num_rows, wanted), dtype=np.float32)
    for index, name in enumerate(names):
        values[:, index] = column = table.numbers(name)
        if spec.kind == "image" and (wrong := (column < 0) | (column > 255)).any():
            row = int(wrong.argmax())
            raise table.origin(name, row).error(f"holds {column[row]:g}, pixels are 0 to 255")
    return values.reshape(-1, *spec.input_shape)


def _labels(table: Table, spec: DataSpec) -> NDArray[np.int64]:
    """Class numbers, from the classes' names or from numbers below the number of classes."""
    own_names = table.column(LABEL).class_names
    labels = np.empty(table.num_rows, dtype=np.int64)
    for row, value in enumerate(table.classes(LABEL)):
        named = own_names[value] if own_names and 0 <= value < len(own_names) else value
        labels[row] = _class(str(named), spec, table.origin(LABEL, row))
    return labels


def _numbers(table: Table, spec: DataSpec) -> Labels:
    """float32 (n, names): the columns of the data set's targets; DataError where these are no columns of numbers."""
    if spec.targets == "tokens":
        raise DataError(f"{table.source}: a device's own files are no sequences of tokens to foretell")
    values = np.stack([table.numbers(name) for name in spec.class_names], axis=1)
    if spec.targets == "flags" and (odd := (values != 0) & (values != 1)).any():
        row, column = (int(places[0]) for places in odd.nonzero())
        raise table.origin(spec.class_names[column], row).error(f"holds {values[row, column]:g}; expected 0 or 1")
    return values


def _class(text: str, spec: DataSpec, origin: Origin) -> int:
    if text in spec.class_names:
        return spec.class_names.index(text)
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < spec.num_classes:
        raise origin.error(
            f"has the label {text!r}; the classes are {', '.join(spec.class_names[:10])}, or 0 to "
            f"{spec.num_classes - 1}"
        )
    return number


def _pixels(cell: Any, origin: Origin, spec: DataSpec) -> NDArray[np.uint8]:
    if spec.kind != "image":
        raise origin.error(f"is an image, the data set holds {spec.kind}s")
    picture = Picture.open(cell, origin)
    channels, height, width = spec.input_shape
    if picture.image.size != (width, height):
        own_width, own_height = picture.image.size
        raise picture.origin.error(f"has {own_width}x{own_height} pixels, expected {width}x{height}")
    return picture.pixels(channels)


def _stacked(pixels: Iterable[NDArray[np.uint8]], spec: DataSpec) -> NDArray[np.float32]:
    return np.array(list(pixels), dtype=np.float32).reshape(-1, *spec.input_shape)
