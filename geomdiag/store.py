"""Results on disk: a DataTree as a Zarr v3 directory or a netCDF-4 file, replaced in one step.

A result is written beside its destination and then exchanged with what lay there, so that a
kill at any moment leaves the old result or the new one. Nothing that differs between two
writings of the same tree (times, names of machines, order of a directory) reaches the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from geomdiag._replace import plain_errors, recover, replacing
from geomdiag.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FORMATS", "Journal", "check_target", "load", "save"]

Format = Literal["zarr", "netcdf"]

#: Formats of a stored result, with the suffix that the command line gives their files.
FORMATS: Mapping[str, str] = {"zarr": ".zarr", "netcdf": ".nc"}

_CHUNK_BYTES = 8 << 20
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def save(tree: xr.DataTree, path: str | os.PathLike[str], format: Format = "zarr") -> Path:
    """Write a result, replacing an earlier one in a single step.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it: attributes are strings, numbers or lists.
    path : path
        Destination. An existing result there is replaced; anything else is refused.
    format : {"zarr", "netcdf"}
        Zarr v3 directory, or netCDF-4 file (needs ``h5netcdf`` and ``h5py``).

    Returns
    -------
    Path
        The destination.

    Raises
    ------
    StoreError
        If it cannot be written (the earlier result is then still there), or if something that
        is not a result lies at `path`.
    """
    if format not in FORMATS:
        raise StoreError(f"unknown result format {format!r}. Known: {', '.join(FORMATS)}.")
    target = check_target(path)
    with plain_errors(target), replacing(target) as temporary:
        if format == "zarr":
            _write_zarr(tree, temporary)
        else:
            _write_netcdf(tree, temporary)
    return target


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return where a result would be written, making its folder.

    Raises
    ------
    StoreError
        If the folder cannot be made, or if something that is not a result lies there.
    """
    target = Path(path).resolve()
    with plain_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        if target.exists() and not _looks_like_result(target):
            raise StoreError(
                f"{target} exists and is no geomdiag result, so it is not replaced. "
                "Choose another output path, or remove it first."
            )
    return target


def load(path: str | os.PathLike[str]) -> xr.DataTree:
    """Read a result into memory.

    Parameters
    ----------
    path : path
        A Zarr directory or netCDF file that `save` wrote.

    Returns
    -------
    xr.DataTree
        Equal to the tree that was saved.

    Raises
    ------
    StoreError
        If there is no result at `path` or it cannot be read.
    """
    import xarray as xr

    target = Path(path).resolve()
    with suppress(OSError):  # a read-only folder: then there is nothing to repair either
        recover(target)
    if not target.exists():
        raise StoreError(f"there is no result at {target}. Make one with `geomdiag analyze`.")
    if not _looks_like_result(target):
        raise StoreError(
            f"{target} is no geomdiag result: expected a Zarr v3 directory or a netCDF-4 file, "
            "as `geomdiag analyze` writes them."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr-python's notes on the state of its own format
            if target.is_dir():
                opened = xr.open_datatree(target, engine="zarr", chunks=None)
            else:
                _need_h5netcdf()
                opened = xr.open_datatree(target, engine="h5netcdf")
            with opened:
                nodes = {node.path: _tidy(node.to_dataset().load()) for node in opened.subtree}
    except StoreError:
        raise
    except Exception as error:  # a damaged store can fail in as many ways as it has readers
        raise StoreError(
            f"{target} cannot be read as a result ({type(error).__name__}: {error}). "
            "Make it again with `geomdiag analyze --force`."
        ) from error
    return xr.DataTree.from_dict(nodes)


class Journal:
    """Finished steps of an analysis under way, so that a killed one takes up where it was.

    Each entry is one file that carries its own checksum; a torn or foreign one reads as absent.

    Parameters
    ----------
    folder : path
        Made when the first entry is put. `beside` gives the usual one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    @classmethod
    def beside(cls, path: str | os.PathLike[str]) -> Self:
        """Return the journal that belongs to the result at `path`: ``.NAME.partial/``."""
        target = Path(path).resolve()
        return cls(target.with_name(f".{target.name}.partial"))

    def open(self) -> None:
        """Make the folder.

        Raises
        ------
        StoreError
            If the place cannot be written: better known before the work than after it.
        """
        with plain_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f"probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()

    def keys(self) -> set[str]:
        """Return the keys of the entries that are there."""
        if not self.folder.is_dir():
            return set()
        return {entry.stem for entry in self.folder.glob("*.step")}

    def put(self, key: str, header: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep an entry: a JSON-able header and arrays of numbers, truth values or text.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        if odd := [name for name, array in arrays.items() if array.dtype.kind not in "biufcU"]:
            raise TypeError(f"{', '.join(odd)}: only numbers, truth values and text can be kept")
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        table = [[name, a.dtype.str, list(a.shape)] for name, a in contiguous.items()]
        head = json.dumps({"header": header, "arrays": table}).encode()
        body = b"".join(
            [len(head).to_bytes(8, "little"), head, *(a.tobytes() for a in contiguous.values())]
        )
        with plain_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f"{key}.{os.getpid()}.tmp"
            temporary.write_bytes(hashlib.sha256(body).digest() + body)
            temporary.replace(self.folder / f"{key}.step")

    def get(self, key: str) -> tuple[Any, dict[str, NDArray[Any]]] | None:
        """Return the header and arrays put under `key`, or None."""
        try:
            data = (self.folder / f"{key}.step").read_bytes()
        except OSError:
            return None
        if len(data) < 40 or hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        start = 40 + int.from_bytes(data[32:40], "little")
        content = json.loads(data[40:start])
        arrays: dict[str, NDArray[Any]] = {}
        for name, dtype, shape in content["arrays"]:
            count = int(np.prod(shape, dtype=np.int64))
            kind = np.dtype(dtype)
            array = np.frombuffer(data, kind, count, start) if kind.itemsize and count else ()
            arrays[name] = np.array(array, dtype=kind).reshape(shape)
            start += kind.itemsize * count
        return content["header"], arrays

    def remove(self, key: str) -> None:
        """Remove the entry put under `key`, if there is one.

        Raises
        ------
        StoreError
            If it cannot be removed.
        """
        with plain_errors(self.folder):
            (self.folder / f"{key}.step").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the journal."""
        shutil.rmtree(self.folder, ignore_errors=True)


# --- writing -----------------------------------------------------------------------------------


def _write_zarr(tree: xr.DataTree, path: Path) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    prepared = _prepare(tree)
    compressors = (ZstdCodec(level=3, checksum=False),)
    encoding = {
        node.path: {
            str(name): {
                "chunks": _chunks(variable.shape, variable.dtype),
                "compressors": compressors,
                "_FillValue": None,
            }
            for name, variable in node.to_dataset(inherit=False).variables.items()
        }
        for node in prepared.subtree
    }
    with warnings.catch_warnings():
        # Zarr-python warns that text and consolidated metadata may yet change in its
        # specification; there is nothing a user could do about it.
        warnings.simplefilter("ignore")
        # Consolidated once, at the end: xarray does it after each node, each time for the whole
        # store, which takes the square of the number of runs.
        prepared.to_zarr(path, mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
        zarr.consolidate_metadata(path, zarr_format=3)
    _sort_consolidated(path / "zarr.json")


def _sort_consolidated(path: Path) -> None:
    """Order the list of members by name: it comes in the order of the directory's hash."""
    root = json.loads(path.read_text(encoding="utf-8"))
    members = root.get("consolidated_metadata", {}).get("metadata", {})
    if members:
        root["consolidated_metadata"]["metadata"] = dict(sorted(members.items()))
    path.write_text(json.dumps(root, indent=1), encoding="utf-8")


def _write_netcdf(tree: xr.DataTree, path: Path) -> None:
    _need_h5netcdf()
    prepared = _prepare(tree)
    # Made in memory: where the disk is full HDF5 does not raise alone, it brings the process
    # down, with the training that is watched in it. A copy, as the view that xarray gives keeps
    # its buffer open, and a failure to write would keep the view.
    image = bytes(prepared.to_netcdf(None, engine="h5netcdf", format="NETCDF4"))
    path.write_bytes(image)


def _need_h5netcdf() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("h5netcdf", "h5py") if find_spec(name) is None]
    if missing:
        raise StoreError(
            f"netCDF needs {' and '.join(missing)}, not installed here. "
            "Install geomdiag[netcdf], or use the Zarr format."
        )


def _prepare(tree: xr.DataTree) -> xr.DataTree:
    """Return the tree with sorted attributes and text in the one type every store takes."""
    import xarray as xr

    nodes: dict[str, xr.Dataset] = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        variables = {
            name: xr.Variable(
                variable.dims,
                variable.values.astype(object) if variable.dtype.kind in "UT" else variable.values,
                _sorted_attrs(variable.attrs),
            )
            for name, variable in dataset.variables.items()
        }
        nodes[node.path] = xr.Dataset(
            {name: v for name, v in variables.items() if name not in dataset.coords},
            {name: v for name, v in variables.items() if name in dataset.coords},
            _sorted_attrs(dataset.attrs),
        )
    return xr.DataTree.from_dict(nodes)


def _sorted_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain(attrs[name]) for name in sorted(attrs, key=str)}


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def _chunks(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return chunks of whole rows, as many as fit in some 8 MB."""
    if not shape:
        return ()
    row = int(np.prod(shape[1:], dtype=np.int64)) * max(dtype.itemsize, 1)
    rows = min(max(_CHUNK_BYTES // max(row, 1), 1), max(shape[0], 1))
    return (rows, *(max(extent, 1) for extent in shape[1:]))


def _tidy(dataset: xr.Dataset) -> xr.Dataset:
    """Undo what stores do to text and numbers, so that loading is the inverse of saving."""
    import xarray as xr

    def variable(given: xr.Variable) -> xr.Variable:
        values = given.values
        if values.dtype.kind in "OT":
            values = np.array(values.tolist(), dtype=str).reshape(values.shape)
        return xr.Variable(given.dims, values, _sorted_attrs(given.attrs))

    return xr.Dataset(
        {name: variable(dataset.variables[name]) for name in dataset.data_vars},
        {name: variable(dataset.variables[name]) for name in dataset.coords},
        _sorted_attrs(dataset.attrs),
    )


def _looks_like_result(path: Path) -> bool:
    if path.is_dir():
        return (path / "zarr.json").is_file() or not any(path.iterdir())
    with path.open("rb") as file:
        start = file.read(len(_HDF5_MAGIC))
    return start == _HDF5_MAGIC
