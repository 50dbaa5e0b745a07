"""Data of one's own: a function that says what to train on, what to evaluate on, and whose each row is.

A model is trained on what `load` gives, as it is; so it normalises here. `make` wrote the CSV beside this file.
"""

from pathlib import Path

import numpy as np
import pandas as pd

FLATS = Path(__file__).with_name("flats.csv")
FEATURES = ["size", "age", "floor", "has_lift"]


def load(test_share: float = 0.2):
    """(train, test, clients): features and rents in thousands, and the town that each training row belongs to."""
    flats = pd.read_csv(FLATS).sample(frac=1, random_state=0)
    num_test = int(test_share * len(flats))
    test, train = flats[:num_test], flats[num_test:]
    mean, std = train[FEATURES].mean(), train[FEATURES].std()

    def split(rows: pd.DataFrame):
        return ((rows[FEATURES] - mean) / std).to_numpy(), rows[["rent"]].to_numpy() / 1000

    return split(train), split(test), train["town"].to_numpy(str)


def make(count: int = 600, seed: int = 0) -> None:
    """Write flats whose rent follows their size and age, in eight towns of different prices."""
    rng = np.random.default_rng(seed)
    town = rng.integers(0, 8, count)
    size, age, floor = rng.gamma(9, 9, count).round(1), rng.integers(0, 90, count), rng.integers(0, 9, count)
    has_lift = (floor > 3) | (rng.random(count) < 0.2)
    rent = 6 * size * (1 - age / 300) + 8 * floor * has_lift + 30 * town + rng.normal(0, 30, count)
    flats = {"town": np.array(list("ABCDEFGH"))[town], "size": size, "age": age, "floor": floor}
    pd.DataFrame(flats | {"has_lift": has_lift.astype(int), "rent": rent.round()}).to_csv(FLATS, index=False)


if __name__ == "__main__":
    make()
