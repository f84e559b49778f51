"""ONNX models: initialisers read in place, the graph run by onnxruntime when needed.

The protobuf is scanned, because its own package only reads files whole. Field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (ModelProto, GraphProto, TensorProto).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.contract import (
    Contents,
    Entry,
    NotACheckpointError,
    missing_extra,
    read_head,
    refusal,
)
from geomdiag.checkpoints.formats.dumps import is_scalar_name, plain_value
from geomdiag.checkpoints.formats.program import Program
from geomdiag.checkpoints.formats.protobuf import Scanner
from geomdiag.checkpoints.formats.raw import Place, RawMap, check_span
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "ONNXFormat"]

#: TensorProto.DataType to the type's name.
_TYPES: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
}
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALISER = 5
#: Fields of a tensor whose bytes, packed, are its values as they lie in memory.
_PLAIN_VALUES = {4: (1, 14), 9: None, 10: (11, 15)}
_DIMS, _TYPE, _NAME, _EXTERNAL, _LOCATION = 1, 2, 8, 13, 14


def _tensor(scan: Scanner, start: int, end: int) -> tuple[str, Place | None]:
    """Return a tensor's name, and where its values lie unless they are stored one by one."""
    shape: list[int] = []
    kind = outside = 0
    name, external = "", {}
    values: tuple[int, int, int] | None = None
    for number, a, b in scan.fields(start, end):
        if number == _DIMS:
            shape += scan.integers(a, b) if b else [a]
        elif number == _TYPE:
            kind = a
        elif number == _LOCATION:
            outside = a
        elif number == _NAME:
            name = scan.text(a, b)
        elif number == _EXTERNAL:
            key, value = scan.pair(a, b)
            external[key] = value
        elif number in _PLAIN_VALUES and values is None:
            values = number, a, b
    if kind not in _TYPES or any(extent >= 1 << 62 for extent in shape):
        return name, None
    spec = TensorSpec(tuple(shape), _TYPES[kind])
    if outside == 1:
        return name, _external(scan.path, name, spec, external)
    if values is None:
        return name, Place(scan.path, start, spec) if 0 in shape else None
    number, a, b = values
    allowed = _PLAIN_VALUES[number]
    if allowed is not None and kind not in allowed:
        return name, None
    place = Place(scan.path, a, spec)
    check_span(scan.path, name, place, b - a)
    return name, place


def _external(path: AnyPath, name: str, spec: TensorSpec, external: dict[str, str]) -> Place:
    file = external.get("location", "")
    # A model may come from anywhere: it must not make us read files outside its folder.
    if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
        raise CheckpointError(
            f"{path}: the values of {name!r} are said to lie in {file!r}; expected a plain file "
            "name in the folder of the model"
        )
    offset = int(external.get("offset") or 0)
    place = Place(path.parent / file, offset, spec)
    try:
        size = place.path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{path}: its values lie in {file!r}, which is missing; copy it to {path.parent}"
        ) from error
    check_span(place.path, name, place, size - offset if offset >= 0 else -1)
    return place


def _read(path: AnyPath) -> tuple[dict[str, Place], dict[str, Any], list[str]]:
    """Return where each initialiser lies, the stored texts, and the names left out."""
    places: dict[str, Place] = {}
    metadata: dict[str, Any] = {}
    left_out: list[str] = []
    graphs = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            scan = Scanner(path, file, size)
            for number, a, b in scan.fields(0, size):
                if number == _MODEL_METADATA:
                    key, value = scan.pair(a, b)
                    metadata[key] = plain_value(value)
                if number != _MODEL_GRAPH:
                    continue
                graphs += 1
                for inner, start, end in scan.fields(a, b):
                    if inner != _GRAPH_INITIALISER:
                        continue
                    name, place = _tensor(scan, start, end)
                    if name in places:
                        raise ValueError(f"two initialisers called {name!r}")
                    if place is None:
                        left_out.append(name)
                    else:
                        places[name] = place
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: not an ONNX model, or damaged ({type(error).__name__}: {error}); copy or "
            "export it again"
        ) from error
    if graphs != 1:
        raise CheckpointError(
            f"{path}: truncated or no ONNX model, {graphs} graphs where one was expected; copy or "
            "export it again"
        )
    return places, metadata, left_out


def _load(path: AnyPath) -> TensorMap:
    return RawMap(_read(path)[0])


def _program(path: AnyPath, parts: tuple[AnyPath, ...]) -> Program:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra(path, "onnxruntime", "onnx") from error
    file = local_copy(path, parts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no common class of its errors
        raise CheckpointError(
            f"{path}: onnxruntime cannot load it: {str(error).splitlines()[:1]}; export it again"
        ) from error
    inputs = session.get_inputs()
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    unknown = [each for each in inputs if each.type not in types]
    if unknown:
        raise CheckpointError(
            f"{path}: its input {unknown[0].name!r} is a {unknown[0].type}; expected token numbers "
            "(int64 or int32). Export the model from the tokens on."
        )

    def run(rows: NDArray[Any]) -> NDArray[Any]:
        if len(inputs) == 1:
            fed = {inputs[0].name: rows.astype(types[inputs[0].type])}
        else:  # an input for each token
            columns = zip(inputs, rows.T, strict=True)
            fed = {each.name: column.astype(types[each.type]) for each, column in columns}
        output: NDArray[Any] = session.run(None, fed)[0]
        return output

    extents = [extent if isinstance(extent, int) else None for extent in inputs[0].shape]
    width = len(inputs) if len(inputs) > 1 else (*extents, None, None)[1]
    return Program(run, batch=(*extents, None)[0], width=width)


class ONNXFormat:
    """ONNX models."""

    name = "onnx"
    description = "ONNX models: initialisers by name; runs by itself (needs onnxruntime for that)"
    suffixes: tuple[str, ...] = (".onnx",)
    extra = "onnx"
    lazy = True
    safe = True
    remote = True
    runs = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file begins with ONNX' version and a producer's name."""
        if len(head) < 4 or head[0] != 0x08 or not 0 < head[1] < 0x40:
            return False
        if head[2] != 0x12:  # no producer is named
            return path.suffix.lower() == ".onnx"
        producer = head[4 : 4 + head[3]]
        printable = producer.isascii() and producer.decode("ascii").isprintable()
        return 0 < head[3] < 0x80 and len(producer) == head[3] and printable

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint in `path`; see `Format.open`."""
        head = read_head(path)
        if not head.startswith(b"\x08"):
            raise refusal(path, head, "an ONNX model")
        places, metadata, left_out = _read(path)
        for name in [name for name in places if is_scalar_name(name)]:
            if math.prod(places[name].spec.shape) == 1:
                metadata.setdefault(name, RawMap(places)[name].item())
                del places[name]
        if not places:
            raise NotACheckpointError(f"{path}: the model has no initialisers with plain values")
        parts = tuple(sorted({place.path for place in places.values()} - {path}))
        entry = Entry(
            load=partial(_load, path),
            specs={name: place.spec for name, place in places.items()},
            metadata=metadata,
            steps=steps_of(metadata),
            parts=parts,
            program=partial(_program, path, parts),
        )
        notices = []
        if left_out:
            notices = [
                f"{len(left_out)} constant(s) such as {left_out[0]!r} are stored one number at a "
                "time and are not shown"
            ]
        return Contents(entries=[entry], notices=notices)


FORMAT = ONNXFormat()
