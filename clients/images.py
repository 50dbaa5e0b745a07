"""Encoded images as pixels of eight bits, the one reader of server and devices; needs Pillow."""

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .tables import Origin

# A device without images does without Pillow.
if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = {"1", "L", "LA"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Picture:
    """An image of which the header was read, and the pixels were not."""

    image: "Image"
    origin: Origin

    @classmethod
    def open(cls, cell: object, origin: Origin) -> "Picture":
        """What a cell holds: an image's bytes, the path of its file, or a struct of both.

        DataError with its origin where there is no image, or one whose pixels are not of eight bits.
        """
        try:
            from PIL import Image
        except ImportError:
            raise origin.error("is an image, which needs Pillow: `pip install pillow`, or give CSV") from None
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if isinstance(data, str | Path):
            data, path = None, data
        if path and not data:
            origin = replace(origin, source=f"{path} of {origin.source}" if origin.column else str(path))
            data = _content(Path(path), origin)
        if not isinstance(data, bytes) or not data:
            raise origin.error(
                "holds no image: no bytes" if path else "holds no image: neither bytes nor a file's path"
            )
        try:
            with warnings.catch_warnings():
                # A header of a few bytes may ask for gigabytes; below twice its limit Pillow only warns.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data))
        except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error and much else beside OSError
            raise origin.error(f"is no image: {_reason(error)}") from None
        if image.mode not in GREY_MODES | COLOUR_MODES:
            raise origin.error(f"is an image of mode {image.mode}; expected 8-bit pixels. Convert it first")
        return cls(image, origin)

    @property
    def is_grey(self) -> bool:
        """Whether its pixels have no colour."""
        return self.image.mode in GREY_MODES

    def pixels(self, channels: int) -> NDArray[np.uint8]:
        """(channels, height, width), grey for one channel and RGB for three; DataError where the image breaks off."""
        mode = "L" if channels == 1 else "RGB"
        try:
            values = np.asarray(self.image if self.image.mode == mode else self.image.convert(mode))
        except Exception as error:  # likewise
            raise self.origin.error(f"is a broken image: {_reason(error)}") from None
        width, height = self.image.size
        return values.reshape(height, width, channels).transpose(2, 0, 1)


def _content(path: Path, origin: Origin) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise origin.error(f"is an image that cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _reason(error: Exception) -> str:
    text = str(error)
    # Pillow names the buffer that it read from, which tells nobody anything.
    return "its format is not known" if text.startswith("cannot identify image file") else text or type(error).__name__
