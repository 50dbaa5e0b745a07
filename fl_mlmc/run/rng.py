"""Every random draw of a run comes from its seed and a readable path."""

import hashlib

import numpy as np

_DRAWN = 1 << 14  # numbers at a time, at most


def stream(seed: int, *path: object) -> np.random.Generator:
    """The generator for one purpose, e.g. `stream(seed, "level", server_round, client)`.

    Equal arguments give equal streams on every machine; different paths give independent ones.
    """
    key = hashlib.blake2b("/".join(map(str, path)).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(key, "little")])


def random_mask(size: int, count: int, seed: int) -> np.ndarray:
    """(size,) bool with `count` ones, every such mask equally likely over seeds below 2⁶⁴.

    The first `count` different values of a stream of uniform numbers; of the numbers left out where those are fewer.
    Philox's raw stream is fixed, unlike numpy's samplers, so senders and receivers agree for good.
    """
    if count > size // 2:
        return ~random_mask(size, size - count, seed)
    raw, chosen = np.random.Philox(key=seed), np.zeros(size, bool)
    while count > 0:
        # 53 bits a number: no value is likelier than another by more than size / 2⁵³
        fresh = ((raw.random_raw(min(_DRAWN, 2 * count + 16)) >> np.uint64(11)) * (size / 2**53)).astype(np.int64)
        fresh = fresh[~chosen[fresh]]
        values, first_seen = np.unique(fresh, return_index=True)
        new = values[np.argsort(first_seen)[:count]]
        chosen[new] = True
        count -= new.size
    return chosen


def random_subset(size: int, count: int, seed: int) -> np.ndarray:
    """The places of the ones of `random_mask`, sorted int64."""
    return np.flatnonzero(random_mask(size, count, seed))
