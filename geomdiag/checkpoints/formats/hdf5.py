"""HDF5 files: datasets by name, whoever wrote them; Keras ``.h5`` files are such files too.

Needs h5py (https://docs.h5py.org).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.archives import Archive
from geomdiag.checkpoints.formats.contract import (
    Contents,
    Entry,
    NotACheckpointError,
    missing_extra,
    read_head,
    refusal,
)
from geomdiag.checkpoints.formats.dumps import is_scalar_name, kind_of, plain_value
from geomdiag.checkpoints.formats.hdf5_heaps import Guarded
from geomdiag.checkpoints.formats.keras_description import described
from geomdiag.checkpoints.formats.raw import widen
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.places.paths import AnyPath, Window
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "HDF5Format", "open_hdf5"]

MAGIC = b"\x89HDF\r\n\x1a\n"
#: Groups of Keras files that hold the optimiser's state.
_OPTIMISERS = ("optimizer/", "optimizer_weights/")
#: Group of older Keras files that holds the weights.
_WEIGHTS = "model_weights/"
#: Attributes of Keras files that describe its classes: no scalars.
_DESCRIPTIONS = ("model_config", "training_config")
#: A dataset may unfold to this many bytes whatever is stored,
_FREE = 64 << 20
#: and beyond that to this many times what is stored.
_RATIO = 100
#: Bytes read at a time of a file inside an archive.
_BUFFER = 16 << 10


@contextmanager
def _opened(path: AnyPath, member: str) -> Iterator[Any]:
    """Yield the open h5py.File; what h5py raises becomes a `CheckpointError`."""
    try:
        import h5py
    except ImportError as error:
        raise missing_extra(path, "h5py", "hdf5") from error
    guarded: Guarded | None = None
    try:
        if member:
            place = Archive(path).place(member)
            inside = Window(path.open("rb", buffering=0), *place)
            guarded = Guarded(path, io.BufferedReader(inside, _BUFFER))
        else:
            guarded = Guarded(path, path.open("rb", buffering=_BUFFER))
        with h5py.File(guarded, "r") as file:
            yield file
    except CheckpointError:
        raise
    except Exception as error:  # h5py passes on whatever the C library meets in a damaged file
        raise CheckpointError(
            f"{path}: cannot be read as HDF5; truncated or damaged ({type(error).__name__}: "
            f"{error}). Save or copy it again."
        ) from error
    finally:
        if guarded is not None:
            guarded.close()


def _stored_type(dataset: Any) -> str:
    """Return the type's name; Keras stores bfloat16 as two opaque bytes with a note."""
    if dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2:
        noted = dataset.attrs.get("dtype")
        return "bfloat16" if noted in ("bfloat16", b"bfloat16") else ""
    if dataset.dtype.kind not in "biufc":
        return ""
    return str(dataset.dtype.newbyteorder("="))


def _check(path: AnyPath, name: str, dataset: Any) -> None:
    """Refuse datasets that lead out of the file or unfold to far more than is stored."""
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(
            f"{path}: the dataset {name!r} keeps its values in another file, which is not "
            "followed; store them in this one (h5repack or a copy of the arrays)"
        )
    stored = dataset.id.get_storage_size()
    # A chunk is unfolded as a whole, and may be larger than what is taken of it.
    numbers = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
    nbytes = numbers * dataset.dtype.itemsize
    if nbytes > max(_FREE, _RATIO * stored):
        raise CheckpointError(
            f"{path}: the dataset {name!r} of shape {dataset.shape} would unfold from {stored} to "
            f"{nbytes} bytes; refused. Save it without compression if it is meant."
        )


class _Found:
    """What the datasets of a file are: tensor name to dataset name, and scalars."""

    def __init__(self, path: AnyPath, file: Any) -> None:
        self.path = path
        self.datasets: dict[str, str] = {}
        self.specs: dict[str, TensorSpec] = {}
        self.metadata: dict[str, Any] = {}
        for name, value in file.attrs.items():
            if not isinstance(name, str):  # h5py leaves a name that is no UTF-8 as bytes
                continue
            if name not in _DESCRIPTIONS and isinstance(value, str | bytes | np.generic):
                text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                self.metadata[name] = plain_value(
                    text.item() if isinstance(text, np.generic) else text
                )
        file.visititems(self._visit)

    def _visit(self, place: str, item: Any) -> None:
        shape = getattr(item, "shape", None)
        if shape is None:  # a group, or a dataset without values
            return
        if place.startswith(_OPTIMISERS):
            self._iteration(place, item)
            return
        name = place.removeprefix(_WEIGHTS).replace("/", ".")
        dtype = _stored_type(item)
        _check(self.path, place, item)
        if not shape and (is_scalar_name(name) or not dtype):
            value = item[()]
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            self.metadata[name] = plain_value(value.item() if hasattr(value, "item") else value)
        elif dtype:
            if name in self.datasets:
                raise CheckpointError(
                    f"{self.path}: {self.datasets[name]!r} and {place!r} are both called {name!r} "
                    "with dots for slashes; rename one"
                )
            self.datasets[name] = place
            self.specs[name] = TensorSpec(tuple(shape), dtype)

    def _iteration(self, place: str, item: Any) -> None:
        """Take the optimiser's count of updates, which Keras stores first."""
        first = place == "optimizer/vars/0" or place.endswith("/iteration")
        if first and item.shape == () and item.dtype.kind in "iu":
            self.metadata.setdefault("step", int(item[()]))


class HDF5Map(TensorMap):
    """Datasets, each read when it is asked for."""

    def __init__(self, path: AnyPath, member: str, found: _Found) -> None:
        self._path, self._member, self._found = path, member, found

    def spec(self, name: str) -> TensorSpec:
        """Return shape and stored type of `name`."""
        return self._found.specs[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._read(name, ())

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        wanted, back = np.unique(indices, return_inverse=True)  # h5py takes them increasing
        return self._read(name, wanted)[back]

    def _read(self, name: str, selection: Any) -> NDArray[Any]:
        place = self._found.datasets[name]
        with _opened(self._path, self._member) as file:
            if place not in file:
                raise CheckpointError(f"{self._path}: changed since it was opened; open it again")
            value: NDArray[Any] = np.asarray(file[place][selection])
        if self._found.specs[name].dtype == "bfloat16":
            flat = np.frombuffer(value.tobytes(), "<u2")
            return widen(flat, "bfloat16").reshape(value.shape)
        return value.astype(value.dtype.newbyteorder("="), copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found.datasets)

    def __len__(self) -> int:
        return len(self._found.datasets)


def _load(path: AnyPath, member: str) -> TensorMap:
    with _opened(path, member) as file:
        return HDF5Map(path, member, _Found(path, file))


def open_hdf5(path: AnyPath, member: str = "") -> Contents:
    """Return the one checkpoint in an HDF5 file, or in one that is a member of an archive.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    member : str
        The member of the zip archive `path`, stored uncompressed; empty if `path` is HDF5.

    Raises
    ------
    CheckpointError
        If it is damaged, leads into other files, or h5py is not installed.
    NotACheckpointError
        If it holds no arrays, or is netCDF.
    """
    with _opened(path, member) as file:
        if "_NCProperties" in file.attrs:
            raise NotACheckpointError(f"{path}: a netCDF file of results, not a checkpoint")
        found = _Found(path, file)
        description = file.attrs.get("model_config", "")
    if not found.specs:
        raise NotACheckpointError(f"{path}: the file holds no numeric arrays")
    metadata = found.metadata
    config = metadata.pop("config", {})
    if isinstance(description, str | bytes) and (model := described(description)):
        config = {**config, **model} if isinstance(config, Mapping) else model
    entry = Entry(
        load=partial(_load, path, member),
        specs=found.specs,
        metadata=metadata,
        steps=steps_of(metadata),
        kind=kind_of(found.specs, metadata),
    )
    return Contents(entries=[entry], config=config if isinstance(config, Mapping) else {})


class HDF5Format:
    """HDF5 files, those of Keras included."""

    name = "hdf5"
    description = "HDF5 datasets by name; Keras .weights.h5 and .h5; step and losses as attributes"
    suffixes: tuple[str, ...] = (".h5", ".hdf5")
    extra = "hdf5"
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:  # noqa: ARG002
        """Return whether the file begins as HDF5 does."""
        return head.startswith(MAGIC)

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint in `path`; see `Format.open`."""
        head = read_head(path)
        if not head.startswith(MAGIC):
            raise refusal(path, head, "an HDF5 file")
        return open_hdf5(path)


FORMAT = HDF5Format()
