"""From table columns (Parquet, Arrow) to the arrays that `clients.data` reads.

Images become uint8 pixels, channels first: one channel if all are grey, else three. Texts become 2,048 hashed
word counts of unit length in float16. Columns are read in pieces, so memory holds one piece at a time.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from clients.data import FORMAT
from fl_mlmc.data.spec import Kind
from fl_mlmc.data.texts import TextEncoding

# datasets, pyarrow, Pillow and scikit-learn are imported where they are used: a run whose data is in the
# cache needs none of them, and they take a second.
if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features
    from PIL import Image

LABEL_COLUMNS = ("label", "labels", "fine_label", "target")
IMAGE_COLUMNS = ("image", "img")
TEXT_COLUMNS = ("text", "sentence", "content")

GREY_MODES = {"1", "L", "LA"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
PIECE_ROWS = 1024


@dataclass(frozen=True)
class Table:
    """One split: its columns, and `read` to go through one of them piece by piece."""

    split: str
    num_rows: int
    features: "Features"
    read: "Callable[[str], Iterator[pa.Array]]"

    def pieces(self, column: str) -> "Iterator[pa.Array]":
        if column not in self.features:
            raise no_column(column, list(self.features), self.split)
        for piece in self.read(column):
            if piece.null_count:
                raise ValueError(
                    f"column {column!r} of the {self.split} split has empty cells; expected a value in each row. "
                    f"Fill or drop those rows"
                )
            yield piece

    def values(self, column: str) -> NDArray[Any]:
        return np.concatenate([piece.to_numpy(zero_copy_only=False) for piece in self.pieces(column)])

    def is_labelled(self) -> bool:
        labels = self.values(_label_column(self))
        return labels.dtype.kind != "i" or labels.min() >= 0


def parquet_table(split: str, path: Path) -> Table:
    import pyarrow as pa
    from datasets import Features
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}. Write it again") from error

    def read(column: str) -> "Iterator[pa.Array]":
        for batch in file.iter_batches(PIECE_ROWS, columns=[column]):
            yield batch.column(0)

    return Table(split, file.metadata.num_rows, Features.from_arrow_schema(file.schema_arrow), read)


def hub_table(split: str, rows: "Dataset") -> Table:
    def read(column: str) -> "Iterator[pa.Array]":
        for piece in rows.select_columns([column]).with_format("arrow").iter(PIECE_ROWS):
            yield piece.column(column).combine_chunks()

    return Table(split, len(rows), rows.features, read)


def write_tables(directory: Path, train: Table, test: Table, encoding: TextEncoding) -> None:
    """Leave meta.json and the arrays of both splits in `directory`."""
    for table in (train, test):
        if table.num_rows == 0:
            raise ValueError(f"the {table.split} split is empty; expected at least one row")
    label = _label_column(train)
    class_names = _write_labels(directory, train, test, label)
    images = [name for name, feature in train.features.items() if _is_image(feature)]
    texts = [name for name, feature in train.features.items() if _is_text(feature) and name != label]
    if images:
        _write_images(directory, train, test, _choose(images, IMAGE_COLUMNS))
    elif texts:
        _write_texts(directory, train, test, _choose(texts, TEXT_COLUMNS), encoding)
    else:
        raise ValueError(
            f"no feature column; columns seen: {', '.join(train.features)}. Expected an image column "
            f"(datasets.Image) or a string column such as 'text' beside the label {label!r}"
        )
    write_meta(directory, "image" if images else encoding.kind, class_names)


def write_meta(directory: Path, kind: Kind, class_names: Sequence[str]) -> None:
    """meta.json, with the mean and deviation of each channel over the train features already written."""
    features = np.load(directory / "train_features.npy", mmap_mode="r")
    if kind == "tokens":  # names, not amounts
        mean, std = np.zeros(1), np.ones(1)
    else:
        mean, std = _moments(features, num_channels=features.shape[1] if kind == "image" else 1)
    meta = {
        "format": FORMAT,
        "kind": kind,
        "input_shape": list(features.shape[1:]),
        "class_names": list(class_names),
        "mean": mean.tolist(),
        "std": np.where(std > 0, std, 1.0).tolist(),
    }
    (directory / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def no_column(name: str, seen: Sequence[str], split: str = "train") -> ValueError:
    return ValueError(f"the {split} split has no column {name!r}; columns seen: {', '.join(seen)}")


def _moments(features: NDArray[Any], num_channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total, squares = np.zeros(num_channels), np.zeros(num_channels)
    for start in range(0, len(features), PIECE_ROWS):
        piece = features[start : start + PIECE_ROWS].astype(np.float64)
        piece = piece.reshape(len(piece), num_channels, -1)
        total += piece.sum(axis=(0, 2))
        squares += np.einsum("ncp,ncp->c", piece, piece)
    count = features.size / num_channels
    return total / count, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))


def _label_column(table: Table) -> str:
    from datasets import ClassLabel

    named = [name for name in LABEL_COLUMNS if name in table.features]
    typed = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    if named:
        return named[0]
    if len(typed) == 1:
        return typed[0]
    raise ValueError(
        f"no label column; columns seen: {', '.join(table.features)}. Expected one named "
        f"{' or '.join(LABEL_COLUMNS)}, or a single column of type datasets.ClassLabel"
    )


def _write_labels(directory: Path, train: Table, test: Table, column: str) -> tuple[str, ...]:
    from datasets import ClassLabel

    feature = train.features[column]
    if isinstance(feature, ClassLabel):
        if column in test.features and getattr(test.features[column], "names", None) != feature.names:
            raise ValueError(f"column {column!r} has other classes in the test split than {feature.names} in train")
        classes, names = np.arange(len(feature.names)), tuple(feature.names)
    else:
        classes = np.unique(train.values(column))
        if classes.dtype.kind not in "iubO":
            raise ValueError(f"label column {column!r} holds {classes.dtype}; expected class numbers or names")
        names = tuple(map(str, classes))
    for table in (train, test):
        values = table.values(column)
        unknown = np.setdiff1d(values, classes)
        if len(unknown):
            raise ValueError(
                f"column {column!r} of the {table.split} split holds {unknown[:5].tolist()}, which "
                f"{'is' if len(unknown) == 1 else 'are'} not among the {len(classes)} classes of the train split. "
                f"Drop those rows"
            )
        np.save(directory / f"{table.split}_labels.npy", np.searchsorted(classes, values).astype(np.int64))
    return names


def _choose(candidates: Sequence[str], preferred: Sequence[str]) -> str:
    """The best known of several columns that would do."""
    known = [name for name in preferred if name in candidates]
    if not known and len(candidates) > 1:
        raise ValueError(
            f"several feature columns: {', '.join(candidates)}; expected one, or one named {' or '.join(preferred)}. "
            f"Drop the others or rename"
        )
    return (known or list(candidates))[0]


def _is_image(feature: Any) -> bool:
    from datasets import Image

    return isinstance(feature, Image) or (isinstance(feature, dict) and "bytes" in feature)


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in {"string", "large_string"}


def _write_images(directory: Path, train: Table, test: Table, column: str) -> None:
    from PIL import Image

    tables = (train, test)
    shapes = Counter(
        (image.size, image.mode) for table in tables for piece in _images(table, column) for image in piece
    )
    sizes = sorted({size for size, _ in shapes})
    if len(sizes) > 1:
        raise ValueError(
            f"column {column!r} mixes {len(sizes)} image sizes: "
            f"{', '.join(f'{width}x{height}' for width, height in sizes[:5])}{', ...' if len(sizes) > 5 else ''}; "
            f"expected one. Resize them first"
        )
    modes = {mode for _, mode in shapes}
    if unknown := modes - GREY_MODES - COLOUR_MODES:
        raise ValueError(f"column {column!r} holds images of mode {', '.join(sorted(unknown))}; expected 8-bit pixels")
    mode, channels = ("L", 1) if modes <= GREY_MODES else ("RGB", 3)
    width, height = sizes[0]

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(height, width, channels)

    for table in tables:
        pieces = (np.stack([pixels(image) for image in piece]) for piece in _images(table, column))
        channels_first = (piece.transpose(0, 3, 1, 2) for piece in pieces)
        _write_features(directory, table, channels_first, (channels, height, width), np.uint8)


def _images(table: Table, column: str) -> "Iterator[Iterator[Image.Image]]":
    """The images of each piece; only their headers are read until pixels are asked for."""
    from PIL import Image, UnidentifiedImageError

    def opened(cells: "pa.StructArray") -> Iterator[Image.Image]:
        for cell in cells:
            data = cell["bytes"].as_buffer() or Path(cell["path"].as_py()).read_bytes()
            try:
                yield Image.open(io.BytesIO(data))
            except UnidentifiedImageError as error:
                raise ValueError(f"column {column!r} of the {table.split} split holds no image: {error}") from error

    return (opened(piece) for piece in table.pieces(column))


def _write_texts(directory: Path, train: Table, test: Table, column: str, encoding: TextEncoding) -> None:
    for table in (train, test):
        encoded = (encoding.encode(piece.to_pylist()) for piece in table.pieces(column))
        _write_features(directory, table, encoded, (encoding.length,), encoding.dtype)


def _write_features(
    directory: Path, table: Table, pieces: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    path = directory / f"{table.split}_features.npy"
    features = open_memmap(path, "w+", dtype, (table.num_rows, *shape))
    start = 0
    for piece in pieces:
        features[start : start + len(piece)] = piece
        start += len(piece)
    features.flush()
