"""Exported programs (``torch.export.save``, ``.pt2``): weights in place, run on request.

Layout: a zip with ``data/weights/model_weights_config.json`` and a member of raw bytes for each
weight (torch 2.9 and later).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.formats.archives import Archive, first_member
from geomdiag.checkpoints.formats.contract import Contents, Entry, NotACheckpointError
from geomdiag.checkpoints.formats.dumps import plain_value
from geomdiag.checkpoints.formats.program import Program, refuse_to_run
from geomdiag.checkpoints.formats.raw import DAMAGED, RAW, Place, RawMap, check_span, strict_json
from geomdiag.checkpoints.formats.recorded import steps_of
from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "TorchExportFormat"]

#: Numbers of torch's types in the archive (torch/_export/serde/schema.py, ScalarType).
_TYPES: Mapping[int, str] = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    34: "uint32",
    35: "uint64",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
}
#: Bytes of an extra file that is looked at.
_SHORT = 1 << 16
_CONFIG = "data/weights/model_weights_config.json"


def _read(path: AnyPath) -> dict[str, Place]:
    archive = Archive(path)
    config = archive.suffixed(_CONFIG)
    if config is None:
        raise CheckpointError(
            f"{path}: not an exported program as torch 2.9 and later write it, which has "
            f"{_CONFIG}. Load it with the torch that wrote it and save its state_dict."
        )
    root = config.removesuffix(_CONFIG)
    order = f"{root}byteorder"
    big = order in archive.members and archive.read(order) == b"big"
    places: dict[str, Place] = {}
    try:
        described = strict_json(archive.read(config))["config"]
        for name, item in described.items():
            places[name] = _place(archive, f"{root}data/weights/", name, item, big)
    except CheckpointError:
        raise
    except DAMAGED as error:
        raise CheckpointError(
            f"{path}: the description of the weights is damaged ({type(error).__name__}: "
            f"{error}); save the program again"
        ) from error
    return places


def _place(archive: Archive, root: str, name: str, item: Mapping[str, Any], big: bool) -> Place:
    meta = item["tensor_meta"]
    if item["use_pickle"] or meta["dtype"] not in _TYPES:
        raise CheckpointError(
            f"{archive.path}: the tensor {name!r} has no plain bytes (torch's type number "
            f"{meta['dtype']}); convert it to float32 before exporting"
        )
    dtype = _TYPES[meta["dtype"]]
    shape = tuple(int(size["as_int"]) for size in meta["sizes"])
    strides = tuple(int(stride["as_int"]) for stride in meta["strides"])
    start, size = archive.place(f"{root}{item['path_name']}")
    skip = int(meta["storage_offset"]["as_int"]) * np.dtype(RAW[dtype]).itemsize
    place = Place(archive.path, start + skip, TensorSpec(shape, dtype), strides, big)
    check_span(archive.path, name, place, size - skip if skip >= 0 else -1)
    return place


def _extras(path: AnyPath) -> dict[str, Any]:
    """Return the short texts saved as ``extra_files``, numbers among them as numbers."""
    archive = Archive(path)
    found: dict[str, Any] = {}
    for name, info in archive.members.items():
        _, inside, key = name.partition("/extra/")
        if inside and info.file_size < _SHORT:
            found[key] = plain_value(archive.read(name).decode("utf-8", "replace"))
    return found


def _load(path: AnyPath) -> TensorMap:
    return RawMap(_read(path))


def _program(path: AnyPath, allowed: bool) -> Program:
    if not allowed:
        refuse_to_run(path, "loading an exported program evaluates expressions and pickles in it")
    import torch

    file = local_copy(path)
    try:
        with warnings.catch_warnings():
            # torch 2.9 warns that the bytes which it itself has read cannot be written to.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            exported = torch.export.load(file)
        module = exported.module()
    except Exception as error:  # torch raises whatever its loader meets
        raise CheckpointError(
            f"{path}: torch cannot load this program ({type(error).__name__}: "
            f"{str(error).splitlines()[:1]}); export it again with this version of torch"
        ) from error
    names = exported.graph_signature.user_inputs
    shapes = [
        tuple(node.meta["val"].shape)
        for node in exported.graph.nodes
        if node.name in names and hasattr(node.meta.get("val"), "shape")
    ]
    extents = [extent if isinstance(extent, int) else None for extent in (*shapes[0], "")]

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        output: NDArray[Any] = module(torch.from_numpy(inputs)).detach().float().numpy()
        return output

    return Program(run, batch=extents[0], width=extents[1])


class TorchExportFormat:
    """Files written by ``torch.export.save``."""

    name = "torch-export"
    description = "torch.export programs: weights by name; runs by itself with --allow-pickle"
    suffixes: tuple[str, ...] = (".pt2",)
    extra = ""
    lazy = True
    safe = True
    remote = True
    runs = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:  # noqa: ARG002
        """Return whether the file is a zip that begins with an exported program's weights."""
        return b"/data/weights/" in first_member(head)

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:
        """Return the one checkpoint in `path`; see `Format.open`."""
        places = _read(path)
        if not places:
            raise NotACheckpointError(f"{path}: the program has no tensors")
        metadata = _extras(path)
        entry = Entry(
            load=partial(_load, path),
            specs={name: place.spec for name, place in places.items()},
            metadata=metadata,
            steps=steps_of(metadata),
            program=partial(_program, path, allow_pickle),
        )
        return Contents(entries=[entry])


FORMAT = TorchExportFormat()
