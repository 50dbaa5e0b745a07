"""Every random draw of a run comes from its seed and a readable path."""

import hashlib

import numpy as np


def stream(seed: int, *path: object) -> np.random.Generator:
    """The generator for one purpose, e.g. `stream(seed, "level", server_round, client)`.

    Equal arguments give equal streams on every machine; different paths give independent ones.
    """
    key = hashlib.blake2b("/".join(map(str, path)).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(key, "little")])


def random_subset(size: int, count: int, seed: int) -> np.ndarray:
    """`count` of the numbers below `size`, sorted int64, every subset equally likely over seeds below 2⁶⁴.

    The first `count` different values of a stream of uniform numbers; of the numbers left out where those are fewer.
    Philox's raw stream is fixed, unlike numpy's samplers, so senders and receivers agree for good.
    """
    if count > size // 2:
        kept = np.ones(size, bool)
        kept[random_subset(size, size - count, seed)] = False
        return np.flatnonzero(kept)
    raw, chosen = np.random.Philox(key=seed), np.empty(0, np.int64)
    while True:
        missing = count - np.unique(chosen).size
        if missing <= 0:
            break
        fresh = raw.random_raw(missing + missing // 8 + 8)
        # 53 bits a number: no value is likelier than another by more than size / 2⁵³
        chosen = np.append(chosen, ((fresh >> np.uint64(11)) * (size / 2**53)).astype(np.int64))
    values, first_seen = np.unique(chosen, return_index=True)
    return np.sort(values[np.argsort(first_seen)[:count]])
