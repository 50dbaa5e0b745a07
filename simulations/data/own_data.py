"""A data set that a function of the user's makes: `dataset = "my_data.py:load"`.

    def load():
        return (train_x, train_y), (test_x, test_y)

A split is (features, targets) as arrays, a torch Dataset, or a Hugging Face Dataset, which is read as any table.
The function gives (train, test), (train, test, clients), a mapping with these names such as a DatasetDict, or a single
split, which `test-share` divides. `clients` says who owns the training rows: an owner a row, or the rows of each
client; `partition = "by:client"` then goes by it. It is called anew for every run: what it gives says what the set is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_mlmc import own
from fl_mlmc.clients.tables import DataError
from fl_mlmc.data.wanted import Wanted
from fl_mlmc.registry import build

from .arrays import Arrays
from .splits import Split, train_and_test, write_splits
from .tables import hub_table

EXPECTED = (
    "expected (train, test), (train, test, clients) or a mapping with these names, where a split is (features, "
    "targets) as arrays, a torch Dataset or a Hugging Face Dataset"
)


@dataclass(frozen=True)
class OwnData:
    """What the function that `text` names gives, called once."""

    text: str
    wanted: Wanted

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.text.rpartition(":")[2]

    @property
    def identity(self) -> None:
        """Only what the function gives tells."""

    def write(self, directory: Path) -> None:
        """DataError where it gives what cannot be used."""
        write_splits(directory, *self._split, self.wanted)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the train split, or the owners of its rows, as keys; errors as in `write`."""
        return self._split[0].keys(name)

    @cached_property
    def _split(self) -> tuple[Split, Split]:
        made = build(self.text, {}, "dataset", follow=own.EVERY)
        try:
            splits = _splits(made, self.text)
            read = {name: partial(_same, split) for name, split in splits.items()}
            return train_and_test(f"dataset {self.text!r}", read, self.wanted)
        except DataError:
            raise
        except Exception as error:  # a torch Dataset is the user's code, too
            raise DataError(f"{own.blamed(error)} (while dataset {self.text!r} was read)") from error


def _splits(made: Any, text: str) -> dict[str, Split]:
    parts, clients = _named(made, text)
    splits = {name: _split(part, f"{text} ({name})") for name, part in parts.items()}
    if clients is None:
        return splits
    train = splits["train"]
    if not isinstance(train, Arrays):
        raise DataError(
            f"{text} gives clients beside a table: let a column of it say who owns a row, and take by:COLUMN"
        )
    return splits | {
        "train": Arrays(train.source, train.features, train.targets, _owners(clients, train.num_rows, text))
    }


def _named(made: Any, text: str) -> tuple[dict[str, Any], Any]:
    """The splits by their names, and the clients, if it gives them."""
    if isinstance(made, Mapping):
        named = dict(made)
        clients = named.pop("clients", None)
        return named, clients
    if isinstance(made, tuple | list) and len(made) in (2, 3) and all(map(_is_split, made[:2])):
        return {"train": made[0], "test": made[1]}, made[2] if len(made) == 3 else None
    if _is_split(made):
        return {"train": made}, None
    raise DataError(f"{text} gives {_shown(made)}; {EXPECTED}")


def _is_split(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) == 2 and all(hasattr(part, "__array__") or isinstance(part, list) for part in value)
    is_listed = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return is_listed and not (isinstance(value, str | bytes) or hasattr(value, "__array__"))


def _split(part: Any, source: str) -> Split:
    from datasets import Dataset

    if isinstance(part, Dataset):
        return hub_table(source, part)
    if not _is_split(part):
        raise DataError(f"{source} is {_shown(part)}; {EXPECTED}")
    if isinstance(part, tuple | list):
        return Arrays(source, *map(_array, part))
    return _of_examples(source, (part[row] for row in range(len(part))))


def _of_examples(source: str, examples: Iterable[Any]) -> Arrays:
    """The arrays of a torch Dataset's (features, target) pairs."""
    features, targets = [], []
    for row, example in enumerate(examples):
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise DataError(f"{source} row {row} is {_shown(example)}; expected (features, target)")
        features.append(_array(example[0]))
        targets.append(_array(example[1]))
        if features[row].shape != features[0].shape or targets[row].shape != targets[0].shape:
            raise DataError(
                f"{source} row {row} has features of shape {features[row].shape} and a target of shape "
                f"{targets[row].shape}, row 0 has {features[0].shape} and {targets[0].shape}; expected one shape"
            )
    if not features:
        raise DataError(f"{source} is empty; expected at least one example")
    return Arrays(source, np.stack(features), np.stack(targets))


def _array(value: Any) -> NDArray[Any]:
    """An array, a tensor, an image or a list as numpy's own."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _owners(clients: Any, num_rows: int, text: str) -> NDArray[Any]:
    """Who owns each row, (rows,), from that or from the rows of each client; DataError unless each has one owner."""
    is_listed = isinstance(clients, Sequence) and any(hasattr(each, "__len__") for each in clients)
    if not is_listed or any(isinstance(each, str) for each in clients):
        owners = _array(clients)
        if owners.shape != (num_rows,) or owners.dtype.kind not in "iuUSO":
            raise DataError(
                f"{text} gives clients of type {owners.dtype} and shape {owners.shape}; expected an owner for each of "
                f"the {num_rows} training rows, or a list with the rows of each client"
            )
        return owners
    owners, count = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64)
    for client, rows in enumerate(map(_array, clients)):
        if rows.dtype.kind not in "iu" or (rows.size and not 0 <= rows.min() <= rows.max() < num_rows):
            raise DataError(f"{text} gives client {client} rows that are not among 0 to {num_rows - 1}")
        owners[rows] = client
        np.add.at(count, rows, 1)
    if (count != 1).any():
        row = int((count != 1).argmax())
        raise DataError(f"{text} gives row {row} to {count[row]} clients; expected one owner for each training row")
    return owners


def _same(split: Split) -> Split:
    return split


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(type(part).__name__ for part in value[:4]) or 'nothing'}"
    return f"one {type(value).__name__}"
