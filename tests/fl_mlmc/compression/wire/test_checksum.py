"""The checksum is CRC-32, whoever works it out."""

import subprocess
import sys
import zlib

from hypothesis import given
from hypothesis import strategies as st

from fl_mlmc.compression.wire.checksum import checksum


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_it_is_zlibs_of_all_parts(parts: list[bytes]) -> None:
    assert checksum(*parts) == zlib.crc32(b"".join(parts))
    assert checksum(*map(memoryview, parts)) == zlib.crc32(b"".join(parts))


def test_it_works_without_zlib_ng() -> None:
    program = (
        "import sys; sys.modules['zlib_ng'] = None\n"
        "from fl_mlmc.compression.wire.checksum import checksum, crc32\n"
        "import zlib; assert crc32 is zlib.crc32; assert checksum(b'fl', b'mlmc') == zlib.crc32(b'flmlmc')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
