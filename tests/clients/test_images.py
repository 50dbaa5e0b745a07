"""Images of users, good and broken, from a cell or from a file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_mlmc.clients.images import Picture
from fl_mlmc.clients.tables import DataError, Origin

GREY = np.random.default_rng(0).integers(0, 256, (20, 16), dtype=np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)
ORIGIN = Origin("own.parquet", "image", 7)


def encoded(pixels: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of one pixel whose header says another size."""
    content = bytearray(encoded(GREY[:1, :1]))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("cell", [encoded(GREY), {"bytes": encoded(GREY), "path": None}, {"bytes": encoded(GREY)}])
def test_a_cell_is_bytes_or_a_struct(cell: object) -> None:
    np.testing.assert_array_equal(Picture.open(cell, ORIGIN).pixels(1), GREY[None])
    np.testing.assert_array_equal(Picture.open(cell, ORIGIN).pixels(3), np.stack([GREY] * 3))


def test_a_cell_is_the_path_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(encoded(COLOUR))
    for cell in (path, str(path), {"bytes": None, "path": str(path)}, {"bytes": b"", "path": str(path)}):
        picture = Picture.open(cell, ORIGIN)
        assert not picture.is_grey
        np.testing.assert_array_equal(picture.pixels(3), COLOUR.transpose(2, 0, 1))


BROKEN = {
    "nothing": (None, "holds no image: neither bytes nor a file's path"),
    "a struct of nothing": ({"bytes": None, "path": None}, "holds no image: neither bytes nor a file's path"),
    "empty bytes": ({"bytes": b"", "path": None}, "holds no image"),
    "empty bytes alone": (b"", "holds no image"),
    "another struct": ({"pixels": [1, 2]}, "holds no image"),
    "a number": (3, "holds no image"),
    "pixels in lists": ([[1, 2]], "holds no image"),
    "a lost file": ({"bytes": None, "path": "/nowhere/one.png"}, "is an image that cannot be read: No such file"),
    "a path that cannot be": ({"path": "one\0.png"}, "is an image that cannot be read: "),
    "no image": (b"GIF?", "is no image: its format is not known"),
    "half a header": (encoded(GREY)[:20], "is no image: "),
    "half a PNG": (cut(encoded(GREY)), "is a broken image: "),
    "half a JPEG": (cut(encoded(GREY, "JPEG")), "is (no|a broken) image: "),
    "half a BMP": (cut(encoded(GREY, "BMP")), "is (no|a broken) image: "),
    "half a TIFF": (cut(encoded(GREY, "TIFF")), "is (no|a broken) image: "),
    "half a GIF": (cut(encoded(GREY, "GIF")), "is (no|a broken) image: "),
    "a PNG of garbage": (encoded(GREY)[:41] + bytes(200), "is a broken image: "),
    "a bomb": (png_that_claims(30_000, 30_000), "is no image: .*900000000 pixels"),
    "a small bomb": (png_that_claims(10_000, 10_000), "is no image: .*100000000 pixels"),
    "a wide bomb": (png_that_claims(2**31 - 1, 1), "is no image: "),
    "16 bits": (encoded(GREY.astype(np.uint16) * 200), "is an image of mode I;16; expected 8-bit pixels"),
    "32 bits": (encoded(GREY.astype(np.int32), "TIFF"), "is an image of mode I; expected 8-bit pixels"),
    "floats": (encoded(GREY.astype(np.float32), "TIFF"), "is an image of mode F; expected 8-bit pixels"),
}


@pytest.mark.parametrize(("cell", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_has_its_place(cell: object, reason: str, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(DataError, match=rf"own\.parquet column 'image' row 7 {reason}"):
        Picture.open(cell, ORIGIN).pixels(1)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["half a PNG", "no image", "16 bits", "a bomb"])
def test_a_broken_file_is_named_beside_the_cell(tmp_path: Path, name: str) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(BROKEN[name][0])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"{path} of own.parquet column 'image' row 7 {BROKEN[name][1]}"):
        Picture.open({"bytes": None, "path": str(path)}, ORIGIN).pixels(1)
    with pytest.raises(DataError, match=f"^{path} {BROKEN[name][1]}"):
        Picture.open(path, Origin(str(path))).pixels(1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_of_eight_bits_are_read(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    picture = Picture.open(encoded(COLOUR, form, mode), ORIGIN)
    assert picture.is_grey == (mode in ("1", "L", "LA"))
    assert picture.pixels(3).shape == (3, 20, 16)
    assert picture.pixels(1).shape == (1, 20, 16)
