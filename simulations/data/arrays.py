"""Splits that are arrays already: of .npy and .npz files, or of a user's own function.

Their numbers are taken as they are: floats and whole numbers are not normalised. Pixels (uint8) are, as of any image.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.clients.tables import DataError, Origin
from fl_mlmc.data.spec import TARGET_DTYPES, Kind
from fl_mlmc.data.wanted import Wanted

from .meta import write_meta

OWNERS = "client"
"""What `by:` calls the clients that a set brings along."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """One split: features (n, …), targets (n, …), and optionally the client (n,) that each row belongs to."""

    source: str
    """How its owner calls it."""
    features: NDArray[Any]
    targets: NDArray[Any] | None = None
    """None: the features tell them, as tokens do."""
    owners: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.features.ndim < 2:
            raise DataError(
                f"{self.source} has features of shape {self.features.shape}; expected (examples, numbers), or images "
                "(examples, channels, height, width)"
            )
        for name, part in (("targets", self.targets), ("clients", self.owners)):
            if part is not None and len(part) != len(self.features):
                raise DataError(f"{self.source} has {len(self.features)} examples and {len(part)} {name}")

    @property
    def num_rows(self) -> int:
        """Examples."""
        return len(self.features)

    def taken(self, rows: NDArray[np.int64]) -> "Arrays":
        """Some of the examples."""
        targets, owners = (None if part is None else part[rows] for part in (self.targets, self.owners))
        return replace(self, features=self.features[rows], targets=targets, owners=owners)

    def keys(self, name: str) -> NDArray[Any]:
        """The owners of rows; DataError for any other name than "client", or where there are none."""
        if name != OWNERS or self.owners is None:
            seen = "no columns" if self.owners is None else f"one column, {OWNERS!r}"
            raise Origin(self.source).error(
                f"has no column {name!r} to share rows out by: it is arrays with {seen}. Give `clients` beside train "
                f"and test, an owner for each training row, and take partition 'by:{OWNERS}'"
            )
        return self.owners


def write_arrays(directory: Path, train: Arrays, test: Arrays, wanted: Wanted) -> None:
    """Leave meta.json and the arrays of both splits in `directory`; DataError where they cannot be used."""
    if wanted.target_columns or wanted.feature_columns:
        raise DataError(f"{train.source} is arrays, which have no columns: leave `features` and `targets` empty")
    for split in (train, test):
        if split.num_rows == 0:
            raise DataError(f"{split.source} is empty; expected at least one example")
    if wanted.targets == "tokens":
        train, test = _shifted(train), _shifted(test)
    kind, features = _features(train)
    own_kind, own = _features(test)
    if (own_kind, own.shape[1:], own.dtype) != (kind, features.shape[1:], features.dtype):
        raise DataError(
            f"{test.source} has features {test.features.dtype} of shape {test.features.shape}, {train.source} has "
            f"{train.features.dtype} of {train.features.shape}; expected both alike but for the number of examples"
        )
    for name, values in (("train", features), ("test", own)):
        np.save(directory / f"{name}_features.npy", values)
    names, *labels = _targets(train, test, wanted)
    for name, part in zip(("train", "test"), labels, strict=True):
        np.save(directory / f"{name}_labels.npy", np.ascontiguousarray(part, TARGET_DTYPES[wanted.targets][0]))
    write_meta(directory, kind, names, wanted.targets, is_raw=features.dtype == np.float32)


def _features(split: Arrays) -> tuple[Kind, NDArray[Any]]:
    """The features in the form that they are stored in."""
    values = split.features
    if values.dtype.kind not in "biuf":
        raise DataError(f"{split.source} has features of type {values.dtype}; expected numbers")
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        if values.ndim == 3:
            values = values[:, None]
        elif values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
            values = values.transpose(0, 3, 1, 2)  # channels last, as most libraries hand images out
        return "image", np.ascontiguousarray(values)
    if values.dtype.kind in "iu" and values.dtype != np.uint8 and values.ndim == 2:
        if values.size and (values.min() < -(2**31) or values.max() >= 2**31):
            raise DataError(f"{split.source} has whole numbers beyond 32 bits as features; give floats")
        return "tokens", np.ascontiguousarray(values, np.int32)
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(values, np.float32)
    _check_finite(split, "features", numbers, values)
    return {2: "vector", 4: "image"}.get(values.ndim, "array"), numbers  # type: ignore[return-value]


def _shifted(split: Arrays) -> Arrays:
    """Token rows (n, length + 1) as what is there and what follows; rows that bring their targets stay."""
    if split.targets is not None:
        return split
    if split.features.dtype.kind not in "iu" or split.features.ndim != 2 or split.features.shape[1] < 2:
        raise DataError(
            f"{split.source} has features of type {split.features.dtype} and shape {split.features.shape}; to foretell "
            "the next token they are whole numbers of shape (examples, length), of two tokens at least"
        )
    return replace(split, features=split.features[:, :-1].astype(np.int32), targets=split.features[:, 1:])


def _targets(train: Arrays, test: Arrays, wanted: Wanted) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any]]:
    """The names of what a model gives, and the targets of both splits."""
    if train.targets is None or test.targets is None:
        bare = train if train.targets is None else test
        raise DataError(f"{bare.source} has features alone; expected targets beside them")
    match wanted.targets:
        case "classes":
            return _classes(train, test, wanted.test_share > 0)
        case "tokens":
            first, second = (_whole(split, split.features.shape) for split in (train, test))
            parts = (first, second, train.features, test.features)
            if min(int(part.min()) for part in parts) < 0:
                raise DataError(f"{train.source} has tokens below 0")
            return tuple(map(str, range(max(int(part.max()) for part in parts) + 1))), first, second
        case _:
            first, second = (_numbers(split, wanted.targets == "flags") for split in (train, test))
            if first.shape[1] != second.shape[1]:
                raise DataError(f"{test.source} has {second.shape[1]} targets an example, the others {first.shape[1]}")
            return tuple(map(str, range(first.shape[1]))), first, second


def _classes(train: Arrays, test: Arrays, are_one: bool) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any]]:
    for split in (train, test):
        targets = split.targets
        if targets is None or targets.ndim != 1 or targets.dtype.kind not in "biuUSO":
            shown = "none" if targets is None else f"{targets.dtype} of shape {targets.shape}"
            raise DataError(
                f"{split.source} has targets {shown}; expected one class an example, whole numbers or texts of shape "
                "(examples,). For numbers take objective 'mse', for zeros and ones 'bce'"
            )
    assert train.targets is not None
    assert test.targets is not None
    classes = np.unique(np.concatenate([train.targets, test.targets]) if are_one else train.targets)
    numbers = np.searchsorted(classes, test.targets).clip(max=len(classes) - 1)
    if (unknown := classes[numbers] != test.targets).any():
        row = int(unknown.argmax())
        raise DataError(
            f"{test.source} row {row} has the class {test.targets[row]}, which is not among the {len(classes)} "
            f"classes of {train.source}"
        )
    return tuple(map(str, classes)), np.searchsorted(classes, train.targets), numbers


def _whole(split: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    assert split.targets is not None
    if split.targets.dtype.kind not in "iu" or split.targets.shape != shape:
        raise DataError(
            f"{split.source} has targets {split.targets.dtype} of shape {split.targets.shape}; expected the tokens "
            f"that follow, whole numbers of shape {shape}"
        )
    return split.targets


def _numbers(split: Arrays, are_flags: bool) -> NDArray[Any]:
    assert split.targets is not None
    targets = split.targets[:, None] if split.targets.ndim == 1 else split.targets
    if targets.ndim != 2 or targets.dtype.kind not in "biuf":
        what = "zeros and ones" if are_flags else "numbers"
        raise DataError(
            f"{split.source} has targets {split.targets.dtype} of shape {split.targets.shape}; expected {what} of "
            "shape (examples,) or (examples, targets)"
        )
    if are_flags and (odd := (targets != 0) & (targets != 1)).any():
        row, column = (int(places[0]) for places in odd.nonzero())
        raise DataError(f"{split.source} row {row} has the target {targets[row, column]}; expected 0 or 1")
    with np.errstate(over="ignore"):
        numbers = targets.astype(np.float32)
    _check_finite(split, "targets", numbers, targets)
    return numbers


def _check_finite(split: Arrays, what: str, numbers: NDArray[np.float32], given: NDArray[Any]) -> None:
    if not (finite := np.isfinite(numbers)).all():
        place = tuple(int(places[0]) for places in (~finite).nonzero())
        raise DataError(f"{split.source} row {place[0]} has {given[place]} among its {what}; expected finite numbers")
