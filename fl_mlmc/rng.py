"""Every random draw of a run comes from its seed and a readable path."""

import hashlib

import numpy as np


def stream(seed: int, *path: object) -> np.random.Generator:
    """The generator for one purpose, e.g. `stream(seed, "level", server_round, client)`.

    Equal arguments give equal streams on every machine; different paths give independent ones.
    """
    key = hashlib.blake2b("/".join(map(str, path)).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(key, "little")])
