"""Image files as tensors: PNG, JPEG, WebP and BMP, by Pillow.

The first bytes of a file say what it is, and they must agree with its name. Width and height are read from the header
and compared with a limit before a decoder sees the file. What is read of a file:

- grey and black-and-white images have one channel, all others three; where a data set has both, the grey values are
  repeated;
- palettes are looked up; of 16 bits a value the upper eight are kept;
- what is transparent is laid over white;
- the image is turned as the EXIF orientation before its pixels says;
- of an animation, the first image.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, build
from ...extras import needs
from .sources import open_file

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["SUFFIXES", "BrokenImage", "Header", "decode", "pixels_of", "read_header"]

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP", ".bmp": "BMP"}
MOST_PIXELS = 2**26  # 8192×8192; in colour, and as Pillow holds it, 0.5 GB
MOST_FILE_BYTES = 2**29  # BMP with 32 bits a pixel takes half of it
MOST_SEGMENTS = 2**14  # of a JPEG's header
MOST_CHUNKS = 2**18  # of a PNG
ORIENTATION = 0x0112
GREY = ("1", "L", "LA", "La", "I", "F")  # modes of Pillow, beside those that begin with I;16
TURNS = {  # Pillow's name of what undoes an orientation
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
MEND = "Mend or remove it, or leave out what is broken (--skip-broken, skip_broken=True)."


class BrokenImage(DataError):
    """Raised for a file that is no sound image."""


@dataclass(frozen=True)
class Header:
    """What the header of an image says, after it was turned."""

    height: int
    width: int
    channels: int


def read_header(where: str, path: Path) -> Header:
    """Reads no pixels. Raises BrokenImage for a file that is not what its name says, too large, or damaged so far."""
    with _opened(where, path) as (image, turn):
        width, height = image.size if turn < 5 else reversed(image.size)
        return Header(height, width, 1 if image.mode in GREY or image.mode.startswith("I;16") else 3)


def decode(where: str, path: Path, channels: int) -> Tensor:
    """An image, uint8 ``(C, H, W)``. channels: 1 or 3. Raises BrokenImage for a file that is no sound image."""
    with _opened(where, path, is_decoded=True) as (image, turn):
        image.load()
        return pixels_of(_turned(image, turn), channels)


def pixels_of(image: PIL.Image.Image, channels: int) -> Tensor:
    """The pixels of an image of Pillow, uint8 ``(C, H, W)``, in 1 or 3 channels.

    >>> from PIL import Image
    >>> pixels_of(Image.new("RGB", (2, 1), (255, 128, 0)), 3).tolist()
    [[[255, 255]], [[128, 128]], [[0, 0]]]
    """
    import PIL.Image

    if image.mode == "F":
        raise ValueError("it has floating-point pixels")
    if image.mode.startswith("I"):
        image = PIL.Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        page = PIL.Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    array = np.array(image.convert("L" if channels == 1 else "RGB"))
    tensor = torch.from_numpy(array)
    return tensor[None] if channels == 1 else tensor.permute(2, 0, 1).contiguous()


@contextmanager
def _opened(where: str, path: Path, is_decoded: bool = False) -> Iterator[tuple[PIL.Image.Image, int]]:
    """The image of Pillow and its orientation. Whatever a decoder raises becomes a BrokenImage."""
    needs(where, "PIL")
    import PIL.Image

    file, file_bytes = open_file(where, path)
    with file:
        kind = _checked_kind(where, path, file, file_bytes)
        try:
            width, height = SIZES[kind](file, file_bytes)
        except (struct.error, IndexError, ValueError) as error:
            got = "a file that ends in its header" if isinstance(error, struct.error | IndexError) else str(error)
            raise _broken(where, path, f"a sound {kind}", got) from None
        if not 0 < width * height <= MOST_PIXELS:
            raise _broken(where, path, f"an image of 1 to {MOST_PIXELS} pixels", f"{width}×{height}")
        try:
            if is_decoded and kind in COMPARED:
                COMPARED[kind](file)
            file.seek(0)
            with PIL.Image.open(file, formats=(kind.upper(),)) as image:
                if image.size != (width, height):
                    raise ValueError(f"two sizes, {width}×{height} and {image.size[0]}×{image.size[1]}")
                yield image, _orientation(image)
        except DataError:
            raise
        except Exception as error:  # decoders raise errors of many kinds for damage
            got = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
            got = "damage that no decoder understands" if "cannot identify" in got else got
            raise _broken(where, path, f"a sound {kind}", got) from None


def _broken(where: str, path: Path, expects: str, got: str) -> BrokenImage:
    return BrokenImage(build(where, expects, got, path=path, hint=MEND))


def _checked_kind(where: str, path: Path, file: BinaryIO, file_bytes: int) -> str:
    """The format by the name of a file, after a comparison with its first bytes."""
    named = SUFFIXES.get(path.suffix.lower())
    if named is None:
        raise _broken(where, path, f"an image ({', '.join(SUFFIXES)})", f"a file {path.name!r}")
    if file_bytes > MOST_FILE_BYTES:
        raise _broken(where, path, f"a file of at most {MOST_FILE_BYTES} bytes", f"{file_bytes}")
    start = file.read(16)
    kind = next((kind for begins, kind in STARTS if begins(start)), "none of " + ", ".join(sorted(SIZES)))
    if kind != named:
        raise _broken(where, path, f"{'an' if named[0] in 'AEIO' else 'a'} {named}, by its name", f"{kind}")
    return named


STARTS: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (lambda start: start[:8] == b"\x89PNG\r\n\x1a\n", "PNG"),
    (lambda start: start[:3] == b"\xff\xd8\xff", "JPEG"),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", "WebP"),
    (lambda start: start[:4] in (b"GIF8",), "GIF"),
    (lambda start: start[:4] in (b"II*\0", b"MM\0*"), "TIFF"),
    (lambda start: start[:2] == b"BM", "BMP"),
)

# --------------------------------------------------------------------------------------- width and height from a header


def _png_size(file: BinaryIO, file_bytes: int) -> tuple[int, int]:
    """Also goes through the chunks to the last one, IEND, without their content."""
    width, height = struct.unpack(">2I", _at(file, 16, 8))  # the first chunk is IHDR
    place = 8
    for _ in range(MOST_CHUNKS):
        length, name = struct.unpack(">I4s", _at(file, place, 8))
        place += 12 + length
        if place > file_bytes:
            raise ValueError("a file that ends within its pixels")
        if name == b"IEND":
            return width, height
    raise ValueError(f"more than {MOST_CHUNKS} chunks")


def _compare_checksums(file: BinaryIO) -> None:
    """Raises ValueError if the checksum of a PNG's chunk is wrong: Pillow does not compare those of pixels."""
    place, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", _at(file, place, 8))
        content = file.read(length)
        if zlib.crc32(content, zlib.crc32(name)) != int.from_bytes(file.read(4), "big"):
            raise ValueError(f"a chunk {name.decode('ascii', 'replace')} that does not match its checksum")
        place += 12 + length


def _find_end(file: BinaryIO) -> None:
    """Raises ValueError if a JPEG lacks the mark of its end, of which a decoder may be told to take no notice. The two
    bytes of the mark cannot stand among the pixels.
    """
    file.seek(_jpeg_pixels(file)[1])
    if b"\xff\xd9" not in file.read():
        raise ValueError("a file that ends within its pixels")


def _jpeg_size(file: BinaryIO, file_bytes: int) -> tuple[int, int]:
    return _jpeg_pixels(file)[0]


def _jpeg_pixels(file: BinaryIO) -> tuple[tuple[int, int], int]:
    """Goes through the segments to where the pixels begin: width and height, and that place."""
    found, place = None, 2
    for _ in range(MOST_SEGMENTS):
        mark, code = _at(file, place, 2)
        if mark != 0xFF:
            raise ValueError("a header that is none")
        if code == 0xFF:  # fills
            place += 1
            continue
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            if found:
                raise ValueError("two sizes")
            height, width = struct.unpack(">2H", _at(file, place + 5, 4))
            found = (width, height)
        if code == 0xDA and found:
            return found, place
        place += 2 + struct.unpack(">H", _at(file, place + 2, 2))[0]
    raise ValueError(f"a header of more than {MOST_SEGMENTS} segments")


def _webp_size(file: BinaryIO, file_bytes: int) -> tuple[int, int]:
    if int.from_bytes(_at(file, 4, 4), "little") + 8 > file_bytes:
        raise ValueError("a file that ends within its pixels")
    kind, start = _at(file, 12, 4), _at(file, 20, 10)
    if kind == b"VP8X":
        return 1 + int.from_bytes(start[4:7], "little"), 1 + int.from_bytes(start[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(start[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<2H", start[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _bmp_size(file: BinaryIO, file_bytes: int) -> tuple[int, int]:
    if int.from_bytes(_at(file, 14, 4), "little") == 12:
        width, height = struct.unpack("<2H", _at(file, 18, 4))
    else:
        width, height, _, depth, compression = struct.unpack("<2i2HI", _at(file, 18, 16))
        row_bytes = (width * depth + 31) // 32 * 4
        first = int.from_bytes(_at(file, 10, 4), "little")
        if compression == 0 and first + row_bytes * abs(height) > file_bytes and width * abs(height) <= MOST_PIXELS:
            raise ValueError("a file that ends within its pixels")
    return width, abs(height)


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    content = file.read(count)
    if len(content) < count:
        raise IndexError
    return content


COMPARED = {"PNG": _compare_checksums, "JPEG": _find_end}
SIZES = {"PNG": _png_size, "JPEG": _jpeg_size, "WebP": _webp_size, "BMP": _bmp_size}

# --------------------------------------------------------------------------------------------------------- orientation


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8, as it stands before the pixels; 1 where there is none."""
    import PIL.Image

    content = image.info.get("exif")
    if not isinstance(content, bytes):
        return 1
    exif = PIL.Image.Exif()
    exif.load(content)
    value: Any = exif.get(ORIENTATION)
    return value if type(value) is int and value in TURNS else 1


def _turned(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    import PIL.Image

    if orientation == 1:
        return image
    turned = image.transpose(getattr(PIL.Image.Transpose, TURNS[orientation]))
    turned.info = image.info
    return turned
