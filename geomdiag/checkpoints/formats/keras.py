"""Keras archives (``.keras``): a zip whose member ``model.weights.h5`` is read in place."""

from __future__ import annotations

from geomdiag.checkpoints.formats.archives import Archive, first_member
from geomdiag.checkpoints.formats.contract import Contents
from geomdiag.checkpoints.formats.hdf5 import open_hdf5
from geomdiag.checkpoints.formats.keras_description import MOST_BYTES, described
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["FORMAT", "KerasFormat"]

_WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"


class KerasFormat:
    """Files written by ``model.save("....keras")``."""

    name = "keras"
    description = "Keras archives: weights by name, the optimiser's count of updates as the step"
    suffixes: tuple[str, ...] = (".keras",)
    extra = "hdf5"
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:  # noqa: ARG002
        """Return whether the file is a zip that begins as Keras' do."""
        return first_member(head) in (b"metadata.json", b"config.json", _WEIGHTS.encode())

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:  # noqa: ARG002
        """Return the one checkpoint in `path`; see `Format.open`."""
        archive = Archive(path)
        if _WEIGHTS not in archive.members:
            raise CheckpointError(
                f"{path}: the archive has no {_WEIGHTS}; a Keras model stored in another way. Save "
                'it again with model.save("....keras") or model.save_weights("....weights.h5").'
            )
        contents = open_hdf5(path, _WEIGHTS)
        if _CONFIG in archive.members:
            contents.config = described(archive.read(_CONFIG, MOST_BYTES)) or contents.config
        return contents


FORMAT = KerasFormat()
