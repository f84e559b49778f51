"""NumPy ``.npz``: a zip of arrays; weights, or a dump of computed parts."""

from __future__ import annotations

import math
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.archives import Archive, first_member
from geomdiag.checkpoints.formats.contract import (
    Contents,
    Entry,
    NotACheckpointError,
    read_head,
    refusal,
)
from geomdiag.checkpoints.formats.dumps import ARRAYS, is_scalar_name, kind_of, plain_value
from geomdiag.checkpoints.formats.raw import RAW, Place, RawMap
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.checkpoints.steps import read_stem
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

__all__ = ["DAMAGE", "FORMAT", "MAGIC", "NumpyFormat", "place_of_array", "read_header"]

#: What a damaged array makes zipfile and NumPy raise.
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    UnicodeDecodeError,
    OverflowError,
    MemoryError,
)
MAGIC = b"\x93NUMPY"


class NpzMap(TensorMap):
    """Arrays of an ``.npz``, each read when asked for."""

    def __init__(self, path: AnyPath, specs: Mapping[str, TensorSpec], allow_pickle: bool) -> None:
        self._path = path
        self._specs = dict(specs)
        self._allow_pickle = allow_pickle

    def spec(self, name: str) -> TensorSpec:
        """Return shape and type of `name`."""
        return self._specs[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        self._specs[name]  # KeyError for a name that is not there
        return _read(self._path, name, allow_pickle=self._allow_pickle)

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        place = _stored_place(self._path, name)
        return self[name][indices] if place is None else RawMap({name: place}).rows(name, indices)

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def _read(path: AnyPath, name: str, *, allow_pickle: bool) -> NDArray[Any]:
    try:
        with (
            path.open("rb") as packed,
            zipfile.ZipFile(packed) as archive,
            archive.open(f"{name}.npy") as file,
        ):
            value: NDArray[Any] = npy.read_array(file, allow_pickle=allow_pickle)
    except (*DAMAGE, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"{path}: the array {name!r} cannot be read ({type(error).__name__}: {error}); "
            "save or copy the file again"
        ) from error
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def read_header(file: IO[bytes]) -> tuple[TensorSpec, np.dtype[Any], bool]:
    """Return the shape, type and whether by columns of the array that begins here.

    Raises
    ------
    ValueError
        If no whole header begins here.
    """
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, by_columns, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, by_columns, dtype = npy.read_array_header_2_0(file)
        else:
            raise ValueError(f"it has the unknown .npy version {version}")
    except OSError:
        raise
    except Exception as error:  # NumPy parses Python literals and passes on what that raises
        raise ValueError(f"no header of an array: {type(error).__name__}: {error}") from error
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return TensorSpec(shape, str(dtype.newbyteorder("="))), dtype, by_columns


def _read_only(file: IO[bytes], size: int) -> tuple[TensorSpec, np.dtype[Any], bool]:
    """Return the same of an array that, with its header, takes all `size` bytes of the file."""
    spec, dtype, by_columns = read_header(file)
    needed = math.prod(spec.shape) * dtype.itemsize
    if not dtype.hasobject and needed != size - file.tell():
        raise ValueError(
            f"an array of shape {spec.shape} ({dtype}) takes {needed} bytes and "
            f"{size - file.tell()} are stored"
        )
    return spec, dtype, by_columns


def place_of_array(
    path: AnyPath, offset: int, spec: TensorSpec, dtype: np.dtype[Any], by_columns: bool
) -> Place | None:
    """Return where an array's values lie, or None if they are no plain numbers."""
    if spec.dtype not in RAW:
        return None
    strides = None
    if by_columns:
        strides = tuple(math.prod(spec.shape[:axis]) for axis in range(len(spec.shape)))
    big = dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big")
    return Place(path, offset, spec, strides, big)


def _stored_place(path: AnyPath, name: str) -> Place | None:
    """Return where an array lies in an ``.npz``, or None if it does not lie there as it is."""
    archive = Archive(path)
    member = f"{name}.npy"
    if archive.compressed(member):
        return None
    start, _ = archive.place(member)
    try:
        with path.open("rb") as file:
            file.seek(start)
            spec, dtype, by_columns = read_header(file)
            return place_of_array(path, file.tell(), spec, dtype, by_columns)
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: the array {name!r} cannot be read ({type(error).__name__}: {error}); "
            "save or copy the file again"
        ) from error


def _read_specs(path: AnyPath) -> dict[str, TensorSpec]:
    """Return shape and type of every array from the headers alone."""
    members = Archive(path).members
    specs: dict[str, TensorSpec] = {}
    try:
        with path.open("rb") as packed, zipfile.ZipFile(packed) as archive:
            for member, info in members.items():
                if not member.endswith(".npy"):
                    continue
                with archive.open(member) as file:
                    spec, _, _ = _read_only(file, info.file_size)
                specs[member.removesuffix(".npy")] = spec
    except (*DAMAGE, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"{path}: damaged or truncated .npz ({type(error).__name__}: {error}); save or copy "
            "the file again"
        ) from error
    return specs


def _part_of(path: AnyPath) -> str:
    """Return which part of a dump a ``.npy`` file's name says that it is, or an empty string."""
    words = read_stem(path.stem)
    return words.base if words.base in ARRAYS else ""


def _place(path: AnyPath) -> Place:
    """Return where the values of a ``.npy`` file lie."""
    try:
        with path.open("rb") as file:
            spec, dtype, by_columns = _read_only(file, path.stat().st_size)
            offset = file.tell()
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: damaged or truncated .npy ({type(error).__name__}: {error}); save or copy "
            "the file again"
        ) from error
    place = place_of_array(path, offset, spec, dtype, by_columns)
    if place is not None:
        return place
    if dtype.hasobject:
        raise UnsafeCheckpointError(
            f"{path}: the array holds Python objects ({spec.dtype}), which only unpickling can "
            "read, and that may run code. Save it again as an array of numbers."
        )
    raise NotACheckpointError(f"{path}: the array holds {spec.dtype}, not numbers")


def _load_one(path: AnyPath) -> TensorMap:
    return RawMap({_part_of(path): _place(path)})


def _open_one(path: AnyPath) -> Contents:
    part = _part_of(path)
    if not part:
        raise NotACheckpointError(
            f"{path}: one NumPy array, whose name does not say what it is; name it "
            f"<part>_step_<N>.npy with a part of {', '.join(sorted(ARRAYS))}, or save all arrays "
            "of a step into one .npz"
        )
    place = _place(path)
    entry = Entry(load=partial(_load_one, path), specs={part: place.spec}, kind=kind_of({part}, {}))
    return Contents(entries=[entry])


def _load(path: AnyPath, allow_pickle: bool) -> TensorMap:
    specs = _read_specs(path)
    return NpzMap(path, {k: v for k, v in specs.items() if _is_tensor(k, v)}, allow_pickle)


def _kind(spec: TensorSpec) -> str:
    try:
        return np.dtype(spec.dtype).kind
    except TypeError:  # a structured type
        return "V"


def _is_tensor(name: str, spec: TensorSpec) -> bool:
    return _kind(spec) in "biufc" and (bool(spec.shape) or not is_scalar_name(name))


class NumpyFormat:
    """``.npz`` files, and ``.npy`` files that are named for a part of a dump."""

    name = "numpy"
    description = "NumPy .npz: weights by name, or a dump (logits, embedding, ...) of any framework"
    suffixes: tuple[str, ...] = (".npz", ".npy")
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file is a zip whose first member is an array, or a named array."""
        if head.startswith(MAGIC):
            return bool(_part_of(path))
        return first_member(head).endswith(b".npy")

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:
        """Return the one checkpoint in `path`; see `Format.open`."""
        head = read_head(path)
        if head.startswith(MAGIC):
            return _open_one(path)
        if not head.startswith(b"PK"):
            raise refusal(path, head, "a zip of .npy arrays")
        specs = _read_specs(path)
        objects = [name for name, spec in specs.items() if _kind(spec) == "O"]
        if objects and not allow_pickle:
            raise UnsafeCheckpointError(
                f"{path}: the array {objects[0]!r} holds Python objects, which only unpickling "
                "can read, and that may run code. Save it again with plain numeric arrays, or, "
                "if you trust the file, allow it with --allow-pickle (allow_pickle=True)."
            )
        metadata: dict[str, Any] = {}
        for name, spec in specs.items():
            if not _is_tensor(name, spec) and not spec.shape:
                value = _read(path, name, allow_pickle=allow_pickle).item()
                metadata[name] = plain_value(value)
        notices = [
            f"{name!r} is left out: its type is {spec.dtype}, as NumPy writes bfloat16 and float8 "
            "of JAX without saying which; save it as float32"
            for name, spec in specs.items()
            if spec.shape and re.fullmatch(r"[|<>]?V[12]", spec.dtype)
        ]
        specs = {name: spec for name, spec in specs.items() if _is_tensor(name, spec)}
        if not specs:
            raise NotACheckpointError(f"{path}: the file holds no numeric arrays")
        config = metadata.pop("config", {})
        entry = Entry(
            load=partial(_load, path, allow_pickle),
            specs=specs,
            metadata=metadata,
            steps=steps_of(metadata),
            kind=kind_of(specs, metadata),
        )
        return Contents(
            entries=[entry],
            config=config if isinstance(config, Mapping) else {},
            notices=notices,
        )


FORMAT = NumpyFormat()
