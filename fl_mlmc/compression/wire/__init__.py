"""Exact codecs and the payload format."""

from .errors import WireError
from .payload import decode_payload, encode_payload

__all__ = ["WireError", "decode_payload", "encode_payload"]
