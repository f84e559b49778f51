"""Equinox files (``eqx.tree_serialise_leaves``): arrays one after the other, without names.

Each leaf is a ``.npy`` block; a line of JSON with the model's settings may come first, as
Equinox' documentation advises (https://docs.kidger.site/equinox/examples/serialisation/).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from geomdiag.checkpoints.formats.contract import Contents, Entry, NotACheckpointError
from geomdiag.checkpoints.formats.numpy import DAMAGE, MAGIC, place_of_array, read_header
from geomdiag.checkpoints.formats.raw import Place, RawMap, strict_json
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "EquinoxFormat"]

#: Bytes of the line of settings.
_LINE = 1 << 20


def _read(path: AnyPath) -> tuple[dict[str, Place], dict[str, Any]]:
    """Return where each leaf lies, and the settings in the first line."""
    places: dict[str, Place] = {}
    settings: dict[str, Any] = {}
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(1) == b"{":
                file.seek(0)
                found = strict_json(file.readline(_LINE))
                settings = found if isinstance(found, dict) else {}
            else:
                file.seek(0)
            while (at := file.tell()) < size:
                spec, dtype, by_columns = read_header(file)
                start = file.tell()
                end = start + math.prod(spec.shape) * dtype.itemsize
                if end > size:
                    raise CheckpointError(
                        f"{path}: truncated, {size} bytes of at least {end}; copy or save the file "
                        "again"
                    )
                if dtype.str == "|V2":  # what NumPy makes of JAX' bfloat16
                    spec = TensorSpec(spec.shape, "bfloat16")
                place = place_of_array(path, start, spec, dtype, by_columns)
                if place is None or end == at:
                    raise ValueError(f"a leaf of the type {dtype}")
                places[f"leaves.{len(places)}"] = place
                file.seek(end)
    except CheckpointError:
        raise
    except (*DAMAGE, RecursionError) as error:
        raise CheckpointError(
            f"{path}: no Equinox file, truncated or damaged ({type(error).__name__}: {error}); "
            "save or copy it again"
        ) from error
    return places, settings


def _load(path: AnyPath) -> TensorMap:
    return RawMap(_read(path)[0])


class EquinoxFormat:
    """Files written by ``eqx.tree_serialise_leaves``."""

    name = "equinox"
    description = "Equinox leaves, named leaves.0, leaves.1, ... in the order of the model's tree"
    suffixes: tuple[str, ...] = (".eqx",)
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file is called ``.eqx`` and begins with an array or with JSON."""
        # One .npy file looks the same: here the name decides.
        return path.suffix.lower() == ".eqx" and head.startswith((MAGIC, b"{"))

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint in `path`; see `Format.open`."""
        places, settings = _read(path)
        if not any(place.spec.shape for place in places.values()):
            raise NotACheckpointError(f"{path}: the file holds no arrays")
        entry = Entry(
            load=partial(_load, path), specs={name: place.spec for name, place in places.items()}
        )
        return Contents(entries=[entry], config=settings)


FORMAT = EquinoxFormat()
