"""The checksum is CRC-32 of all other bytes, the head with zeros in its place, whoever works it out."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

from fl_mlmc import Compressor, parse

TEXTS = ("Identity()", "TopK(fraction=0.1)", "MLMC(FloatingPoint(), draws=3)", "Dither(unit=1.0)", "RandK(count=1)")


@pytest.mark.parametrize("compressor", map(parse, TEXTS), ids=repr)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_it_is_zlibs_of_all_parts(compressor: Compressor, size: int) -> None:
    data = compressor.encode(torch.randn(size, generator=torch.Generator().manual_seed(0)), np.random.default_rng(0))
    assert int.from_bytes(data[10:14], "little") == zlib.crc32(data[:10] + bytes(4) + data[14:])


def test_it_works_without_zlib_ng() -> None:
    program = (
        "import sys; sys.modules['zlib_ng'] = None\n"
        "from fl_mlmc.compression.wire.payload import Payload, crc32, decode_payload, encode_payload\n"
        "import zlib; assert crc32 is zlib.crc32; assert decode_payload(encode_payload(Payload(4)), 4).size == 4"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
