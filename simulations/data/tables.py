"""From tables (`fl_mlmc.clients.tables`) to the arrays that `fl_mlmc.clients.data` reads.

Images become uint8 pixels, channels first: one channel if all are grey, else three. Texts become 2,048 hashed
word counts of unit length in float16. Numbers are read as float32, a column beside the other, and normalised each by
itself. Columns are read in pieces, so memory holds one piece at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from fl_mlmc.clients.images import Picture
from fl_mlmc.clients.tables import NUMBERS, PIECE_ROWS, DataError, Origin, Table, arrow_part
from fl_mlmc.data.spec import Kind
from fl_mlmc.data.texts import Characters, TextEncoding
from fl_mlmc.data.wanted import Wanted

from .meta import write_meta

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


def is_labelled(table: Table, wanted: Wanted) -> bool:
    """Whether the rows have labels: the hub withholds those of some test splits, which are -1 then."""
    if wanted.targets != "classes":
        return True
    labels = table.classes(_target_columns(table, wanted)[0])
    return labels.dtype.kind != "i" or labels.min(initial=0) >= 0


def write_tables(directory: Path, train: Table, test: Table, wanted: Wanted) -> None:
    """Leave meta.json and the arrays of both splits in `directory`; DataError where a split cannot be used."""
    for table in (train, test):
        if table.num_rows == 0:
            raise DataError(f"{table.source} is empty; expected at least one row")
    if wanted.targets == "tokens":
        _write_sequences(directory, train, test, wanted)
        return
    columns = _target_columns(train, wanted)
    names = _WRITE_TARGETS[wanted.targets](directory, train, test, columns, wanted.test_share > 0)
    kind, used = _write_inputs(directory, train, test, columns, wanted)
    write_meta(directory, kind, names, wanted.targets, used)


def _write_inputs(
    directory: Path, train: Table, test: Table, targets: Sequence[str], wanted: Wanted
) -> tuple[Kind, Sequence[str]]:
    """Write the features of both splits; their kind, and the columns of a table."""
    chosen = wanted.feature_columns
    for name in chosen:
        if name in targets:
            raise Origin(train.source, name).error("is named by both `features` and `targets`; take it from one")
        train.column(name)
    others = chosen or [name for name in train.columns if name not in (*targets, wanted.owner_column)]
    images = [name for name in others if train.columns[name].holds == "image"]
    images = images or [name for name in IMAGE_COLUMNS if name in others and train.column(name).holds == "bytes"]
    texts = [name for name in others if train.is_text(name)]
    numbers = [name for name in others if train.columns[name].holds in NUMBERS and name not in texts]
    if chosen and sum(map(bool, (images, texts, numbers))) > 1:
        kinds = {"images": images, "texts": texts, "numbers": numbers}
        seen = [f"{kind} ({', '.join(names)})" for kind, names in kinds.items() if names]
        raise DataError(
            f"{train.source}: features names {' beside '.join(seen)}; a model takes one column of images, one of "
            "texts, or any of numbers"
        )
    if images:
        _write_images(directory, train, test, _choose(train, images, IMAGE_COLUMNS))
        return "image", ()
    if texts and (chosen or wanted.targets == "classes" or not numbers):
        _write_texts(directory, train, test, _choose(train, texts, TEXT_COLUMNS, numbers), wanted.encoding)
        return wanted.encoding.kind, ()
    if texts:
        raise DataError(
            f"{train.source} has columns of texts ({', '.join(texts)}) beside numbers; say which to train on, e.g. "
            f"features = {','.join(numbers[:8])!r}"
        )
    if not numbers:
        raise DataError(
            f"{train.source} has no feature column; columns seen: {', '.join(train.columns)}. Expected an image column "
            f"(datasets.Image), a string column such as 'text', or numbers beside {', '.join(map(repr, targets))}"
        )
    _write_numbers(directory, train, test, numbers)
    return "vector", numbers


def _target_columns(table: Table, wanted: Wanted) -> tuple[str, ...]:
    columns = wanted.target_columns or (_label_column(table),)
    if wanted.targets == "classes" and len(columns) > 1:
        raise DataError(
            f"targets names {', '.join(columns)}; one class an example stands in one column. For several numbers take "
            "objective 'mse', for several zeros and ones 'bce'"
        )
    return columns


def _label_column(table: Table) -> str:
    named = [name for name in LABEL_COLUMNS if name in table.columns]
    typed = [name for name, column in table.columns.items() if column.class_names]
    if named:
        return named[0]
    if len(typed) == 1:
        return typed[0]
    raise DataError(
        f"{table.source} has no label column; columns seen: {', '.join(table.columns)}. Expected one named "
        f"{' or '.join(LABEL_COLUMNS)}, or a single column of type datasets.ClassLabel; or name it: targets = 'COLUMN'"
    )


def _write_labels(directory: Path, train: Table, test: Table, columns: Sequence[str], are_one: bool) -> tuple[str, ...]:
    """Labels as class numbers; the classes' names, which are those of the train split.

    `are_one`: the splits were drawn from one table, and a class may have come to either.
    """
    (name,) = columns
    names, own = train.column(name).class_names, test.column(name).class_names
    if names and own != names:
        raise Origin(test.source, name).error(
            f"has other classes ({', '.join(own) or 'without names'}) than {', '.join(names)} in {train.source}"
        )
    values = train.classes(name)
    classes = np.arange(len(names)) if names else np.unique(values)
    # Whole numbers that some tool wrote as real ones are still classes, where the train split says so.
    tests = test.keys(name) if test.column(name).holds == "real" else test.classes(name)
    if are_one and not names:
        classes = np.unique(np.concatenate([values, tests]))
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


def _write_reals(directory: Path, train: Table, test: Table, columns: Sequence[str], are_one: bool) -> tuple[str, ...]:
    """Columns of numbers side by side; their names."""
    for split, table in (("train", train), ("test", test)):
        np.save(directory / f"{split}_labels.npy", np.stack([table.numbers(name) for name in columns], axis=1))
    return tuple(columns)


def _write_flags(directory: Path, train: Table, test: Table, columns: Sequence[str], are_one: bool) -> tuple[str, ...]:
    """Columns of zeros and ones side by side, or one of lists of classes; the names of the flags."""
    if len(columns) == 1 and train.column(columns[0]).holds == "list":
        return _write_lists(directory, train, test, columns[0])
    for split, table in (("train", train), ("test", test)):
        flags = np.stack([table.numbers(name) for name in columns], axis=1)
        if (odd := (flags != 0) & (flags != 1)).any():
            row, column = (int(places[0]) for places in odd.nonzero())
            raise table.origin(columns[column], row).error(f"holds {flags[row, column]:g}; expected 0 or 1")
        np.save(directory / f"{split}_labels.npy", flags.astype(np.uint8))
    return tuple(columns)


def _write_lists(directory: Path, train: Table, test: Table, name: str) -> tuple[str, ...]:
    lists = {
        split: [cell for piece in table.cells(name) for cell in piece]
        for split, table in (("train", train), ("test", test))
    }
    seen = max((number for cell in lists["train"] for number in cell if number is not None), default=0)
    names = train.column(name).class_names or tuple(map(str, range(seen + 1)))
    for split, table in (("train", train), ("test", test)):
        flags = np.zeros((table.num_rows, len(names)), np.uint8)
        for row, cell in enumerate(lists[split]):
            for number in cell:
                if number is None or not 0 <= number < len(names):
                    raise table.origin(name, row).error(f"holds {number}; the classes are 0 to {len(names) - 1}")
                flags[row, number] = 1
        np.save(directory / f"{split}_labels.npy", flags)
    return names


_WRITE_TARGETS = {"classes": _write_labels, "reals": _write_reals, "flags": _write_flags}


def _is_of_texts(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "O" and isinstance(values[0], str)


def _written(values: NDArray[Any]) -> str:
    return f"text ({values[0]!r})" if _is_of_texts(values) else f"numbers ({values[0]})"


def _choose(table: Table, candidates: Sequence[str], preferred: Sequence[str], numbers: Sequence[str] = ()) -> str:
    """The best known of several columns that would do; `numbers` would, too, all together."""
    known = [name for name in preferred if name in candidates]
    if not known and len(candidates) > 1:
        beside = f", or the numbers, features = {','.join(numbers[:8])!r}" if numbers else ""
        raise DataError(
            f"{table.source} has several feature columns: {', '.join(candidates)}; expected one, or one named "
            f"{' or '.join(preferred)}. Say which to train on: features = {candidates[0]!r}{beside}"
        )
    return (known or list(candidates))[0]


def _check_alike(train: Table, test: Table, name: str) -> None:
    """DataError where a feature is of another kind in the test split."""
    seen, expected = test.column(name), train.column(name)
    if seen.holds != expected.holds and not {seen.holds, expected.holds} <= {"image", "bytes"}:
        raise Origin(test.source, name).error(f"holds {seen.kind}; expected {expected.kind}, as {train.source} has it")


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


def _write_numbers(directory: Path, train: Table, test: Table, names: Sequence[str]) -> None:
    for split, table in (("train", train), ("test", test)):
        features = open_memmap(directory / f"{split}_features.npy", "w+", np.float32, (table.num_rows, len(names)))
        for place, name in enumerate(names):
            features[:, place] = table.numbers(name)
        features.flush()


def _write_sequences(directory: Path, train: Table, test: Table, wanted: Wanted) -> None:
    """Texts as characters, and as the characters that follow them."""
    if not isinstance(wanted.encoding, Characters):
        raise DataError(
            f"to foretell the next token, texts go in as characters: set text = 'characters', or 'characters(length=…)'"
            f"; got {wanted.encoding!r}"
        )
    others = wanted.feature_columns or [name for name in train.columns if name != wanted.owner_column]
    texts = [name for name in others if train.is_text(name)]
    if not texts:
        raise DataError(f"{train.source} has no column of texts; columns seen: {', '.join(train.columns)}")
    name, length = _choose(train, texts, TEXT_COLUMNS), wanted.encoding.length
    _write_texts(directory, train, test, name, replace(wanted.encoding, length=length + 1))
    for split in ("train", "test"):
        whole = np.load(directory / f"{split}_features.npy")
        np.save(directory / f"{split}_features.npy", np.ascontiguousarray(whole[:, :-1]))
        np.save(directory / f"{split}_labels.npy", np.ascontiguousarray(whole[:, 1:]))
    write_meta(directory, wanted.encoding.kind, tuple(map(str, range(256))), wanted.targets)


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
