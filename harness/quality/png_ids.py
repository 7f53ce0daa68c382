"""Panoptic PNG files to segment ids and back, exactly; decoding is most of what scoring costs.

zlib-ng inflates; a small C++ function (``png_ids.cpp``) undoes the row filters and packs the ids. It is
compiled at first use and kept in segmeter's cache; where there is no compiler, Pillow decodes, at a
quarter of the speed. Source: the PNG specification (W3C), sections 5, 9 and 10.
"""

import ctypes
import platform
import struct
import subprocess
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from zlib_ng import zlib_ng

from segmeter.compiler import KernelUnavailableError, cached_library, digest, find_compiler
from segmeter.files import check_regular

MAX_ID = 256**3 - 1
# A picture beyond this is a bomb or damaged; Cityscapes' have 2 million pixels.
MAX_PIXELS = 1 << 27
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Signature, and the header chunk with its length, name and checksum.
HEADER_BYTES = 33
COLOURS = {0: "grey", 2: "RGB", 3: "a palette", 4: "grey with alpha", 6: "RGBA"}
CHANNELS = {2: 3, 6: 4}
SOURCE = Path(__file__).with_name("png_ids.cpp")
# Its type stub takes the class for an instance.
_InflateError: type[Exception] = zlib_ng.error  # type: ignore[assignment]
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared")


class WrongSizeError(ValueError):
    """A picture of another size than it must have; ``found`` is its own, (H, W)."""

    def __init__(self, found: tuple[int, int], expected: tuple[int, int]) -> None:
        self.found = found
        super().__init__(f"it has {found[0]}x{found[1]} pixels, not {expected[0]}x{expected[1]}")


def read_segment_png(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A panoptic PNG's segment ids: (H, W) uint32.

    Args:
        path: the file.
        size: (H, W) that it must have, where that is known: told by its header, before anything is unpacked.

    Raises:
        ValueError: the file is missing, no regular file, truncated, damaged, of another size, or no PNG of
            RGB or RGBA with 8 bits.
    """
    stored = check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            width, height, *_ = _header(head)
            if size is not None and (height, width) != size:
                raise WrongSizeError((height, width), size)
            # Uncompressed, with a text or two beside the pixels: what is longer is no picture of this size.
            most = 4 * height * width + height + (1 << 20)
            if stored > most:
                raise ValueError(f"it is longer than {height}x{width} pixels can be")
            rest = file.read(stored)
        return decode_segment_png(head + rest)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except WrongSizeError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def decode_segment_png(content: bytes) -> np.ndarray:
    """As :func:`read_segment_png`, from the file's bytes."""
    width, height, colour, interlace = _header(content)
    compressed = _chunks(content)
    library = _library(_decoder_path())
    if library is None or interlace:
        return _by_pillow(content)
    channels = CHANNELS[colour]
    expected = height * (1 + width * channels)
    stream = zlib_ng.decompressobj()
    try:
        raw = stream.decompress(compressed, expected + 1)
    except _InflateError as error:
        raise ValueError(f"its pixels are damaged ({error})") from None
    if len(raw) != expected or not stream.eof:
        raise ValueError(f"it holds {len(raw):,} bytes of pixels, {height}x{width} pixels are {expected:,}")
    ids = np.empty((height, width), dtype=np.uint32)
    zeros = np.zeros(width, dtype=np.uint32)
    wrong = library.segmeter_png_ids(raw, height, width, channels, ids.ctypes.data, zeros.ctypes.data)
    if wrong:
        raise ValueError(f"its row {wrong - 1} has a filter that PNG does not have")
    return ids


def segment_png(ids: np.ndarray) -> Image.Image:
    """Segment ids (H, W), 0 to 2^24 - 1, as a panoptic picture.

    Raises:
        ValueError: an id beyond 24 bits.
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"segment ids must be from 0 to {MAX_ID}, got {ids.min()} to {ids.max()}")
    wide = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8).reshape(*ids.shape, 4)
    return Image.fromarray(np.ascontiguousarray(wide[..., :3]))


@cache
def build_decoder() -> Path | None:
    """The compiled decoder's file, built if it is not in the cache; None if it cannot be had here."""

    def build(target: Path) -> None:
        command = [compiler.path, *FLAGS, "-o", str(target), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise KernelUnavailableError(done.stderr.strip())

    try:
        compiler = find_compiler()
        text = SOURCE.read_text(encoding="utf-8")
        key = digest(text, *FLAGS, compiler.path, compiler.version, platform.machine())
        place = cached_library(f"png-{key}.so", build)
        ctypes.CDLL(str(place))
    except (KernelUnavailableError, OSError):
        return None
    return place


def use_decoder(place: Path | None) -> None:
    """Make this process use a decoder that another one built; None is Pillow."""
    _given.append(place)


_given: list[Path | None] = []


def _decoder_path() -> Path | None:
    return _given[-1] if _given else build_decoder()


@cache
def _library(place: Path | None) -> ctypes.CDLL | None:
    if place is None:
        return None
    library = ctypes.CDLL(str(place))
    function = library.segmeter_png_ids
    function.restype = ctypes.c_int64
    function.argtypes = (
        *(ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
        *(ctypes.c_void_p, ctypes.c_void_p),
    )
    return library


def _header(content: bytes) -> tuple[int, int, int, int]:
    """Width, height, colour type and interlacing, from a file's first bytes."""
    if not content.startswith(SIGNATURE):
        raise ValueError("it is no PNG")
    if len(content) < HEADER_BYTES:
        raise ValueError(f"it is truncated at byte {len(content):,}")
    length, kind = struct.unpack_from(">I4s", content, len(SIGNATURE))
    if kind != b"IHDR" or length != 13:
        raise ValueError("it has no header or no pixels")
    width, height, bits, colour, method, filters, interlace = struct.unpack_from(">IIBBBBB", content, 16)
    if colour not in CHANNELS or bits != 8:
        found = f"{COLOURS.get(colour, f'colour type {colour}')} of {bits} bits"
        raise ValueError(f"it is {found}; a panoptic PNG is RGB of 8 bits, ids as R + 256 G + 65536 B")
    if not 0 < width * height <= MAX_PIXELS or method or filters or interlace > 1:
        raise ValueError(f"its header is damaged (it says {height}x{width} pixels)")
    return width, height, colour, interlace


def _chunks(content: bytes) -> bytes:
    """The joined image data; every chunk's checksum is verified."""
    data, position = [], len(SIGNATURE)
    while True:
        if position + 12 <= len(content):
            length, kind = struct.unpack_from(">I4s", content, position)
            end = position + 8 + length
        else:
            end = len(content)
        if end + 4 > len(content):
            raise ValueError(f"it is truncated at byte {len(content):,}")
        if zlib_ng.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"it is damaged: the checksum of its {kind!r} does not hold")
        if kind == b"IDAT":
            data.append(content[position + 8 : end])
        elif kind == b"IEND":
            break
        position = end + 4
    if not data:
        raise ValueError("it has no header or no pixels")
    return b"".join(data)


def _by_pillow(content: bytes) -> np.ndarray:
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as opened:
            # RGBA puts a pixel into four bytes, so that it can be read as one number.
            pixels = np.asarray(opened if opened.mode == "RGBA" else opened.convert("RGBA"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None
    packed: np.ndarray = np.ascontiguousarray(pixels).view("<u4")[..., 0] & np.uint32(MAX_ID)
    return packed
