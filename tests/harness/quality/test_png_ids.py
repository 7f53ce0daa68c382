"""Panoptic PNGs: every row filter, every variant of the format, and no damaged file that passes."""

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segmeter.compiler import KernelUnavailableError
from segmeter.harness.quality import png_ids
from segmeter.harness.quality.png_ids import build_decoder, decode_segment_png, read_segment_png, segment_png
from tests.helpers.places import ROOT


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))


def predicted(kind: int, left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """What a filter predicts of a row from its neighbours, as the PNG specification has it (section 9)."""
    left, up, corner = (part.astype(int) for part in (left, up, corner))
    if kind == 4:
        start = left + up - corner
        to = [abs(start - part) for part in (left, up, corner)]
        return np.where((to[0] <= to[1]) & (to[0] <= to[2]), left, np.where(to[1] <= to[2], up, corner))
    return (np.zeros_like(left), left, up, (left + up) // 2)[kind]


def encode(pixels: np.ndarray, kinds: list[int], cuts: int = 1, more: bytes = b"") -> bytes:
    """(H, W, 3 or 4) uint8 as a PNG whose rows have the filters asked for, in several IDAT chunks."""
    height, width, channels = pixels.shape
    above, rows = np.zeros((width, channels), np.uint8), []
    for row, kind in zip(pixels, kinds, strict=True):
        shift = lambda part: np.vstack([np.zeros((1, channels), np.uint8), part[:-1]])  # noqa: E731
        rest = (row - predicted(kind, shift(row), above, shift(above))) % 256
        rows.append(bytes([kind]) + rest.astype(np.uint8).tobytes())
        above = row
    data = zlib.compress(b"".join(rows))
    step = max(1, -(-len(data) // cuts))
    parts = [chunk(b"IDAT", data[start : start + step]) for start in range(0, len(data), step)]
    return (
        b"\x89PNG\r\n\x1a\n"
        + header(width, height, colour=2 if channels == 3 else 6)
        + more
        + b"".join(parts)
        + chunk(b"IEND", b"")
    )


def ids_of(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :3].astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)


@st.composite
def pictures(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    channels = draw(st.sampled_from((3, 4)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few values, so that neighbours are often alike, as in a map of segments; or any.
    palette = generator.integers(0, 256, (draw(st.sampled_from((2, 5, 200))), channels)).astype(np.uint8)
    pixels = palette[generator.integers(0, len(palette), (height, width))]
    return pixels, draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))


@settings(max_examples=300, deadline=None)
@given(pictures(), st.integers(1, 4))
def test_every_filter_is_undone(picture, cuts):
    pixels, kinds = picture
    content = encode(pixels, kinds, cuts)
    # The encoder above is right if Pillow agrees with it.
    assert np.array_equal(np.asarray(Image.open(BytesIO(content))), pixels)
    assert np.array_equal(decode_segment_png(content), ids_of(pixels))


def test_the_compiled_decoder_is_what_the_others_test():
    # Where there is a compiler, that is: Pillow stands in elsewhere.
    assert build_decoder() is not None or not any(
        os.access(Path(folder) / "c++", os.X_OK) for folder in os.get_exec_path()
    )


def test_ids_of_24_bits_survive_a_file(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65536, 256**3 - 1]], np.uint32)
    segment_png(ids).save(tmp_path / "ids.png")
    assert np.array_equal(read_segment_png(tmp_path / "ids.png"), ids)
    with pytest.raises(ValueError, match="from 0 to 16777215"):
        segment_png(ids + 1)


def test_other_chunks_and_interlacing_change_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3)).astype(np.uint8)
    # tRNS makes a colour transparent, gAMA asks for brighter colours: ids are neither.
    more = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tRNS", struct.pack(">HHH", *pixels[0, 0]))
    assert np.array_equal(decode_segment_png(encode(pixels, [4] * 7, more=more)), ids_of(pixels))
    # Adam7 of an image of one pixel is that pixel: one pass, one row.
    one = encode(pixels[:1, :1], [0]).replace(
        header(1, 1),
        header(1, 1, interlace=1),
    )
    assert np.array_equal(decode_segment_png(one), ids_of(pixels[:1, :1]))


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("P", "a palette of 1 bits"),
        ("L", "grey of 8 bits"),
        ("1", "grey of 1 bits"),
        ("LA", "grey with alpha of 8 bits"),
        ("I;16", "grey of 16 bits"),
    ],
)
def test_pictures_that_hold_no_ids_are_refused(tmp_path, mode, message):
    Image.new(mode, (4, 3)).save(tmp_path / "ids.png")
    with pytest.raises(ValueError, match=f"ids.png cannot be read: it is {message}; a panoptic PNG is RGB"):
        read_segment_png(tmp_path / "ids.png")


def test_sixteen_bits_a_channel_are_refused_and_not_halved():
    pixels = np.zeros((2, 3, 3), np.uint8)
    content = encode(pixels, [0, 0]).replace(
        header(3, 2),
        header(3, 2, bits=16),
    )
    with pytest.raises(ValueError, match="RGB of 16 bits"):
        decode_segment_png(content)


def test_a_jpeg_is_no_panoptic_png(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "ids.png", "jpeg")
    with pytest.raises(ValueError, match="it is no PNG"):
        read_segment_png(tmp_path / "ids.png")


SMALL = encode(np.random.default_rng(1).integers(0, 3, (5, 6, 3)).astype(np.uint8), [0, 1, 2, 3, 4], 2)


HEAD = SMALL[:33]  # signature and header


def test_a_file_cut_anywhere_is_refused():
    for length in range(len(SMALL)):
        with pytest.raises(ValueError, match=r"no PNG|truncated"):
            decode_segment_png(SMALL[:length])


def test_a_bit_flipped_anywhere_is_refused():
    for position in range(len(SMALL)):
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError) as refusal:
                decode_segment_png(bytes(damaged))
            assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Checksums hold, but the pixels are too few, too many, of an unknown filter, or none.
        (SMALL.replace(header(6, 5), header(6, 6)), "holds 95 bytes of pixels, 6x6 pixels are 114"),
        (SMALL.replace(header(6, 5), header(6, 4)), "4x6 pixels are 76"),
        (SMALL.replace(header(6, 5), header(6, 2**31)), "header is damaged"),
        # A header of another name, and one of another length.
        (SMALL.replace(b"IHDR", b"IHDX"), "no header"),
        (SMALL[:8] + struct.pack(">I", 12) + SMALL[12:], "no header"),
        (HEAD + chunk(b"IEND", b""), "no header or no pixels"),
        (HEAD + chunk(b"IDAT", zlib.compress(b"\7" + bytes(94))) + chunk(b"IEND", b""), "row 0 has a"),
        (HEAD + chunk(b"IDAT", b"rubbish") + chunk(b"IEND", b""), "pixels are damaged"),
        # A bomb: 100 million zeros in 97 kB are never unpacked beyond what 5x6 pixels need.
        (HEAD + chunk(b"IDAT", zlib.compress(bytes(10**8))) + chunk(b"IEND", b""), "holds 96 bytes"),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        decode_segment_png(content)


def test_without_a_compiler_pillow_gives_the_same(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 4, (20, 30, 4)).astype(np.uint8)
    path = tmp_path / "ids.png"
    path.write_bytes(encode(pixels, [0, 1, 2, 3, 4] * 4))
    script = (
        "import sys, numpy; from pathlib import Path; from segmeter.harness.quality.png_ids import *;"
        "assert build_decoder() is None; numpy.save(sys.argv[2], read_segment_png(Path(sys.argv[1])))"
    )
    environment = {**os.environ, "CXX": "no-such-compiler", "SEGMETER_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "ids.npy")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
    assert np.array_equal(np.load(tmp_path / "ids.npy"), ids_of(pixels))


def test_a_file_is_no_longer_than_its_pixels_and_a_mebibyte_of_notes(tmp_path):
    content, path = SMALL, tmp_path / "ids.png"
    # Four bytes a pixel at most and one a row, without compression; 1 MiB for text beside them.
    most = 5 * 6 * 4 + 5 + (1 << 20)
    for size in (most, most + 1):
        notes = chunk(b"tEXt", bytes(size - len(content) - 12))
        path.write_bytes(content[:33] + notes + content[33:])
        assert path.stat().st_size == size
        if size == most:
            assert np.array_equal(read_segment_png(path), decode_segment_png(content))
        else:
            with pytest.raises(ValueError, match="longer than 5x6 pixels can be"):
                read_segment_png(path)


def test_pillow_s_refusals_are_told_as_ours(tmp_path):
    # A picture that is cut off, and one whose header is none: Pillow says so by two kinds of error.
    for damaged in (SMALL[: len(SMALL) // 2], SMALL.replace(b"IHDR", b"IHDX")):
        with pytest.raises(ValueError):
            png_ids._by_pillow(damaged)


def test_without_a_compiler_there_is_no_decoder(monkeypatch):
    def missing():
        raise KernelUnavailableError("no compiler")

    monkeypatch.setattr(png_ids, "find_compiler", missing)
    # As it is without what it remembers.
    assert png_ids.build_decoder.__wrapped__() is None
