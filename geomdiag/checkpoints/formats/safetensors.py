"""safetensors: a JSON header and raw bytes; one file, or several named by an index.

Layout: https://github.com/huggingface/safetensors (format section). Read directly, because
shapes must be known without values and types NumPy lacks must be widened.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

from geomdiag.checkpoints.formats.contract import (
    HEAD,
    Contents,
    Entry,
    NotACheckpointError,
    refusal,
)
from geomdiag.checkpoints.formats.dumps import is_scalar_name, kind_of, plain_value
from geomdiag.checkpoints.formats.raw import DAMAGED, Place, RawMap, strict_json
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.formats.sharding import read_index
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "SafetensorsFormat"]

#: Bytes of header: some 200,000 tensors. More is refused before it fills the memory.
_HEADER_LIMIT = 25_000_000
_INDEX = ".safetensors.index.json"

#: Stored type to its name.
_DTYPES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


def _read_header(path: AnyPath) -> tuple[dict[str, Place], dict[str, str]]:
    """Return where each tensor lies and the file's metadata, or raise `CheckpointError`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or not 2 <= length <= _HEADER_LIMIT:
                raise refusal(path, head + file.read(HEAD), "a safetensors header")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if len(text) < length:
        raise _truncated(path, 8 + length, size)
    try:
        header = strict_json(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise TypeError(f"the header is a {type(header).__name__}, not an object")
        metadata = {str(k): str(v) for k, v in (header.pop("__metadata__", None) or {}).items()}
        places = {name: _place(path, name, item, 8 + length) for name, item in header.items()}
    except CheckpointError:
        raise
    except DAMAGED as error:
        raise CheckpointError(
            f"{path}: the safetensors header is damaged ({type(error).__name__}: {error}); "
            "save or download the file again"
        ) from error
    ends = [
        place.offset + math.prod(place.spec.shape) * place.raw.itemsize for place in places.values()
    ]
    if max(ends, default=0) > size:
        raise _truncated(path, max(ends), size)
    return places, metadata


def _truncated(path: AnyPath, expected: int, size: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated, {size} bytes of at least {expected}; copy or save the file again"
    )


def _place(path: AnyPath, name: str, item: Mapping[str, Any], start: int) -> Place:
    if item["dtype"] not in _DTYPES:
        raise CheckpointError(
            f"{path}: the tensor {name!r} has the type {item['dtype']}, known are "
            f"{', '.join(_DTYPES)}; save it in one of these"
        )
    shape = tuple(int(extent) for extent in item["shape"])
    begin, end = (int(offset) for offset in item["data_offsets"])
    place = Place(path, start + begin, TensorSpec(shape, _DTYPES[item["dtype"]]))
    nbytes = math.prod(shape) * place.raw.itemsize
    if begin < 0 or min(shape, default=0) < 0 or end - begin != nbytes:
        raise ValueError(f"{name!r} of shape {shape} cannot lie at bytes {begin}..{end}")
    return place


def _read_index(path: AnyPath) -> tuple[dict[str, Place], dict[str, Any], tuple[AnyPath, ...]]:
    weight_map, metadata = read_index(path)
    parts = tuple(path.parent / shard for shard in sorted(set(weight_map.values())))
    shards = {part.name: _read_header(part)[0] for part in parts}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{path.parent / shard}: lacks {name!r}, which {path.name} names")
    places = {name: shards[shard][name] for name, shard in weight_map.items()}
    return places, metadata, parts


def _load(path: AnyPath) -> TensorMap:
    if path.name.endswith(".json"):
        return RawMap(_read_index(path)[0])
    return RawMap(_read_header(path)[0])


class SafetensorsFormat:
    """safetensors files, single or sharded with ``*.safetensors.index.json``."""

    name = "safetensors"
    description = "safetensors files, single or sharded with an index; step and config as metadata"
    suffixes: tuple[str, ...] = (".safetensors", _INDEX)
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file starts with a plausible header length and an object."""
        if path.name.endswith(_INDEX):
            return head.lstrip()[:1] == b"{"
        if len(head) < 9:
            return False
        length = struct.unpack("<Q", head[:8])[0]
        return 2 <= length <= _HEADER_LIMIT and head[8:9] == b"{"

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint in `path`; see `Format.open`."""
        parts: tuple[AnyPath, ...] = ()
        stored: Mapping[str, Any]
        if path.name.endswith(".json"):
            places, stored, parts = _read_index(path)
        else:
            places, stored = _read_header(path)
        if not places:
            raise NotACheckpointError(f"{path}: the file holds no tensors")
        metadata = {name: plain_value(value) for name, value in stored.items()}
        specs = {name: place.spec for name, place in places.items()}
        # Scalars stored as tensors are read here: they are a few bytes.
        for name, spec in specs.items():
            if not spec.shape and is_scalar_name(name):
                metadata.setdefault(name, RawMap(places)[name].item())
        specs = {k: v for k, v in specs.items() if v.shape or not is_scalar_name(k)}
        config = metadata.pop("config", {})
        entry = Entry(
            load=partial(_load, path),
            specs=specs,
            metadata=metadata,
            steps=steps_of(metadata),
            kind=kind_of(specs, metadata),
            parts=parts,
        )
        return Contents(entries=[entry], config=config if isinstance(config, Mapping) else {})


FORMAT = SafetensorsFormat()
