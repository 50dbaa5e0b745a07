"""CRC-32 of a payload, by zlib-ng where it is installed (extra `fast`): zlib's number, sooner."""

from functools import reduce

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32


def checksum(*parts: bytes | memoryview) -> int:
    """The CRC-32 of all parts, one after another."""
    return reduce(lambda so_far, part: crc32(part, so_far), parts, 0)
