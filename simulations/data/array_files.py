"""Splits in numpy's own files.

    set.npz             features and targets; or train_features, train_targets, test_features, test_targets
    set/                train_features.npy, train_targets.npy, test_features.npy, test_targets.npy
    tokens.npy          rows of tokens alone, for objective "next_token"

`x` and `y` may stand for features and targets, and the split may stand behind: x_train. An .npz may hold `clients`, the
owner of each training row, for `by:client`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.clients.tables import DataError

from .arrays import Arrays

ARRAY_SUFFIXES = (".npz", ".npy")
FEATURES, TARGETS = ("features", "x"), ("targets", "labels", "y")


def is_array_folder(directory: Path) -> bool:
    """Whether a folder holds splits as .npy files."""
    return any((directory / f"{name}.npy").is_file() for name in _spellings("train", FEATURES))


def array_splits(path: Path) -> Mapping[str, Callable[[], Arrays]]:
    """The splits in a file or a folder; DataError, with what is there, where none is found."""
    try:
        return _splits(path)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as numpy's: {error}. Write it again, without objects") from None


def _splits(path: Path) -> Mapping[str, Callable[[], Arrays]]:
    held: Mapping[str, Any]
    if path.is_dir():
        held = {file.stem: partial(np.load, file, mmap_mode="r") for file in sorted(path.glob("*.npy"))}
    elif path.suffix.lower() == ".npy":
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        return {"train": lambda: Arrays(str(path), tokens)}
    else:
        with np.load(path, allow_pickle=False) as file:
            held = {name: partial(_same, file[name]) for name in file.files}
    found: dict[str, Callable[[], Arrays]] = {}
    for split in ("train", "test"):
        features = next((name for name in _spellings(split, FEATURES) if name in held), None)
        if features is None:
            continue
        targets = next((name for name in _spellings(split, TARGETS) if name in held), None)
        owners = held.get("clients") if split == "train" else None
        found[split] = partial(_read, f"{path} ({split})", held[features], targets and held[targets], owners)
    if "train" not in found:
        raise DataError(
            f"{path} has no features to train on; it holds {', '.join(sorted(held)) or 'nothing'}. Expected arrays "
            f"called features and targets, or train_features, train_targets, test_features and test_targets"
        )
    return found


def _spellings(split: str, names: tuple[str, ...]) -> list[str]:
    alone = list(names) if split == "train" else []
    return [spelt for name in names for spelt in (f"{split}_{name}", f"{name}_{split}")] + alone


def _read(source: str, features: Any, targets: Any, owners: Any) -> Arrays:
    try:
        return Arrays(source, features(), targets() if targets else None, owners() if owners else None)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source} cannot be read as numpy's: {error}. Write it again, without objects") from None


def _same(array: NDArray[Any]) -> NDArray[Any]:
    return array
