"""The two splits of a data set, whatever they are made of."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fl_mlmc.clients.tables import DataError, Table
from fl_mlmc.data.wanted import Wanted
from fl_mlmc.run.rng import stream

from .arrays import Arrays, write_arrays
from .tables import is_labelled, write_tables

Split = Table | Arrays

Splits = Mapping[str, Callable[[], Split]]
"""The splits of a data set by their names, read when they are asked for."""

TEST_SPLITS = ("test", "validation")
"""Splits to evaluate on, the best first. The hub withholds the labels of some test splits, such as SST-2's."""


def train_and_test(name: str, splits: Splits, wanted: Wanted) -> tuple[Split, Split]:
    """The train split and the one to evaluate on; of a set without that, `test-share` of the train rows, by chance.

    The same rows whatever the run's seed: they are part of what the set is. DataError where it cannot be had.
    """
    if "train" not in splits:
        raise DataError(f"{name} has no train split; splits seen: {', '.join(splits) or 'none'}")
    tests = (splits[split]() for split in TEST_SPLITS if split in splits)
    test = next((split for split in tests if isinstance(split, Arrays) or is_labelled(split, wanted)), None)
    train = splits["train"]()
    if test is not None:
        if wanted.test_share:
            raise DataError(f"{name} has a test split of its own: leave test-share at 0, got {wanted.test_share:g}")
        return train, test
    count = round(wanted.test_share * train.num_rows)
    if not wanted.test_share:
        raise DataError(
            f"{name} has no labelled test or validation split. Set test-share, such as test-share = 0.2, to have it "
            "divided, or divide its train split into train.parquet and test.parquet, and point data-dir to their folder"
        )
    if not 0 < count < train.num_rows:
        raise DataError(f"{name} has {train.num_rows} rows: test-share {wanted.test_share:g} makes {count} test rows")
    order = stream(0, "test-share").permutation(train.num_rows)
    return train.taken(np.sort(order[count:])), train.taken(np.sort(order[:count]))


def write_splits(directory: Path, train: Split, test: Split, wanted: Wanted) -> None:
    """Leave meta.json and the arrays of both splits in `directory`; DataError where a split cannot be used."""
    if isinstance(train, Arrays) and isinstance(test, Arrays):
        write_arrays(directory, train, test, wanted)
    elif isinstance(train, Table) and isinstance(test, Table):
        write_tables(directory, train, test, wanted)
    else:
        raise DataError(f"{train.source} and {test.source}: one split is a table, the other arrays; give both alike")
