"""From tables (`fl_mlmc.clients.tables`) to the arrays that `fl_mlmc.clients.data` reads.

Images become uint8 pixels, channels first: one channel if all are grey, else three. Texts become 2,048 hashed
word counts of unit length in float16. Columns are read in pieces, so memory holds one piece at a time.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from fl_mlmc.clients.data import FORMAT
from fl_mlmc.clients.images import Picture
from fl_mlmc.clients.tables import PIECE_ROWS, DataError, Origin, Table, arrow_part
from fl_mlmc.data.spec import Kind
from fl_mlmc.data.texts import TextEncoding

# datasets and scikit-learn are imported where they are used: a run whose data is in the cache needs neither, and they
# take a second.
if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

LABEL_COLUMNS = ("label", "labels", "fine_label", "target")
IMAGE_COLUMNS = ("image", "img")
TEXT_COLUMNS = ("text", "sentence", "content")


def hub_table(source: str, rows: "Dataset") -> Table:
    """A split of a data set in Hugging Face's library; `source` is what its owner calls it."""

    def read(column: str) -> "Iterator[pa.Array]":
        for piece in rows.select_columns([column]).with_format("arrow").iter(PIECE_ROWS):
            yield piece.column(column).combine_chunks()

    return Table((arrow_part(source, len(rows), rows.features.arrow_schema, read),))


def is_labelled(table: Table) -> bool:
    """Whether the rows have labels: the hub withholds those of some test splits, which are -1 then."""
    labels = table.classes(_label_column(table))
    return labels.dtype.kind != "i" or labels.min(initial=0) >= 0


def write_tables(directory: Path, train: Table, test: Table, encoding: TextEncoding) -> None:
    """Leave meta.json and the arrays of both splits in `directory`; DataError where a split cannot be used."""
    for table in (train, test):
        if table.num_rows == 0:
            raise DataError(f"{table.source} is empty; expected at least one row")
    label = _label_column(train)
    class_names = _write_labels(directory, train, test, label)
    images = [name for name, column in train.columns.items() if column.holds == "image"]
    images = images or [name for name in IMAGE_COLUMNS if name in train.columns and train.column(name).holds == "bytes"]
    texts = [name for name in train.columns if name != label and _is_text(train, name)]
    if images:
        _write_images(directory, train, test, _choose(train, images, IMAGE_COLUMNS))
    elif texts:
        _write_texts(directory, train, test, _choose(train, texts, TEXT_COLUMNS), encoding)
    else:
        raise DataError(
            f"{train.source} has no feature column; columns seen: {', '.join(train.columns)}. Expected an image column "
            f"(datasets.Image) or a string column such as 'text' beside the label {label!r}"
        )
    write_meta(directory, "image" if images else encoding.kind, class_names)


def write_meta(directory: Path, kind: Kind, class_names: Sequence[str]) -> None:
    """meta.json, with the mean and deviation of each channel over the train features already written, and a digest.

    The digest is of all that clients train and the server evaluates on: equal digests promise equal arrays.
    """
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
    arrays = [directory / f"{split}_{part}.npy" for split in ("train", "test") for part in ("features", "labels")]
    meta["digest"] = digest(json.dumps(meta), *arrays)
    (directory / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def digest(text: str, *files: Path) -> str:
    """A digest of a text and of files' bytes."""
    total = hashlib.blake2b(text.encode(), digest_size=16)
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


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
    named = [name for name in LABEL_COLUMNS if name in table.columns]
    typed = [name for name, column in table.columns.items() if column.class_names]
    if named:
        return named[0]
    if len(typed) == 1:
        return typed[0]
    raise DataError(
        f"{table.source} has no label column; columns seen: {', '.join(table.columns)}. Expected one named "
        f"{' or '.join(LABEL_COLUMNS)}, or a single column of type datasets.ClassLabel"
    )


def _write_labels(directory: Path, train: Table, test: Table, name: str) -> tuple[str, ...]:
    """Labels as class numbers; the classes' names, which are those of the train split."""
    names, own = train.column(name).class_names, test.column(name).class_names
    if names and own != names:
        raise Origin(test.source, name).error(
            f"has other classes ({', '.join(own) or 'without names'}) than {', '.join(names)} in {train.source}"
        )
    values = train.classes(name)
    classes = np.arange(len(names)) if names else np.unique(values)
    # Whole numbers that some tool wrote as real ones are still classes, where the train split says so.
    tests = test.keys(name) if test.column(name).holds == "real" else test.classes(name)
    for split, table, labels in (("train", train, values), ("test", test, tests)):
        if _is_of_texts(labels) != _is_of_texts(classes):
            raise Origin(table.source, name).error(
                f"holds {_written(labels)}, in {train.source} it holds {_written(classes)}: one split has its classes "
                f"as text, the other as numbers. Write both alike"
            )
        numbers = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        unknown = classes[numbers] != labels
        if unknown.any():
            first, seen = int(unknown.argmax()), np.unique(labels[unknown])[:5].tolist()
            raise table.origin(name, first).error(
                f"holds {labels[first]}: the {split} split holds {seen}, which "
                f"{'is' if len(seen) == 1 else 'are'} not among the {len(classes)} classes of the train split. "
                f"Drop those rows"
            )
        np.save(directory / f"{split}_labels.npy", numbers.astype(np.int64))
    return names or tuple(map(str, classes))


def _is_of_texts(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "O" and isinstance(values[0], str)


def _written(values: NDArray[Any]) -> str:
    return f"text ({values[0]!r})" if _is_of_texts(values) else f"numbers ({values[0]})"


def _choose(table: Table, candidates: Sequence[str], preferred: Sequence[str]) -> str:
    """The best known of several columns that would do."""
    known = [name for name in preferred if name in candidates]
    if not known and len(candidates) > 1:
        raise DataError(
            f"{table.source} has several feature columns: {', '.join(candidates)}; expected one, or one named "
            f"{' or '.join(preferred)}. Drop the others or rename"
        )
    return (known or list(candidates))[0]


def _check_alike(train: Table, test: Table, name: str) -> None:
    """DataError where a feature is of another kind in the test split."""
    seen, expected = test.column(name), train.column(name)
    if seen.holds != expected.holds and not {seen.holds, expected.holds} <= {"image", "bytes"}:
        raise Origin(test.source, name).error(f"holds {seen.kind}; expected {expected.kind}, as {train.source} has it")


def _is_text(table: Table, name: str) -> bool:
    """Whether a column holds texts; in CSV, where all are, one that is not all numbers."""
    if (holds := table.columns[name].holds) != "field":
        return holds == "text"
    try:
        table.numbers(name)
    except DataError:
        return True
    return False


def _write_images(directory: Path, train: Table, test: Table, name: str) -> None:
    _check_alike(train, test, name)
    sizes: dict[tuple[int, int], Origin] = {}
    is_grey = True
    for table in (train, test):
        for piece in _pictures(table, name):
            for picture in piece:
                sizes.setdefault(picture.image.size, picture.origin)
                is_grey = is_grey and picture.is_grey
    if len(sizes) > 1:
        seen = [f"{width}x{height} ({origin})" for (width, height), origin in sorted(sizes.items())]
        raise DataError(
            f"{train.source} column {name!r} mixes {len(sizes)} image sizes: {', '.join(seen[:3])}"
            f"{', …' if len(seen) > 3 else ''}; expected one. Resize them first"
        )
    ((width, height),) = sizes
    channels = 1 if is_grey else 3
    for split, table in (("train", train), ("test", test)):
        stacks = (np.stack([picture.pixels(channels) for picture in piece]) for piece in _pictures(table, name))
        _write_features(directory, split, table, stacks, (channels, height, width), np.uint8)


def _pictures(table: Table, name: str) -> Iterator[Iterator[Picture]]:
    start = 0
    for cells in table.cells(name):
        yield (Picture.open(cell, table.origin(name, row)) for row, cell in enumerate(cells, start))
        start += len(cells)


def _write_texts(directory: Path, train: Table, test: Table, name: str, encoding: TextEncoding) -> None:
    _check_alike(train, test, name)
    for split, table in (("train", train), ("test", test)):
        encoded = (encoding.encode(texts) for texts in table.cells(name))
        _write_features(directory, split, table, encoded, (encoding.length,), encoding.dtype)


def _write_features(
    directory: Path,
    split: str,
    table: Table,
    pieces: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: type[np.generic],
) -> None:
    features = open_memmap(directory / f"{split}_features.npy", "w+", dtype, (table.num_rows, *shape))
    start = 0
    for piece in pieces:
        features[start : start + len(piece)] = piece
        start += len(piece)
    features.flush()
