"""torch's checkpoint files, read without torch's unpickler.

No code in them runs, and nothing is made that the file does not hold.

``torch.load(weights_only=True)`` runs no code either, but it makes what a file asks for: a ``bytearray`` of
three gigabytes out of 530 bytes. Here tensors are views of the bytes that lie in the file, and a view beyond
them is refused.

Source: the two formats that ``torch.save`` writes: a zip archive of a pickle and one member for each storage
(torch 1.6 and later), and a stream of pickles with the storages behind them.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from segmeter.harness.weights.pickle_calls import CONTAINERS, NUMPY, build
from segmeter.harness.weights.safe_pickle import Global, Machine, StandIn, Table, UnsafePickleError, run

MAGIC = 0x1950A86A20F9469CFC6C
# A torch archive stores its members as they are; a member larger than this beyond the file is a bomb.
ZIP_SLACK = 1 << 20
# Bytes of an archive's directory; a member takes about a hundred, and a storage is a member.
MAX_DIRECTORY = 1 << 24
MAX_DIMENSIONS = 64
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_QUANTISED = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64", "bool", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
# Tensors that are no plain arrays, by the function that would make them again.
_OTHER_KINDS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_qtensor": "quantised",
    "_rebuild_meta_tensor_no_storage": "meta (without numbers)",
    "_rebuild_wrapper_subclass": "of a class of its own",
    "_rebuild_from_type_v2": "of a class of its own",
    "_rebuild_device_tensor_from_numpy": "on another kind of device",
    "_rebuild_device_tensor_from_cpu_tensor": "on another kind of device",
}


class OtherTensorError(ValueError):
    """A tensor that is not a plain array of numbers."""


def load_torch_file(path: Path) -> Any:
    """Read a file that ``torch.save`` wrote.

    Returns:
        Its content: dicts, lists, numbers and text, with tensors on the CPU, nested as stored.

    Raises:
        ValueError: the file asks for something that is neither container nor plain tensor, which is named; or
            it is damaged, or asks for more than it holds.
        OSError: the file cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with path.open("rb") as file:
            return _read_stream(file, os.fstat(file.fileno()).st_size)
    except UnsafePickleError as error:
        raise ValueError(
            f"{path} refused: it asks for {error.offender}; only weights are read, and nothing was run"
        ) from None
    except OtherTensorError as error:
        raise ValueError(f"{path} refused: {error}") from None
    except (ValueError, RuntimeError, struct.error, zipfile.BadZipFile, NotImplementedError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if reason.startswith("a zip bomb"):
            raise ValueError(f"{path} refused: {reason}") from None
        raise ValueError(f"{path} is not a whole torch checkpoint: {reason}") from None


@dataclass(eq=False)
class _Storage(StandIn):
    """The bytes of one or several tensors: read once, when the first of them is finished."""

    key: str
    dtype: torch.dtype
    count: int
    read: "Callable[[_Storage], Tensor]"

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """All of them, one after the other, as numbers of ``dtype``: (N,)."""
        return self.read(self).view(dtype)

    @property
    def size(self) -> int:
        """Bytes that the file says it has."""
        return self.count * self.dtype.itemsize


@dataclass(eq=False)
class _View(StandIn):
    """A tensor: which numbers of a storage, in what shape."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def finish(self) -> Tensor:
        numbers = self.storage.numbers(self.dtype)
        reached = self.offset + sum(
            (side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True)
        )
        if 0 not in self.shape and reached >= len(numbers):
            raise ValueError(f"a tensor reaches number {reached:,} of a storage of {len(numbers):,}")
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        return numbers.as_strided(self.shape, self.strides, self.offset)


def _view(machine: Machine, arguments: tuple[Any, ...]) -> _View:
    storage, offset, shape, strides, *_ = arguments
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor over a {type(storage).__name__}")
    return _make_view(storage, offset, shape, strides, storage.dtype)


def _view_with_dtype(machine: Machine, arguments: tuple[Any, ...]) -> _View:
    storage, offset, shape, strides, _grad, _hooks, dtype, *_ = arguments
    if not isinstance(storage, _Storage) or not isinstance(dtype, Global) or dtype.name not in _DTYPES:
        raise ValueError("a tensor without a storage or without a number type")
    return _make_view(storage, offset, shape, strides, getattr(torch, dtype.name))


def _make_view(storage: _Storage, offset: Any, shape: Any, strides: Any, dtype: torch.dtype) -> _View:
    for numbers in ((offset,), shape, strides):
        if not isinstance(numbers, tuple) or not all(_is_count(number) for number in numbers):
            raise ValueError("a tensor whose shape is no row of whole numbers")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} sides with {len(strides)} strides")
    return _View(storage, offset, shape, strides, dtype)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _first(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    """A parameter is its tensor, a size its tuple, a device its name."""
    return arguments[0]


def _refused(name: str, kind: str) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def call(machine: Machine, arguments: tuple[Any, ...]) -> Any:
        raise OtherTensorError(f"it holds a tensor that is {kind} ({name}); only plain arrays are read")

    return call


_UTILS = "torch._utils"
TORCH: Table = {
    (_UTILS, "_rebuild_tensor"): _view,
    (_UTILS, "_rebuild_tensor_v2"): _view,
    (_UTILS, "_rebuild_tensor_v3"): _view_with_dtype,
    (_UTILS, "_rebuild_parameter"): _first,
    (_UTILS, "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): _first,
    ("torch", "device"): _first,
    **{("torch", name): None for name in (*_STORAGES, *_DTYPES)},
    ("torch.storage", "UntypedStorage"): None,
    ("torch.serialization", "_get_layout"): _refused("_get_layout", "sparse"),
    **{("torch", name): None for name in _QUANTISED},
    **{
        (module, name): _refused(name, kind)
        for name, kind in _OTHER_KINDS.items()
        for module in (_UTILS, "torch._tensor")
    },
}
KNOWN: Table = {**CONTAINERS, **NUMPY, **TORCH}


def _machine(size: int, read: Callable[[_Storage], Tensor]) -> Machine:
    storages: dict[str, _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        kind, storage_type, key, _location, count, *more = identity
        name = storage_type.name if isinstance(storage_type, Global) else ""
        if kind != "storage" or name not in _STORAGES or not isinstance(key, str) or not _is_count(count):
            if name in _QUANTISED:
                raise OtherTensorError(f"it holds a quantised tensor ({name}); only plain arrays are read")
            raise ValueError("a persistent id that is no storage")
        if more and more[0] is not None:
            raise ValueError("a storage that is part of another, as torch 0.1 wrote them")
        found = storages.setdefault(key, _Storage(key, _STORAGES[name], count, read))
        if (found.dtype, found.count) != (_STORAGES[name], count):
            raise ValueError(f"storage {key[:40]!r} is given twice, in two sizes")
        return found

    return Machine(KNOWN, room=size, persistent=persistent, build=build)


def _read_archive(path: Path) -> Any:
    _refuse_many_members(path)
    with zipfile.ZipFile(path) as archive:
        stored, members = path.stat().st_size, {member.filename: member for member in archive.infolist()}
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > stored + ZIP_SLACK:
            raise ValueError(
                f"a zip bomb of {stored:,} bytes that unpacks to {unpacked:,}; "
                "torch stores weights uncompressed"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it has compressed members; torch stores weights uncompressed")
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it has no data.pkl (an archive of another program?)")
        root = pickles[0].removesuffix("data.pkl")
        order = members.get(f"{root}byteorder")
        if order is not None and order.file_size < 16 and archive.read(order) != b"little":
            raise ValueError("it was written on a machine with another byte order")
        read: dict[str, Tensor] = {}

        def storage_of(storage: _Storage) -> Tensor:
            if storage.key not in read:
                member = members.get(f"{root}data/{storage.key}")
                if member is None or member.file_size != storage.size:
                    found = "no bytes" if member is None else f"{member.file_size:,} bytes"
                    raise ValueError(f"storage {storage.key[:40]!r} has {found}, not {storage.size:,}")
                with archive.open(member) as file:
                    read[storage.key] = _fill(file, storage.size)
            return read[storage.key]

        content = archive.read(pickles[0])
        return run(io.BytesIO(content), len(content), _machine(len(content), storage_of))


def _read_stream(file: BinaryIO, size: int) -> Any:
    """The older format: magic number, version, platform, content, storages' names; then their bytes."""

    def part(read: Callable[[_Storage], Tensor]) -> Any:
        return run(file, size - file.tell(), _machine(size, read))

    def unread(storage: _Storage) -> Tensor:
        raise ValueError("a tensor before its storage")

    if part(unread) != MAGIC:
        raise ValueError("it has no magic number of torch")
    part(unread)
    platform = part(unread)
    if isinstance(platform, dict) and platform.get("little_endian") is False:
        raise ValueError("it was written on a machine with another byte order")
    start = file.tell()
    # Once for its shape alone: the storages lie behind it, and the file says how long it is by ending.
    sizes: dict[str, int] = {}

    def note(storage: _Storage) -> Tensor:
        sizes[storage.key] = storage.size
        return torch.empty(storage.size, dtype=torch.uint8, device="meta")

    part(note)
    read: dict[str, Tensor] = {}
    for key in part(unread):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in sizes:
            raise ValueError(f"storage {str(key)[:40]!r} is of no tensor")
        if sizes[key] > size - file.tell() or not 0 <= count <= sizes[key]:
            raise ValueError(f"storage {key[:40]!r} is cut off")
        read[key] = _fill(file, sizes[key])
    file.seek(start)

    def storage_of(storage: _Storage) -> Tensor:
        if storage.key not in read:
            raise ValueError(f"storage {storage.key[:40]!r} has no bytes")
        return read[storage.key]

    return part(storage_of)


def _fill(file: Any, size: int) -> Tensor:
    """That many bytes of a file: (N,) uint8."""
    content = bytearray(size)
    view = memoryview(content)
    got = 0
    while got < size:
        step = file.readinto(view[got:])
        if not step:
            raise ValueError("it is truncated")
        got += step
    return torch.frombuffer(content, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def _refuse_many_members(path: Path) -> None:
    """Python's zip reader makes an object of 600 bytes for every 46 bytes of the directory."""
    # The reader's own function, so that both look at the same directory.
    end_of_directory = zipfile._EndRecData  # type: ignore[attr-defined]
    with path.open("rb") as file:
        end = end_of_directory(file)
    if end is None:
        raise ValueError("its zip directory is missing")
    if end[zipfile._ECD_SIZE] > MAX_DIRECTORY:  # type: ignore[attr-defined]
        raise ValueError(f"a zip directory of {end[zipfile._ECD_SIZE]:,} bytes")  # type: ignore[attr-defined]
