"""Tensors that lie as plain bytes at a known place of a file, read one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["DAMAGED", "MOST_AXES", "RAW", "Place", "RawMap", "check_span", "strict_json", "widen"]

#: What reading a damaged description of tensors raises.
DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
    OverflowError,
)

#: Type name to the NumPy type of its bytes, little-endian.
RAW: Mapping[str, str] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "float8_e4m3fn": "u1",
    "float8_e5m2": "u1",
    "float8_e4m3fnuz": "u1",
    "float8_e5m2fnuz": "u1",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint64": "<u8",
    "uint32": "<u4",
    "uint16": "<u2",
    "uint8": "u1",
    "bool": "?",
    "complex64": "<c8",
    "complex128": "<c16",
}
#: Axes of a NumPy array, at most.
MOST_AXES = 64
#: Elements that a tensor may have beyond those stored (a broadcast one), at most.
_BROADCAST = 1 << 24


@dataclass(frozen=True)
class Place:
    """Where one tensor's bytes lie.

    Attributes
    ----------
    path : Path or RemotePath
        The file.
    offset : int
        Byte at which its first element lies.
    spec : TensorSpec
        Shape and stored type, a key of `RAW`.
    strides : tuple of int or None
        Elements from one to the next along each axis; None for row-major order.
    big_endian : bool
        Whether the bytes of each element are in the other order.
    """

    path: AnyPath
    offset: int
    spec: TensorSpec
    strides: tuple[int, ...] | None = None
    big_endian: bool = False

    @property
    def raw(self) -> np.dtype[Any]:
        """NumPy type of the stored elements."""
        dtype = np.dtype(RAW[self.spec.dtype])
        return dtype.newbyteorder(">") if self.big_endian else dtype

    @property
    def by_rows(self) -> bool:
        """Whether the elements follow each other in row-major order."""
        shape = self.spec.shape
        plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return self.strides is None or self.strides == plain


class RawMap(TensorMap):
    """Tensors at known places; each is read when it is asked for."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = dict(places)
        for name, place in self._places.items():
            if len(place.spec.shape) > MOST_AXES:
                raise CheckpointError(
                    f"{place.path}: the tensor {name!r} is said to have {len(place.spec.shape)} "
                    f"axes; NumPy has at most {MOST_AXES}. The file is damaged: save or copy it "
                    "again."
                )

    def spec(self, name: str) -> TensorSpec:
        """Return shape and stored type of `name`."""
        return self._places[name].spec

    def __getitem__(self, name: str) -> NDArray[Any]:
        place = self._places[name]
        count = span(place.spec.shape, place.strides)
        try:
            flat = _read(place, count)
        except OSError as error:
            raise CheckpointError(f"{place.path}: cannot be read: {error}") from error
        if len(flat) != count:
            raise CheckpointError(
                f"{place.path}: the file ends inside {name!r}; it changed since it was opened. "
                "Open it again."
            )
        flat = widen(flat, place.spec.dtype)
        if place.strides is None or place.by_rows:
            return flat.reshape(place.spec.shape)
        steps = [step * flat.itemsize for step in place.strides]
        view = np.lib.stride_tricks.as_strided(flat, place.spec.shape, steps, writeable=False)
        return view.copy(order="C")

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        place = self._places[name]
        inner = place.spec.shape[1:]
        if not (len(indices) and place.by_rows):
            return self[name][indices]
        width = math.prod(inner) * place.raw.itemsize
        wanted, back = np.unique(indices, return_inverse=True)
        data = bytearray()
        try:
            with place.path.open("rb", buffering=0) as file:
                for first, count in _stretches(wanted):
                    file.seek(place.offset + first * width)
                    data += read_exactly(file, count * width, place.path, name)
        except OSError as error:
            raise CheckpointError(f"{place.path}: cannot be read: {error}") from error
        flat = widen(np.frombuffer(data, dtype=place.raw), place.spec.dtype)
        return flat.reshape(len(wanted), *inner)[back]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _read(place: Place, count: int) -> NDArray[Any]:
    """Return elements as stored, fewer where the file ends before."""
    if isinstance(place.path, Path):
        return np.fromfile(place.path, dtype=place.raw, count=count, offset=place.offset)
    with place.path.open("rb", buffering=0) as file:
        file.seek(place.offset)
        data = bytearray(_all(file, count * place.raw.itemsize))
    whole = len(data) // place.raw.itemsize
    return np.frombuffer(data, dtype=place.raw, count=whole)


def _stretches(indices: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield increasing indices as (first, count) of those that follow each other."""
    for run in np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1):
        yield int(run[0]), len(run)


def read_exactly(file: IO[bytes], size: int, path: AnyPath, name: str) -> bytes:
    """Return the next `size` bytes of a file that may give fewer at a time.

    Raises
    ------
    CheckpointError
        If the file ends before.
    """
    data = _all(file, size)
    if len(data) < size:
        raise CheckpointError(
            f"{path}: the file ends inside {name!r}; it changed since it was opened. Open it again."
        )
    return data


def _all(file: IO[bytes], size: int) -> bytes:
    """Return the next `size` bytes of a file that may give fewer at a time."""
    pieces: list[bytes] = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def span(shape: Sequence[int], strides: Sequence[int] | None) -> int:
    """Return how many stored elements a tensor reaches over."""
    if strides is None or 0 in shape:
        return math.prod(shape)
    return 1 + sum((extent - 1) * step for extent, step in zip(shape, strides, strict=True))


def check_span(path: AnyPath, name: str, place: Place, available: int) -> None:
    """Refuse a tensor that cannot lie in the bytes it is said to lie in.

    Parameters
    ----------
    path : Path or RemotePath
        The file, for the message.
    name : str
        The tensor.
    place : Place
        Where it is said to lie.
    available : int
        Bytes from ``place.offset`` to the end of what holds it.

    Raises
    ------
    CheckpointError
        If a size is negative, the bytes end before the tensor does, or broadcasting makes far
        more of it than is stored.
    """
    shape, strides = place.spec.shape, place.strides
    numbers = (*shape, *(strides or ()))
    if min(numbers, default=0) < 0 or (strides is not None and len(strides) != len(shape)):
        raise CheckpointError(
            f"{path}: the tensor {name!r} is said to have shape {shape} and strides {strides}; "
            "sizes cannot be negative. The file is damaged: save or copy it again."
        )
    needed = span(shape, strides) * place.raw.itemsize
    if needed > available:
        raise CheckpointError(
            f"{path}: the tensor {name!r} of shape {shape} ({place.spec.dtype}) needs {needed} "
            f"bytes and the file has {max(available, 0)} for it; truncated or damaged. Save or "
            "copy it again."
        )
    if math.prod(shape) > max(span(shape, strides), _BROADCAST):
        raise CheckpointError(
            f"{path}: the tensor {name!r} of shape {shape} is stored as {needed} bytes, repeated; "
            "too large to be spread out. Save it without repetition (.contiguous())."
        )


def widen(flat: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return stored elements in the machine's own type: bfloat16 and float8 as float32."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (flat.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("float8"):
        import torch

        wide: NDArray[Any] = torch.from_numpy(flat).view(getattr(torch, dtype)).float().numpy()
        return wide
    return flat.astype(flat.dtype.newbyteorder("="), copy=False)


def strict_json(text: str | bytes) -> Any:
    """Parse JSON in which no object names a key twice.

    Raises
    ------
    ValueError
        If it is damaged or names a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {key!r} is there twice")
            result[key] = value
        return result

    return json.loads(text, object_pairs_hook=once)
