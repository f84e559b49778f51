"""Flax msgpack files (``flax.serialization.to_bytes``): scanned, arrays read in place.

msgpack is read here (https://github.com/msgpack/msgpack/blob/master/spec.md), because its own
package only reads files whole. Flax stores an array as extension 1 with shape, type and bytes,
a NumPy scalar as extension 3; one larger than 1 GiB in chunks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.contract import (
    HEAD,
    Contents,
    Entry,
    NotACheckpointError,
    refusal,
)
from geomdiag.checkpoints.formats.dumps import is_scalar_name, kind_of
from geomdiag.checkpoints.formats.layout import choose_network
from geomdiag.checkpoints.formats.raw import MOST_AXES, RAW, Place, RawMap, check_span
from geomdiag.checkpoints.formats.recorded import Recorded, read_beside, steps_of
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "FlaxFormat"]

_DEEPEST = 100
#: Bytes of a string or of plain bytes that are not an array's.
_LONGEST = 16 << 20
#: Values in one file, arrays' contents not counted.
_MOST = 1_000_000
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _SCALAR = 1, 3
#: First byte to how many bytes of length follow, by kind.
_STRINGS = {0xD9: "B", 0xDA: ">H", 0xDB: ">I"}
_BINARIES = {0xC4: "B", 0xC5: ">H", 0xC6: ">I"}
_LISTS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_EXTENSIONS = {0xC7: "B", 0xC8: ">H", 0xC9: ">I"}
_FIXED = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: "B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: "b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True)
class _Array:
    """An array whose bytes lie at `pieces`, one after the other."""

    spec: TensorSpec
    pieces: tuple[Place, ...]


class _Scanner:
    """Reads msgpack, stepping over the bytes of arrays."""

    def __init__(self, path: AnyPath, file: IO[bytes], size: int) -> None:
        self._path, self._file, self._end = path, file, size
        self._count = 0

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise CheckpointError(
                f"{self._path}: truncated, the file ends inside a value; copy or save it again"
            )
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def value(self, depth: int = 0) -> Any:
        """Return the next value."""
        self._count += 1
        if depth > _DEEPEST or self._count > _MOST:
            raise ValueError("it is nested too deep or holds too many values")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if 0xA0 <= first < 0xC0 or first in _STRINGS:
            length = first - 0xA0 if first < 0xC0 else self._number(_STRINGS[first])
            return self._bytes(length).decode("utf-8")
        if first in _BINARIES:
            return self._bytes(self._number(_BINARIES[first]))
        if 0x90 <= first < 0xA0 or first in _LISTS:
            count = first - 0x90 if first < 0xA0 else self._number(_LISTS[first])
            return [self.value(depth + 1) for _ in range(count)]
        if first < 0x90 or first in _MAPS:
            return self._map(first - 0x80 if first < 0x90 else self._number(_MAPS[first]), depth)
        if first in _FIXED or first in _EXTENSIONS:
            length = _FIXED[first] if first in _FIXED else self._number(_EXTENSIONS[first])
            return self._extension(length)
        raise ValueError(f"the byte {first:#x} begins no value")

    def _bytes(self, length: int) -> bytes:
        if length > _LONGEST:
            raise ValueError(f"a text of {length} bytes")
        return self._take(length)

    def _map(self, count: int, depth: int) -> Any:
        result: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise ValueError(f"a key that is a {type(key).__name__}, not a text")
            if key in result:
                raise ValueError(f"the key {key!r} is there twice")
            result[key] = self.value(depth + 1)
        return _joined(result) if _CHUNKED in result else result

    def _extension(self, length: int) -> Any:
        kind = self._number("b")
        end = self._file.tell() + length
        if end > self._end:
            raise CheckpointError(
                f"{self._path}: truncated, {self._end} bytes of at least {end}; copy or save the "
                "file again"
            )
        if kind not in (_ARRAY, _SCALAR):
            self._file.seek(end)  # a complex number: never part of a network
            return None
        return self._array(end, scalar=kind == _SCALAR)

    def _array(self, end: int, *, scalar: bool) -> Any:
        if self._take(1) != b"\x93":
            raise ValueError("an array that is not described by shape, type and bytes")
        shape, dtype = self.value(_DEEPEST - 1), self.value(_DEEPEST)
        form = _BINARIES.get(self._take(1)[0])
        if form is None or not isinstance(shape, list) or not isinstance(dtype, str):
            raise ValueError("an array that is not described by shape, type and bytes")
        nbytes, start = self._number(form), self._file.tell()
        if not all(isinstance(extent, int) for extent in shape):
            raise ValueError(f"an array of shape {shape}")
        if dtype not in RAW:
            raise CheckpointError(
                f"{self._path}: an array has the type {dtype!r}, known are {', '.join(RAW)}"
            )
        place = Place(self._path, start, TensorSpec(tuple(shape), dtype))
        check_span(self._path, dtype, place, nbytes)
        needed = math.prod(shape) * place.raw.itemsize
        if start + nbytes != end or needed != nbytes:
            raise ValueError(f"an array of shape {shape} ({dtype}) in {nbytes} bytes")
        if scalar and not shape:
            value = np.frombuffer(self._take(nbytes), place.raw)[0]
            return None if dtype == "bfloat16" or "float8" in dtype else value.item()
        self._file.seek(end)
        return _Array(place.spec, (place,))


def _joined(value: Mapping[str, Any]) -> _Array:
    """Return the array that Flax stored in chunks."""
    shape = tuple(value["shape"].values())
    pieces = [piece for chunk in value["chunks"].values() for piece in chunk.pieces]
    dtype = pieces[0].spec.dtype
    held = sum(math.prod(piece.spec.shape) for piece in pieces)
    if len(shape) > MOST_AXES or held != math.prod(shape):
        raise ValueError(f"chunks that do not make up the shape {shape}")
    if any(piece.spec.dtype != dtype for piece in pieces):
        raise ValueError("chunks of different types")
    return _Array(TensorSpec(shape, dtype), tuple(pieces))


class _FlaxMap(TensorMap):
    """Arrays read from their places when asked for."""

    def __init__(self, arrays: Mapping[str, _Array]) -> None:
        self._arrays = dict(arrays)

    def spec(self, name: str) -> TensorSpec:
        """Return shape and stored type of `name`."""
        return self._arrays[name].spec

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._arrays[name]
        parts = [RawMap({name: piece})[name] for piece in array.pieces]
        if len(parts) == 1:
            return parts[0].reshape(array.spec.shape)
        return np.concatenate([part.ravel() for part in parts]).reshape(array.spec.shape)

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        pieces = self._arrays[name].pieces
        if len(pieces) != 1 or pieces[0].spec.shape != self._arrays[name].spec.shape:
            return self[name][indices]
        return RawMap({name: pieces[0]}).rows(name, indices)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*keys, key))
    else:
        yield keys, value


def _read(path: AnyPath) -> tuple[dict[str, _Array], dict[str, Any]]:
    """Return the network's arrays by name, and what lies beside them at the top."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            if not _begins(head):
                raise refusal(path, head, "a msgpack map")
            file.seek(0)
            held = _Scanner(path, file, path.stat().st_size).value()
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: not a Flax file, or damaged: {type(error).__name__}: {error}. Save or copy "
            "it again."
        ) from error
    leaves = {".".join(keys): (keys, value) for keys, value in _leaves(held)}
    arrays = {name: value for name, (_, value) in leaves.items() if isinstance(value, _Array)}
    top = {name: value for name, (keys, value) in leaves.items() if len(keys) == 1}
    beside = {name: value for name, value in top.items() if name not in arrays}
    for name in [name for name in arrays if is_scalar_name(name)]:
        if not arrays[name].spec.shape:
            beside[name] = _FlaxMap(arrays)[name].item()
            del arrays[name]
    names = choose_network({name: leaves[name][0] for name in arrays})
    return {new: arrays[name] for new, name in names.items()}, beside


def _begins(head: bytes) -> bool:
    """Return whether bytes begin a map whose first key is a readable text."""
    if not head or not (0x81 <= head[0] < 0x90 or head[0] in _MAPS):
        return False
    at = 1 + (struct.calcsize(_MAPS[head[0]]) if head[0] in _MAPS else 0)
    if len(head) <= at:
        return False
    length, at = head[at] - 0xA0, at + 1
    if length == 0xD9 - 0xA0 and len(head) > at:
        length, at = head[at], at + 1
    elif not 0 < length < 32:
        return False
    key = head[at : at + length]
    return len(key) == length and key.isascii() and key.decode("ascii").isprintable()


def _load(path: AnyPath) -> TensorMap:
    return _FlaxMap(_read(path)[0])


class FlaxFormat:
    """Files written by ``flax.serialization.to_bytes`` and ``flax.training.checkpoints``."""

    name = "flax"
    description = "Flax msgpack: params or a whole TrainState, names joined by dots"
    suffixes: tuple[str, ...] = (".msgpack", ".flax")
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:  # noqa: ARG002
        """Return whether the file begins with a msgpack map from texts."""
        return _begins(head)

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint in `path`; see `Format.open`."""
        arrays, beside = _read(path)
        if not arrays:
            raise NotACheckpointError(f"{path}: the file holds no arrays of a network")
        said = Recorded()
        read_beside(said, beside)
        specs = _FlaxMap(arrays).specs()
        entry = Entry(
            load=partial(_load, path),
            specs=specs,
            metadata=said.metadata,
            steps=steps_of(said.metadata),
            kind=kind_of(specs, said.metadata),
        )
        return Contents(entries=[entry], config=said.config)


FORMAT = FlaxFormat()
