"""Orbax checkpoints: folders described by ``_METADATA``, arrays read with tensorstore.

``_METADATA`` names the arrays and how they are kept (zarr 2 or 3, in OCDBT or as folders);
``<run>/<step>/<item>/_METADATA`` is where Orbax' CheckpointManager puts it. Layout:
https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.contract import (
    Contents,
    Entry,
    NotACheckpointError,
    missing_extra,
)
from geomdiag.checkpoints.formats.dumps import is_scalar_name
from geomdiag.checkpoints.formats.layout import choose_network
from geomdiag.checkpoints.formats.raw import DAMAGED, RAW, strict_json
from geomdiag.checkpoints.formats.recorded import Recorded, read_beside, steps_of
from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.checkpoints.steps import read_stem
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "OrbaxFormat", "folder_of"]

NAME = "_METADATA"
#: Lies in every folder that Orbax finished.
_SAVED = "_CHECKPOINT_METADATA"
_LIMIT = 64 << 20
#: An array may unfold to this many bytes whatever the folder holds,
_FREE = 64 << 20
#: and beyond that to this many times the folder's bytes.
_RATIO = 100


def folder_of(path: AnyPath) -> AnyPath:
    """Return the checkpoint's own folder, above that of its item.

    Parameters
    ----------
    path : Path or RemotePath
        A ``_METADATA`` file: in the checkpoint's folder, or in the folder of one of its items.
    """
    return path.parent.parent if (path.parent.parent / _SAVED).is_file() else path.parent


def _describe(path: AnyPath) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Return the keys that lead to each array, by the array's own name, and the description."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT + 1)
        if len(text) > _LIMIT:
            raise ValueError(f"it is larger than {_LIMIT >> 20} MiB")
        held = strict_json(text)
        keys: dict[str, tuple[str, ...]] = {}
        for item in held["tree_metadata"].values():
            kind = item["value_metadata"]["value_type"]
            if kind in ("jax.Array", "np.ndarray", "scalar"):
                leading = tuple(str(each["key"]) for each in item["key_metadata"])
                keys[".".join(leading)] = leading
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except DAMAGED as error:
        raise CheckpointError(
            f"{path}: not the description of an Orbax checkpoint, truncated or damaged "
            f"({type(error).__name__}: {error}); save or copy the folder again"
        ) from error
    return keys, held


def _home(path: AnyPath) -> Path:
    """Return the folder that tensorstore reads."""
    if isinstance(path, Path):
        return path.parent
    return local_copy(path, _files(path)).parent


def _open_array(path: AnyPath, home: Path, held: Mapping[str, Any], name: str) -> Any:
    """Return tensorstore's handle of one array."""
    try:
        import tensorstore
    except ImportError as error:
        raise missing_extra(path, "tensorstore", "orbax") from error
    if "/" in name or name.startswith("."):
        raise CheckpointError(f"{path}: it names the array {name!r}, which leads out of the folder")
    base: dict[str, Any] = {"driver": "file", "path": f"{home}/"}
    if held.get("use_ocdbt"):
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    else:
        store = {**base, "path": f"{home}/{name}/"}
    spec = {
        "driver": "zarr3" if held.get("use_zarr3") else "zarr",
        "kvstore": store,
        # Where Orbax says that it stored zeros too, a missing chunk is lost, not zero.
        "fill_missing_data_reads": not held.get("store_array_data_equal_to_fill_value"),
    }
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except Exception as error:  # tensorstore maps its statuses to several classes
        raise CheckpointError(
            f"{path.parent}: the array {name!r} cannot be opened; truncated or damaged "
            f"({str(error).split('[')[0][:200]}). Copy or save the folder again."
        ) from error


class _OrbaxMap(TensorMap):
    """Arrays read one by one."""

    def __init__(
        self, path: AnyPath, held: Mapping[str, Any], names: Mapping[str, str], size: int
    ) -> None:
        self._path, self._home, self._held, self._names = path, _home(path), held, dict(names)
        self._specs: dict[str, TensorSpec] = {}
        for name, stored in self._names.items():
            array = _open_array(path, self._home, held, stored)
            spec = TensorSpec(tuple(array.shape), array.dtype.name)
            if spec.dtype not in RAW:
                raise CheckpointError(
                    f"{path}: the array {name!r} has the type {spec.dtype}; known are "
                    f"{', '.join(RAW)}"
                )
            # A chunk is unfolded as a whole, and may be larger than what is taken of it.
            chunk = array.chunk_layout.read_chunk.shape or ()
            numbers = max(math.prod(spec.shape), math.prod(chunk))
            nbytes = numbers * np.dtype(RAW[spec.dtype]).itemsize
            if nbytes > max(_FREE, _RATIO * size):
                raise CheckpointError(
                    f"{path}: the array {name!r} of shape {spec.shape} would unfold to {nbytes} "
                    f"bytes from the folder's {size}; refused. Save it again if it is meant."
                )
            self._specs[name] = spec

    def spec(self, name: str) -> TensorSpec:
        """Return shape and stored type of `name`."""
        return self._specs[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._read(name, ...)

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        return self._read(name, indices)

    def _read(self, name: str, selection: Any) -> NDArray[Any]:
        stored = self._names[name]
        array = _open_array(self._path, self._home, self._held, stored)
        try:
            value: NDArray[Any] = array[selection].read().result()
        except Exception as error:  # as above
            raise CheckpointError(
                f"{self._path.parent}: the array {name!r} cannot be read; truncated or damaged "
                f"({str(error).split('[')[0][:200]}). Copy or save the folder again."
            ) from error
        dtype = self._specs[name].dtype
        wide = dtype == "bfloat16" or "float8" in dtype
        return value.astype(np.float32) if wide else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _files(path: AnyPath) -> tuple[AnyPath, ...]:
    found = (each for each in path.parent.rglob("*") if each != path and each.is_file())
    return tuple(sorted(found))


def _load(path: AnyPath, names: tuple[str, ...]) -> TensorMap:
    keys, held = _describe(path)
    chosen = {name: stored for name, stored in choose_network(keys).items() if name in names}
    return _OrbaxMap(path, held, chosen, _size(_files(path)))


def _size(files: Iterable[AnyPath]) -> int:
    return sum(each.stat().st_size for each in files)


class OrbaxFormat:
    """Folders written by Orbax: one checkpoint, or the steps of a CheckpointManager."""

    name = "orbax"
    description = "Orbax folders: params or a whole TrainState, names joined by dots"
    suffixes: tuple[str, ...] = (NAME,)
    extra = "orbax"
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file is a JSON object called ``_METADATA``."""
        return path.name == NAME and head.lstrip().startswith(b"{")

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint that `path` describes; see `Format.open`."""
        keys, held = _describe(path)
        parts = _files(path)
        size = _size(parts)
        names = choose_network(keys)
        tensors = _OrbaxMap(path, held, names, size)
        said = [name for name, at in keys.items() if len(at) == 1 and is_scalar_name(name)]
        scalars = _OrbaxMap(path, held, {name: name for name in said}, size)
        beside = {name: scalars[name] for name in said if not scalars.spec(name).shape}
        specs = {name: spec for name, spec in tensors.specs().items() if names[name] not in beside}
        if not specs:
            raise NotACheckpointError(f"{path.parent}: the folder holds no arrays of a network")
        recorded = Recorded()
        read_beside(recorded, beside)
        steps = steps_of(recorded.metadata)
        named = read_stem(folder_of(path).name)
        if not steps and named.step is not None:
            steps = {named.unit or "step": named.step}
        entry = Entry(
            load=partial(_load, path, tuple(specs)),
            specs=specs,
            metadata=recorded.metadata,
            steps=steps,
            parts=parts,
        )
        return Contents(entries=[entry], config=recorded.config)


FORMAT = OrbaxFormat()
