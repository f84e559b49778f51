"""Checkpoints cut into shards: the JSON index that says which shard holds which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geomdiag.checkpoints.formats.raw import strict_json
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["INDEX_ENDING", "read_index", "shards_of"]

#: How index files end, whatever the format of the shards.
INDEX_ENDING = ".index.json"
#: Bytes of an index: some hundred thousand tensors.
_LIMIT = 25_000_000


def read_index(path: AnyPath) -> tuple[dict[str, str], dict[str, Any]]:
    """Return which shard holds each tensor, and the index's own metadata.

    Parameters
    ----------
    path : Path or RemotePath
        The index, a JSON object with ``weight_map``.

    Returns
    -------
    weight_map : dict of str to str
        Tensor name to shard, a file in the folder of the index that exists.
    metadata : dict

    Raises
    ------
    CheckpointError
        If it is no index, names a file outside its folder, or a shard is missing.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT + 1)
        if len(text) > _LIMIT:
            raise ValueError(f"it is larger than {_LIMIT} bytes")
        index = strict_json(text)
        weight_map = {str(k): str(v) for k, v in index["weight_map"].items()}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not an index of shards ({type(error).__name__}: {error}); expected an "
            'object with "weight_map"'
        ) from error
    if not weight_map:
        raise CheckpointError(f"{path}: the index names no tensors; save the checkpoint again")
    for shard in set(weight_map.values()):
        # An index may come from anywhere: it must not make us read files outside its folder.
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            raise CheckpointError(
                f"{path}: the index names the shard {shard!r}; shards must be plain file names "
                "in the folder of the index"
            )
        try:
            there = (path.parent / shard).is_file()
        except OSError:  # a name longer than the file system's
            there = False
        if not there:
            raise CheckpointError(
                f"{path}: the shard {shard!r} is missing; copy all shards into {path.parent}"
            )
    metadata = index.get("metadata")
    return weight_map, dict(metadata) if isinstance(metadata, Mapping) else {}


def shards_of(path: AnyPath) -> set[str]:
    """Return the names of the shards that the index `path` names; empty if it is damaged."""
    try:
        return set(read_index(path)[0].values())
    except CheckpointError:
        return set()
