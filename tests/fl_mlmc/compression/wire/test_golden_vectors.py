"""Bytes that must decode forever. `python tests/vectors/regenerate.py` writes them anew, on purpose."""

from pathlib import Path

import numpy as np
import pytest

from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.testing import long_payloads, sample_payloads

VECTORS = Path(__file__).parents[3] / "vectors"
NAMES = sorted(sample_payloads())
LONG = sorted(long_payloads())
OLD = [
    "old-deflated-pages",
    "old-deflated-powers",
    "old-dithered",
    "old-dithered-wide",
    "old-plain-symbols",
    "old-powers-and-numbers",
    "old-wide-symbols",
]
"""Bytes that earlier writers wrote for a sample and that still have to be read."""


@pytest.mark.parametrize("name", [*NAMES, *LONG, *OLD])
def test_golden_bytes_decode_to_their_golden_values(name: str) -> None:
    data, values = _read(name)
    assert decode_payload(data, len(values)).dense().numpy().tobytes() == values.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_encoding_a_sample_gives_its_golden_bytes(name: str) -> None:
    assert encode_payload(sample_payloads()[name]) == _read(name)[0]


@pytest.mark.parametrize("name", LONG)
def test_a_long_vectors_mode_gives_its_golden_bytes(name: str) -> None:
    assert long_payloads()[name][0] == _read(name)[0]


def test_every_stored_vector_is_tested() -> None:
    stored = {path.stem for path in VECTORS.iterdir() if path.suffix in {".payload", ".f32"}}
    assert stored == {*NAMES, *LONG, *OLD}


def _read(name: str) -> tuple[bytes, np.ndarray]:
    return (VECTORS / f"{name}.payload").read_bytes(), np.fromfile(VECTORS / f"{name}.f32", "<f4")
