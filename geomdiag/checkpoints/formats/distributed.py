"""Folders of ``torch.distributed.checkpoint``: a pickled ``.metadata`` and ``*.distcp`` shards.

``.metadata`` says in which bytes of which shard each piece of each tensor lies; it is unpickled
with inert stand-ins. A piece is a small ``torch.save`` archive of its own.
"""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.contract import Contents, Entry, NotACheckpointError
from geomdiag.checkpoints.formats.layout import choose_network
from geomdiag.checkpoints.formats.pickles import read_restricted
from geomdiag.checkpoints.formats.raw import RAW
from geomdiag.checkpoints.formats.recorded import Recorded, read_beside, steps_of
from geomdiag.checkpoints.places.paths import AnyPath, Window
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "DistributedFormat"]

NAME = ".metadata"
#: Bytes of the description: some hundred thousand tensors.
_LIMIT = 64 << 20
#: Bytes of a stored scalar or short list, with the archive around it.
_SMALL = 1 << 20


class _Object:
    """Stands for an instance of one of torch.distributed's classes."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)
        elif isinstance(state, tuple) and state:  # the properties of a tensor
            self.dtype = state[0]


def _text(*parts: Any) -> str:
    return "/".join(map(str, parts))


def _size(value: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value)


_PLAIN: Mapping[str, Any] = {
    "torch.Size": _size,
    "torch.serialization._get_layout": _text,
    "collections.OrderedDict": OrderedDict,
    **{
        f"{home}.{kind}Path": _text
        for home in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
    **{f"torch.{name}": name for name in RAW},
}


def _find(name: str) -> Any:
    return _Object if name.startswith("torch.distributed.") else _PLAIN[name]


@dataclass(frozen=True)
class _Piece:
    """A box of a tensor, and the bytes of a shard that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    shard: str
    start: int
    length: int


@dataclass(eq=False)
class _Description:
    """What ``.metadata`` says."""

    specs: dict[str, TensorSpec]
    pieces: dict[str, list[_Piece]]
    small: dict[str, _Piece]  # pickled scalars and lists
    places: dict[str, tuple[Any, ...]]  # the keys that lead to each, where nested
    shards: tuple[str, ...]


def _describe(path: AnyPath) -> _Description:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if len(data) > _LIMIT:
        raise CheckpointError(f"{path}: larger than {_LIMIT >> 20} MiB; no description of tensors")
    held = read_restricted(path, data, _find)
    try:
        return _understand(path, held)
    except CheckpointError:
        raise
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: not the description of a distributed checkpoint ({type(error).__name__}: "
            f"{error}); save or copy the folder again"
        ) from error


def _understand(path: AnyPath, held: Any) -> _Description:
    stored: dict[tuple[str, tuple[int, ...]], tuple[str, int, int]] = {}
    sizes: dict[str, int] = {}
    for index, info in held.storage_data.items():
        shard, start, length = str(info.relative_path), int(info.offset), int(info.length)
        if getattr(info, "transform_descriptors", None):
            raise CheckpointError(
                f"{path}: {index.fqn!r} is compressed or transformed; save the checkpoint without "
                "extensions"
            )
        if shard not in sizes:
            sizes[shard] = _shard_size(path, shard)
        if start < 0 or length < 0 or start + length > sizes[shard]:
            raise CheckpointError(
                f"{path.parent / shard}: truncated, {sizes[shard]} bytes of at least "
                f"{start + length}; copy or save the folder again"
            )
        where = tuple(getattr(index, "offset", None) or ())
        stored[index.fqn, where] = shard, start, length
    specs: dict[str, TensorSpec] = {}
    pieces: dict[str, list[_Piece]] = {}
    small: dict[str, _Piece] = {}
    for name, meta in held.state_dict_metadata.items():
        if not hasattr(meta, "chunks"):
            small[name] = _Piece((), (), *stored[name, ()])
            continue
        spec = TensorSpec(tuple(meta.size), meta.properties.dtype)
        boxes = [
            _Piece(tuple(c.offsets), tuple(c.sizes), *stored[name, tuple(c.offsets)])
            for c in meta.chunks
        ]
        _check(path, name, spec, boxes)
        specs[name], pieces[name] = spec, boxes
    places = dict(getattr(held, "planner_data", None) or {})
    return _Description(specs, pieces, small, places, tuple(sorted(sizes)))


def _shard_size(path: AnyPath, shard: str) -> int:
    # A description may come from anywhere: it must not make us read files outside its folder.
    if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
        raise CheckpointError(
            f"{path}: it names the shard {shard!r}; shards must be plain file names in its folder"
        )
    try:
        return (path.parent / shard).stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{path}: the shard {shard!r} is missing; copy all of the folder {path.parent}"
        ) from error


def _check(path: AnyPath, name: str, spec: TensorSpec, boxes: list[_Piece]) -> None:
    """Refuse pieces that do not make up their tensor, or that are too short for it."""
    itemsize = np.dtype(RAW[spec.dtype]).itemsize
    for box in boxes:
        inside = len(box.offsets) == len(box.sizes) == len(spec.shape) and all(
            at >= 0 and size >= 0 and at + size <= extent
            for at, size, extent in zip(box.offsets, box.sizes, spec.shape, strict=True)
        )
        if not inside or math.prod(box.sizes) * itemsize > box.length:
            raise CheckpointError(
                f"{path}: a piece of {name!r} (at {box.offsets}, of shape {box.sizes}, "
                f"{box.length} bytes) does not fit its shape {spec.shape} ({spec.dtype}); "
                "save the checkpoint again"
            )
    if sum(math.prod(box.sizes) for box in boxes) != math.prod(spec.shape):
        raise CheckpointError(
            f"{path}: the pieces of {name!r} do not make up its shape {spec.shape}; a shard was "
            "not described, save the checkpoint again"
        )


def _read_piece(path: AnyPath, name: str, piece: _Piece) -> Any:
    import torch

    shard = path.parent / piece.shard
    try:
        with io.BufferedReader(Window(shard.open("rb"), piece.start, piece.length)) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers meet in a damaged file
        raise CheckpointError(
            f"{shard}: {name!r} cannot be read; damaged ({type(error).__name__}: "
            f"{str(error).splitlines()[:1]}). Copy or save the folder again."
        ) from error


class _DistributedMap(TensorMap):
    """Tensors put together from their pieces when asked for."""

    def __init__(self, path: AnyPath, description: _Description, names: Mapping[str, str]) -> None:
        self._path, self._description, self._names = path, description, dict(names)

    def spec(self, name: str) -> TensorSpec:
        """Return shape and stored type of `name`."""
        return self._description.specs[self._names[name]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        import torch

        spec = self.spec(name)
        whole: NDArray[Any] | None = None
        for piece in self._description.pieces[self._names[name]]:
            part = _read_piece(self._path, name, piece)
            if not isinstance(part, torch.Tensor) or tuple(part.shape) != piece.sizes:
                raise CheckpointError(
                    f"{self._path.parent / piece.shard}: holds something else than the piece of "
                    f"{name!r} of shape {piece.sizes}; copy or save the folder again"
                )
            half = part.dtype == torch.bfloat16 or "float8" in str(part.dtype)
            array = (part.float() if half else part).detach().numpy()
            if piece.sizes == spec.shape:
                return np.asarray(array, order="C")
            if whole is None:
                whole = np.empty(spec.shape, array.dtype)
            box = zip(piece.offsets, piece.sizes, strict=True)
            whole[tuple(slice(at, at + size) for at, size in box)] = array
        return np.empty(spec.shape, RAW.get(spec.dtype)) if whole is None else whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _network(description: _Description) -> dict[str, str]:
    """Return the network's tensors, name without the wrapping key to name as stored."""
    keys = {
        name: tuple(map(str, description.places.get(name) or (name,))) for name in description.specs
    }
    return choose_network(keys)


def _load(path: AnyPath) -> TensorMap:
    description = _describe(path)
    return _DistributedMap(path, description, _network(description))


class DistributedFormat:
    """Folders written by ``torch.distributed.checkpoint.save``."""

    name = "torch-distributed"
    description = "torch.distributed.checkpoint folders (.metadata and *.distcp): FSDP and others"
    suffixes: tuple[str, ...] = (NAME,)
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file is a pickle called ``.metadata``."""
        return path.name == NAME and head.startswith(b"\x80")

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint that `path` describes; see `Format.open`."""
        description = _describe(path)
        names = _network(description)
        if not names:
            raise NotACheckpointError(f"{path}: the folder holds no network's tensors")
        said = Recorded()
        beside = {
            name: _read_piece(path, name, piece)
            for name, piece in description.small.items()
            if len(description.places.get(name) or (name,)) == 1 and piece.length <= _SMALL
        }
        read_beside(said, beside)
        tensors = _DistributedMap(path, description, names)
        entry = Entry(
            load=partial(_load, path),
            specs=tensors.specs(),
            metadata=said.metadata,
            steps=steps_of(said.metadata),
            parts=tuple(path.parent / shard for shard in description.shards),
        )
        return Contents(entries=[entry], config=said.config, curves=said.curves, split=said.split)


FORMAT = DistributedFormat()
