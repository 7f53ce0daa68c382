"""No code from a file ever runs: plain containers and arrays are read, all else is refused by name."""

import builtins
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmeter.harness.weights.pickle_calls import load_pickle
from segmeter.harness.weights.safe_pickle import UnsafePickleError


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file.pkl"
    path.write_bytes(content)
    return path


WEIGHTS = {
    "model": OrderedDict(
        conv=np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        big_endian=np.arange(3, dtype=">i4"),
        half=np.array([1.5, -2], np.float16),
        empty=np.zeros((0, 4)),
        scalar=np.float64(2.5),
        mask=np.array([True, False]),
        zero_dim=np.array(7),
    ),
    "__author__": "someone",
    "matching_heuristics": True,
    "more": [1, (2.5, None), {"a", "b"}, b"bytes", -(2**40)],
}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("protocol", range(6))
def test_weights_are_read_as_they_were_written(tmp_path, protocol):
    read = load_pickle(write(tmp_path, pickle.dumps(WEIGHTS, protocol)))
    assert same(read, WEIGHTS)
    assert same(WEIGHTS, read)


def test_python_2_weights_are_read(tmp_path):
    # Protocol 2 as Python 2 wrote it: the array's bytes are a SHORT_BINSTRING.
    content = (
        b"\x80\x02}q\x00U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tb\x89U\x08" + struct.pack("<2f", 1.5, -3) + b"tbs."
    )
    assert np.array_equal(load_pickle(write(tmp_path, content))["w"], np.array([1.5, -3], np.float32))


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def malicious(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> a pickle that creates the marker when loaded plainly, and the global to be named."""
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    system = f"{os.system.__module__}.system"
    nested = Calls(getattr, Calls(__import__, "os"), "system")
    return {
        "os.system": (pickle.dumps(Calls(os.system, touch)), system),
        "os.system, protocol 0": (pickle.dumps(Calls(os.system, touch), 0), system),
        "eval": (pickle.dumps(Calls(builtins.eval, code), 4), "builtins.eval"),
        "exec in a list of weights": (
            pickle.dumps([np.zeros(3), Calls(builtins.exec, code)], 2),
            "__builtin__.exec" if b"__builtin__" in pickle.dumps(builtins.exec, 2) else "builtins.exec",
        ),
        "nested reduce": (pickle.dumps(nested, 4), "builtins.getattr"),
        "a dotted name": (
            b"\x80\x04\x8c\x05numpy\x8c\x13ctypeslib.os.system\x93.",
            "numpy.ctypeslib.os.system",
        ),
        "numpy's runstring": (
            b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
            "numpy.testing._private.utils.runstring",
        ),
        "torch's nested load": (
            pickle.dumps(Calls(torch.storage._load_from_bytes, b"x")),
            "torch.storage._load_from_bytes",
        ),
        "an old-style instance": (f"(S'{touch}'\nios\nsystem\n.".encode(), "os.system"),
        "a new object": (b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "NEWOBJ"),
        "an extension code": (b"\x80\x02\x82\x01.", "EXT1"),
        "a persistent id": (b"Pos.system\n.", "PERSID"),
        "reconstruct with another class": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
            "os.system",
        ),
    }


NAMES = sorted(malicious(Path("marker")))


@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pickle_is_refused_by_name_and_runs_nothing(tmp_path, name):
    marker = tmp_path / "it_ran"
    content, offender = malicious(marker)[name]
    with pytest.raises(UnsafePickleError) as refusal:
        load_pickle(write(tmp_path, content))
    assert offender in refusal.value.offender
    assert not marker.exists()


def test_the_malicious_pickles_do_run_when_loaded_plainly(tmp_path):
    # The test above would say nothing if these were harmless.
    marker = tmp_path / "it_ran"
    pickle.loads(malicious(marker)["os.system"][0])
    assert marker.exists()


@pytest.mark.parametrize(
    "content, reason",
    [
        # 10 ** 12 numbers with 8 bytes given: nothing of that size is ever made.
        (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1000000000000\ntcnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI00\nS'12345678'\ntb.",
            "cannot reshape",
        ),
        # An array of objects could hold anything.
        (pickle.dumps(np.array([{"a": 1}], dtype=object)), "only numbers are read"),
        (pickle.dumps(np.zeros(2, dtype=[("a", "f4")])), "only numbers are read"),
        (b"", "no end|exhausted|before"),
        (b"not a pickle", "not a whole pickle"),
        (b"\x80\x02]q\x00h\x00a.", "nested deeper"),  # a list in itself
    ],
)
def test_bombs_and_rubbish_are_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        load_pickle(write(tmp_path, content))


def laughing_tuples(levels: int) -> bytes:
    """A tuple of two of a tuple of two of ...: to hash or to print it takes 2 ** levels steps."""
    return b"\x80\x02)" + b"2\x86" * levels  # EMPTY_TUPLE, then DUP and TUPLE2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"}" + laughing_tuples(60)[2:] + b"K\x01s.", "a key that is a tuple"),
        (laughing_tuples(60) + b"q\x000\x8f(h\x00\x90.", "a key that is a tuple"),
        (b"cbuiltins\nset\n](" + laughing_tuples(60)[2:] + b"e\x85R.", "a key that is a tuple"),
        (laughing_tuples(60) + b"\x8c\x01a\x93.", r"a global named \(\(\(.*\.\.\."),
        (b"cnumpy\ndtype\n" + laughing_tuples(60)[2:] + b"\x85R.", "an array of type"),
        (b"c_codecs\nencode\n\x8c\x01a" + laughing_tuples(60)[2:] + b"\x86R.", "bytes in the encoding"),
        (laughing_tuples(60) + b".", r"more than 2,000,000 values"),
    ],
)
def test_laughing_tuples_are_neither_hashed_nor_printed(tmp_path, content, reason):
    # Each would take years; the suite's time limit is what fails.
    with pytest.raises(ValueError, match=reason):
        load_pickle(write(tmp_path, content))


def test_one_text_is_not_unpacked_over_and_over(tmp_path):
    # 1 MB of text, made into bytes 1,000 times: a gigabyte out of a megabyte.
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
    calls = b"c_codecs\nencode\nh\x01\x8c\x06latin1\x86R" * 1000
    with pytest.raises(ValueError, match="more bytes than the file holds"):
        load_pickle(write(tmp_path, b"\x80\x02" + text + b"q\x01](" + calls + b"e."))


def test_a_length_beyond_the_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a whole pickle"):
        load_pickle(write(tmp_path, b"\x80\x04\x8e" + struct.pack("<Q", 2**45) + b"abc."))


def test_a_global_of_a_million_letters_is_named_in_short(tmp_path):
    with pytest.raises(UnsafePickleError) as refusal:
        load_pickle(write(tmp_path, b"c" + b"a" * 10**6 + b"\nb\n."))
    assert len(str(refusal.value)) < 500


def test_laughing_lists_are_refused(tmp_path):
    # Each list holds the one before ten times: walked, that would be 10 ** 20 values.
    content = b"\x80\x02]q\x00"
    for level in range(20):
        content += b"0](" + b"h" + bytes([level]) + b"".join(b"h" + bytes([level]) for _ in range(9))
        content += b"eq" + bytes([level + 1])
    with pytest.raises(ValueError, match="more than 2,000,000 values"):
        load_pickle(write(tmp_path, content + b"."))


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)
)
def test_a_damaged_pickle_is_refused_or_read_never_run(tmp_path_factory, cut, flips):
    content = bytearray(pickle.dumps({"w": np.arange(6.0), "n": [1, "a"]}, 4))
    for position, value in flips:
        content[position % len(content)] = value
    path = write(tmp_path_factory.mktemp("damaged"), bytes(content[: cut or None]))
    try:
        load_pickle(path)
    except ValueError as error:
        assert "\n" not in str(error)
