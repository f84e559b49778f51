"""TensorFlow checkpoints: an index (a sorted table of names) and files of plain bytes.

Read without TensorFlow, whose import alone takes several hundred megabytes. The index is a
LevelDB table (https://github.com/google/leveldb/blob/main/doc/table_format.md) whose values are
BundleHeaderProto and BundleEntryProto
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from geomdiag.checkpoints.formats.contract import Contents, Entry, NotACheckpointError
from geomdiag.checkpoints.formats.dumps import is_scalar_name
from geomdiag.checkpoints.formats.layout import choose_network
from geomdiag.checkpoints.formats.protobuf import Scanner
from geomdiag.checkpoints.formats.raw import DAMAGED, Place, RawMap, check_span
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "TensorFlowFormat"]

#: The last bytes of an index.
MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_FOOTER = 48
#: Bytes of an index: about 100,000 variables.
_LIMIT = 8 << 20
#: DataType of types.proto to the type's name.
_TYPES: dict[int, str] = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
}
_STRING = 7
_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _SLICES = 1, 2, 3, 4, 5, 7
_SHAPE_DIM, _DIM_SIZE = 2, 1
#: What object-based checkpoints put between an object's path and its value.
_ATTRIBUTES = "/.ATTRIBUTES/"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
#: What a whole SavedModel or an old graph keeps beside the network.
_BESIDE = re.compile(
    r"(.*/)?beta\d_power(_\d+)?|(training/)?(Adam\w*|SGD|RMSprop|Adagrad)/.*|keras_api/.*|"
    r"save_counter|_CHECKPOINTABLE_OBJECT_GRAPH"
)
#: Variables that count steps, the most telling first.
_COUNTERS = ("step", "global_step", "iterations", "_iterations", "iter", "epoch")


def _castagnoli() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _castagnoli()


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of `data`, masked as LevelDB stores it."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class _Table:
    """The sorted keys and values of an index."""

    def __init__(self, path: AnyPath, data: bytes) -> None:
        self.path, self._data = path, data
        self.scan = Scanner(path, io.BytesIO(data), len(data))

    def items(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield each key with the start and end of its value."""
        footer = len(self._data) - _FOOTER
        end = len(self._data) - len(MAGIC)
        _, at = self._handle(footer, end)  # of blocks that describe the table
        index, _ = self._handle(at, end)
        last = b""
        seen = 0
        for _, start, stop in self._block(*index):
            block, _ = self._handle(start, stop)
            for key, a, b in self._block(*block):
                if seen and key <= last:
                    raise ValueError("its names are out of order or occur twice")
                last, seen = key, seen + 1
                yield key, a, b

    def _handle(self, at: int, end: int) -> tuple[tuple[int, int], int]:
        offset, at = self.scan.varint(at, end)
        size, at = self.scan.varint(at, end)
        return (offset, size), at

    def _block(self, offset: int, size: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the entries of a block, whose keys are stored as what differs from the last."""
        end = offset + size
        if end + 5 > len(self._data) - _FOOTER or size < 4:
            raise ValueError(f"a block of {size} bytes at {offset} lies outside of it")
        stored = int.from_bytes(self._data[end + 1 : end + 5], "little")
        if masked_crc(self._data[offset : end + 1]) != stored:
            raise ValueError(f"the checksum of the block at {offset} is wrong")
        if self._data[end]:
            raise ValueError(
                f"its block at {offset} is compressed (type {self._data[end]}), which TensorFlow "
                "does not do today; load the checkpoint with TensorFlow and save it again"
            )
        restarts = int.from_bytes(self._data[end - 4 : end], "little")
        stop = end - 4 - 4 * restarts
        if stop < offset:
            raise ValueError(f"a block with {restarts} restarts in {size} bytes")
        key, at = b"", offset
        while at < stop:
            shared, at = self.scan.varint(at, stop)
            own, at = self.scan.varint(at, stop)
            length, at = self.scan.varint(at, stop)
            if shared > len(key) or at + own + length > stop:
                raise ValueError(f"an entry at {at} leaves its block")
            key = key[:shared] + self._data[at : at + own]
            yield key, at + own, at + own + length
            at += own + length


@dataclass(eq=False)
class _Index:
    """Where each variable lies, by the name it is stored under; and what cannot be shown."""

    places: dict[str, Place] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    parted: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _read(path: AnyPath) -> _Index:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise ValueError(f"it is larger than {_LIMIT >> 20} MiB")
        if len(data) < _FOOTER or not data.endswith(MAGIC):
            raise ValueError("its end is not that of an index")
        return _entries(_Table(path, data))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except DAMAGED as error:
        raise CheckpointError(
            f"{path}: not the index of a TensorFlow checkpoint, truncated or damaged ({error}); "
            "save or copy it again, with the files *.data-* beside it"
        ) from error


def _entries(table: _Table) -> _Index:
    index = _Index()
    shards: list[tuple[AnyPath, int]] = []
    for key, start, end in table.items():
        if not key:
            shards = _shards(table, start, end)
        elif key[0] == 0:  # a slice of a partitioned variable, which is named by itself
            continue
        else:
            _entry(index, table, key.decode("utf-8"), (start, end), shards)
    if not shards:
        raise ValueError("it does not say how many data files there are")
    return index


def _shards(table: _Table, start: int, end: int) -> list[tuple[AnyPath, int]]:
    """Return the data files and their sizes."""
    held = {number: value for number, value, _ in table.scan.fields(start, end)}
    if held.get(_ENDIANNESS, 0) != 0:
        raise ValueError("it was written on a machine of the other byte order")
    count = held.get(_SHARDS, 0)
    if not 0 < count < 100_000:
        raise ValueError(f"{count} data files")
    prefix = table.path.name.removesuffix(".index")
    found: list[tuple[AnyPath, int]] = []
    for number in range(count):
        path = table.path.parent / f"{prefix}.data-{number:05d}-of-{count:05d}"
        try:
            found.append((path, path.stat().st_size))
        except OSError as error:
            raise CheckpointError(
                f"{table.path}: its values lie in {path.name!r}, which is missing; copy it to "
                f"{path.parent}"
            ) from error
    return found


def _entry(
    index: _Index,
    table: _Table,
    name: str,
    at: tuple[int, int],
    shards: list[tuple[AnyPath, int]],
) -> None:
    """Add one variable to the index."""
    numbers: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    parted = False
    for number, a, b in table.scan.fields(*at):
        if number == _SHAPE:
            shape = _shape(table.scan, a, b)
        elif number == _SLICES:
            parted = True
        else:
            numbers[number] = a
    kind = numbers.get(_DTYPE, 0)
    if kind == _STRING:
        index.texts.append(name)
    elif parted:
        index.parted.append(name)
    elif kind not in _TYPES:
        index.unknown.append(name)
    else:
        shard = numbers.get(_SHARD, 0)
        if shard >= len(shards):
            raise ValueError(f"{name!r} lies in data file {shard} of {len(shards)}")
        path, size = shards[shard]
        place = Place(path, numbers.get(_OFFSET, 0), TensorSpec(shape, _TYPES[kind]))
        check_span(path, name, place, size - place.offset)
        stored = math.prod(shape) * place.raw.itemsize
        if stored != numbers.get(_SIZE, 0):
            raise ValueError(
                f"{name!r} of shape {shape} ({place.spec.dtype}) takes {stored} bytes and is said "
                f"to take {numbers.get(_SIZE, 0)}"
            )
        index.places[name] = place


def _shape(scan: Scanner, start: int, end: int) -> tuple[int, ...]:
    extents: list[int] = []
    for number, a, b in scan.fields(start, end):
        if number == _SHAPE_DIM:
            held = {inner: value for inner, value, _ in scan.fields(a, b)}
            extents.append(held.get(_DIM_SIZE, 0))
    if any(extent >= 1 << 62 for extent in extents):  # negative ones are stored so
        raise ValueError(f"a shape of {extents}")
    return tuple(extents)


def _is_beside(name: str, names: Mapping[str, Any]) -> bool:
    """Return whether a variable is an optimiser's or the saver's own."""
    if _SLOT in name or _BESIDE.fullmatch(name.removesuffix(_VALUE)):
        return True
    # Savers by name: the slots of dense/kernel are dense/kernel/Adam, dense/kernel/Adam_1.
    return _ATTRIBUTES not in name and name.rpartition("/")[0] in names


def _keys(name: str) -> tuple[str, ...]:
    """Return the attributes that lead to a variable; object paths escape dots and slashes."""
    if not name.endswith(_VALUE):
        return tuple(name.split("/"))
    return tuple(
        re.sub(r"\.([.S])", lambda found: {".": ".", "S": "/"}[found[1]], part)
        for part in name.removesuffix(_VALUE).split("/")
    )


def _network(index: _Index) -> tuple[dict[str, Place], dict[str, Any], dict[str, Place]]:
    """Return the network's variables by name, numbers said about it, and its counters."""
    kept = {name: _keys(name) for name in index.places if not _is_beside(name, index.places)}
    counters: dict[str, Place] = {}
    for name, keys in {name: _keys(name) for name in index.places}.items():
        place = index.places[name]
        whole = place.spec.dtype.startswith(("int", "uint")) and not place.spec.shape
        if whole and keys[-1] in _COUNTERS and len(keys) <= 2 and _SLOT not in name:
            counters.setdefault("/".join(keys), place)
            kept.pop(name, None)
    beside = [name for name, keys in kept.items() if _is_said(index.places[name], keys)]
    values = RawMap({name: index.places[name] for name in beside})
    metadata = {kept[name][0]: values[name].item() for name in beside}
    names = choose_network({name: keys for name, keys in kept.items() if name not in beside})
    return {name: index.places[stored] for name, stored in names.items()}, metadata, counters


def _is_said(place: Place, keys: tuple[str, ...]) -> bool:
    """Return whether a variable is a number about the network (``val_loss``)."""
    plain = not place.spec.shape and not place.spec.dtype.startswith("complex")
    return plain and len(keys) == 1 and is_scalar_name(keys[0])


def _steps(counters: Mapping[str, Place]) -> dict[str, int]:
    """Return the steps that the checkpoint counts itself, by unit."""
    values = RawMap(counters)

    def worth(name: str) -> tuple[int, int]:
        return _COUNTERS.index(name.rpartition("/")[2]), name.count("/")

    found: dict[str, int] = {}
    for name in sorted(counters, key=worth):
        unit = "epoch" if name.endswith("epoch") else "step"
        found.setdefault(unit, int(values[name]))
    return found


def _load(path: AnyPath) -> TensorMap:
    return RawMap(_network(_read(path))[0])


class TensorFlowFormat:
    """Checkpoints of ``tf.train.Checkpoint``, Keras and ``tf.compat.v1.train.Saver``."""

    name = "tensorflow"
    description = "TensorFlow checkpoints, *.index with *.data-*: variables by their paths"
    suffixes: tuple[str, ...] = (".index",)
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:  # noqa: ARG002
        """Return whether the file is called ``.index`` and ends like one, or its data is there."""
        if not path.name.endswith(".index"):
            return False
        if (path.parent / f"{path.name.removesuffix('.index')}.data-00000-of-00001").exists():
            return True
        try:
            with path.open("rb") as file:
                file.seek(-min(_FOOTER, file.seek(0, os.SEEK_END)), os.SEEK_END)
                return bytes(file.read()).endswith(MAGIC)
        except OSError:
            return False

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint that `path` describes; see `Format.open`."""
        index = _read(path)
        places, metadata, counters = _network(index)
        if not places:
            raise NotACheckpointError(f"{path}: the checkpoint holds no variables of a network")
        notices = []
        texts = [name for name in index.texts if not _is_beside(name, {}) and "_JSON" not in name]
        for names, why in (
            (index.parted, "stored in slices (partitioned)"),
            (texts, "text"),
            (index.unknown, "of a type without plain values"),
        ):
            if names:
                notices.append(
                    f"{len(names)} variable(s) such as {names[0].removesuffix(_VALUE)!r} are left "
                    f"out: {why}"
                )
        entry = Entry(
            load=partial(_load, path),
            specs={name: place.spec for name, place in places.items()},
            metadata=metadata,
            steps=_steps(counters) or steps_of(metadata),
            parts=tuple(sorted({place.path for place in index.places.values()})),
        )
        return Contents(entries=[entry], notices=notices)


FORMAT = TensorFlowFormat()
