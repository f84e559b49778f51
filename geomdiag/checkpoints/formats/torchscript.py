"""TorchScript archives (``torch.jit.save``): weights read in place, the program run on request.

The archive's pickle names classes of its own (``__torch__...``); inert stand-ins take their
place, so that reading weights runs nothing. Layout:
https://github.com/pytorch/pytorch/blob/main/torch/csrc/jit/docs/serialization.md
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.archives import Archive, first_member
from geomdiag.checkpoints.formats.contract import Contents, Entry, NotACheckpointError
from geomdiag.checkpoints.formats.dumps import is_scalar_name
from geomdiag.checkpoints.formats.pickles import read_restricted
from geomdiag.checkpoints.formats.program import Program, refuse_to_run
from geomdiag.checkpoints.formats.raw import RAW, Place, RawMap, check_span
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.formats.unfolding import Unfolding
from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "STORAGES", "TorchScriptFormat", "is_torchscript"]

#: torch's storage classes and the types of their elements.
STORAGES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    **{f"UInt{bits}Storage": f"uint{bits}" for bits in (16, 32, 64)},
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    **{f"Float8_{kind}Storage": f"float8_{kind}" for kind in ("e4m3fn", "e5m2")},
    **{f"Float8_{kind}Storage": f"float8_{kind}" for kind in ("e4m3fnuz", "e5m2fnuz")},
}


class _Object:
    """Stands for an instance of one of the archive's classes."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TypeError(f"a tensor without a storage ({type(storage).__name__})")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _same(value: Any, *_: Any) -> Any:
    return value


_BUILDERS: Mapping[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _same,
    "torch.jit._pickle.restore_type_tag": _same,
    "torch.device": _same,
    "collections.OrderedDict": OrderedDict,
    **{f"torch.jit._pickle.build_{k}list": _same for k in ("int", "tensor", "double", "bool")},
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
}


def _find(name: str) -> Any:
    return _Object if name.startswith("__torch__.") else _BUILDERS[name]


def _persistent(pid: Any) -> _Storage:
    kind, dtype, key, _, _ = pid
    if kind != "storage" or dtype not in RAW:
        raise TypeError(f"a reference of the kind {kind!r} to {dtype!r}")
    return _Storage(str(key), dtype)


def is_torchscript(archive: Archive) -> bool:
    """Return whether a zip that torch wrote is a TorchScript program."""
    return archive.suffixed("/constants.pkl") is not None and any(
        "/code/" in name for name in archive.members
    )


def _leaves(
    value: Any, seen: Unfolding, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield tensors and scalars of nested objects under dotted names."""
    if isinstance(value, _Object):
        value = value.state
    if isinstance(value, Mapping):
        seen.enter(len(value), depth)
        for key, item in value.items():
            yield from _leaves(item, seen, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        seen.enter(len(value), depth)
        for i, item in enumerate(value):
            yield from _leaves(item, seen, f"{prefix}.{i}", depth + 1)
    else:
        yield prefix, value


def _flat(path: AnyPath, held: Any) -> list[tuple[str, Any]]:
    try:
        return list(_leaves(held, Unfolding()))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; refused, save the program again") from None


def _read(path: AnyPath) -> tuple[dict[str, Place], dict[str, Any]]:
    """Return where each tensor lies, and the module's own scalars."""
    archive = Archive(path)
    pickled = archive.suffixed("/data.pkl")
    if pickled is None:
        raise CheckpointError(f"{path}: the archive lacks its data.pkl; save or copy it again")
    root = pickled.removesuffix("data.pkl")
    order = f"{root}byteorder"
    big = order in archive.members and archive.read(order) == b"big"
    held = read_restricted(path, archive.read(pickled), _find, _persistent)
    places: dict[str, Place] = {}
    scalars: dict[str, Any] = {}
    starts: dict[str, tuple[int, int]] = {}
    for name, value in _flat(path, held):
        if isinstance(value, _Tensor):
            key = value.storage.key
            if key not in starts:
                starts[key] = archive.place(f"{root}data/{key}")
            start, size = starts[key]
            spec = TensorSpec(value.shape, value.storage.dtype)
            skip = value.offset * np.dtype(RAW[spec.dtype]).itemsize
            places[name] = Place(path, start + skip, spec, value.strides, big)
            check_span(path, name, places[name], size - skip if skip >= 0 else -1)
        elif isinstance(value, bool | int | float | str) and "." not in name:
            scalars[name] = value
    scalars.pop("training", None)
    return places, scalars


def _load(path: AnyPath) -> TensorMap:
    return RawMap(_read(path)[0])


def _program(path: AnyPath, allowed: bool) -> Program:
    if not allowed:
        refuse_to_run(path, "a TorchScript program runs as compiled code")
    import torch

    file = local_copy(path)
    try:
        load: Any = torch.jit.load
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole
            module = load(str(file), map_location="cpu").eval()
    except Exception as error:  # torch raises whatever its loader meets
        raise CheckpointError(
            f"{path}: torch cannot load this program ({type(error).__name__}: "
            f"{str(error).splitlines()[:1]}); save it again with this version of torch"
        ) from error

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        output: NDArray[Any] = module(torch.from_numpy(inputs)).detach().float().numpy()
        return output

    return Program(run)


class TorchScriptFormat:
    """Files written by ``torch.jit.save``."""

    name = "torchscript"
    description = "TorchScript programs: weights by name; runs by itself with --allow-pickle"
    suffixes: tuple[str, ...] = (".pt", ".pth", ".ts", ".torchscript")
    extra = ""
    lazy = True
    safe = True
    remote = True
    runs = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:  # noqa: ARG002
        """Return whether the file is a zip that begins with a storage, as torch.jit's do."""
        return first_member(head).endswith(b"/data/0")

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:
        """Return the one checkpoint in `path`; see `Format.open`."""
        places, metadata = _read(path)
        for name in [name for name in places if is_scalar_name(name)]:
            if not places[name].spec.shape:
                metadata[name] = RawMap(places)[name].item()
                del places[name]
        if not any(place.spec.shape for place in places.values()):
            raise NotACheckpointError(f"{path}: the program has no tensors")
        entry = Entry(
            load=partial(_load, path),
            specs={name: place.spec for name, place in places.items()},
            metadata=metadata,
            steps=steps_of(metadata),
            program=partial(_program, path, allow_pickle),
        )
        return Contents(entries=[entry])


FORMAT = TorchScriptFormat()
