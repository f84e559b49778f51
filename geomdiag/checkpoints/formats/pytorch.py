"""PyTorch files: zip archives of ``torch.save`` and the older pickles, mapped into memory."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from geomdiag.checkpoints.formats.archives import Archive
from geomdiag.checkpoints.formats.contract import (
    Contents,
    Entry,
    NotACheckpointError,
    read_head,
    refusal,
)
from geomdiag.checkpoints.formats.inert import CalledError, read_inert
from geomdiag.checkpoints.formats.layout import Layout, interpret
from geomdiag.checkpoints.formats.legacy import read_mapped
from geomdiag.checkpoints.formats.pickles import globals_of, read_plain
from geomdiag.checkpoints.formats.sharding import read_index
from geomdiag.checkpoints.formats.torchscript import FORMAT as torchscript
from geomdiag.checkpoints.formats.torchscript import is_torchscript
from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["FORMAT", "PyTorchFormat"]

_ZIP = b"PK\x03\x04"
#: Ending of the JSON file that says in which shard each tensor lies.
INDEX = ".bin.index.json"
#: How the older, unzipped files begin: a pickled magic number.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class TorchMap(TensorMap):
    """Tensors of one state; values stay in the mapped file until asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], path: AnyPath) -> None:
        self._tensors = dict(tensors)
        self._path = path

    def spec(self, name: str) -> TensorSpec:
        """Return shape and stored type of `name`."""
        tensor = self._tensors[name]
        return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._array(name, None)

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        return self._array(name, indices)

    def _array(self, name: str, rows: NDArray[np.int64] | None) -> NDArray[Any]:
        import torch

        tensor = self._tensors[name].detach()
        plain = tensor.layout == torch.strided and not tensor.is_quantized
        try:
            if rows is not None and plain:  # of a mapped file, only these are touched
                kind = tensor.dtype
                if any(one in str(kind) for one in ("uint", "float8")):
                    # torch before 2.10 indexes none of these: integers of their size it does.
                    tensor = tensor.view(getattr(torch, f"int{8 * kind.itemsize}"))
                tensor, rows = tensor[torch.from_numpy(rows)].view(kind), None
            if tensor.is_quantized:
                tensor = tensor.dequantize()
            if tensor.layout != torch.strided:
                tensor = tensor.to_dense()
            if tensor.dtype == torch.bfloat16 or "float8" in str(tensor.dtype):
                tensor = tensor.float()
            # A copy: a run that rewrites its file must not change arrays already handed out.
            array: NDArray[Any] = tensor.resolve_conj().resolve_neg().cpu().numpy().copy(order="C")
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise CheckpointError(
                f"{self._path}: the tensor {name!r} ({self.spec(name)}) cannot be turned into an "
                f"array: {error}"
            ) from error
        return array if rows is None else array[rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _read(path: AnyPath, allow_pickle: bool) -> Any:
    """Unpickle `path` without running anything of it, its storages mapped rather than read.

    What torch's own reader of weights refuses (losses as NumPy numbers, whole modules, settings
    as objects) is read with inert stand-ins; what these refuse is read if that is allowed.
    """
    head = read_head(path)
    zipped = head.startswith(_ZIP)
    if not zipped and not head.startswith(b"\x80"):
        raise refusal(path, head, "a torch.save file (zip archive or pickle)")
    if not zipped and _LEGACY not in head[:32]:
        return read_plain(path, allow_pickle)
    file = local_copy(path)
    if not zipped:
        with suppress(Exception):  # what it cannot read torch reads whole, or says why not
            return read_mapped(file)
    try:
        return _torch_load(file, zipped, weights_only=True)
    except Exception as error:  # torch raises whatever its readers meet in a damaged file
        failure = error
    unsafe = _offending_global(path, zipped, str(failure))
    if not unsafe:
        raise CheckpointError(
            f"{path}: cannot be read by torch; truncated or damaged ({type(failure).__name__}: "
            f"{_first_line(failure)}). Copy or save it again."
        ) from failure
    try:
        return read_inert(file, zipped)
    except CheckpointError:
        raise
    except CalledError as error:
        unsafe = str(error)
    except Exception as error:  # as above
        failure = error
    if not allow_pickle:
        raise UnsafeCheckpointError(
            f"{path}: reading it would run code that the file names ({unsafe}), so nothing was "
            "loaded. Save it again where it was made, with torch.save(model.state_dict(), path) "
            "and plain numbers beside it; or, if you trust its origin, allow it with "
            "--allow-pickle (allow_pickle=True)."
        ) from failure
    try:
        return _torch_load(file, zipped, weights_only=False)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be unpickled here ({type(error).__name__}: {_first_line(error)}). "
            "The package that defines its classes must be installed; or save it again with "
            "torch.save(model.state_dict(), path)."
        ) from error


def _understood(path: AnyPath, allow_pickle: bool) -> Layout:
    value = _read(path, allow_pickle)
    try:
        return interpret(value)
    except (CheckpointError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: {error}; save the weights again as one flat dict: "
            "torch.save(model.state_dict(), path)"
        ) from None


def _torch_load(path: Path, zipped: bool, *, weights_only: bool) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # told in our own words
        if path.suffix != ".safetensors":
            mapped = zipped or None
            return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=mapped)
        with path.open("rb") as file:  # newer torch goes by this suffix; an open file has none
            return torch.load(file, map_location="cpu", weights_only=weights_only)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else ""


def _offending_global(path: AnyPath, zipped: bool, message: str) -> str:
    """Return the global that weights-only reading refused, or an empty string."""
    match = re.search(r"GLOBAL ([\w.]+)", message) or re.search(
        r"[Uu]nsupported (?:global|class)[^\w]+([\w.]+)", message
    )
    if match:
        return match[1]
    if "Weights only load failed" not in message and "weights_only" not in message:
        return ""
    found = globals_of(path, zipped)
    if not found and "nsupported operand" in message:
        return "a pickle protocol that torch reads only with all of pickle's powers"
    return next(iter(found or ()), "")


@lru_cache(maxsize=1)
def _layout_of_series(path: AnyPath, _state: tuple[int, int], allow_pickle: bool) -> Layout:
    """Keep the last series file mapped: its entries are asked for one after the other."""
    return _understood(path, allow_pickle)


def _load(path: AnyPath, index: int, count: int, allow_pickle: bool) -> TensorMap:
    if count == 1:
        layout = _understood(path, allow_pickle)
    else:
        try:
            status = local_copy(path).stat()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        layout = _layout_of_series(path, (status.st_mtime_ns, status.st_size), allow_pickle)
    if index >= len(layout.states):
        raise CheckpointError(f"{path}: changed since it was opened; open the run again")
    return TorchMap(layout.states[index].tensors, path)


def _is_zip(path: AnyPath) -> bool:
    try:
        with path.open("rb") as file:
            return bool(file.read(4) == _ZIP)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _load_sharded(path: AnyPath, allow_pickle: bool) -> TensorMap:
    weight_map, _ = read_index(path)
    shards = {
        name: _understood(path.parent / name, allow_pickle).states
        for name in dict.fromkeys(weight_map.values())
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, shard in weight_map.items():
        if not shards[shard] or name not in shards[shard][0].tensors:
            raise CheckpointError(f"{path.parent / shard}: lacks {name!r}, which {path.name} names")
        tensors[name] = shards[shard][0].tensors[name]
    return TorchMap(tensors, path)


def _open_sharded(path: AnyPath, allow_pickle: bool) -> Contents:
    weight_map, metadata = read_index(path)
    entry = Entry(
        load=partial(_load_sharded, path, allow_pickle),
        specs=_load_sharded(path, allow_pickle).specs(),
        metadata=metadata,
        parts=tuple(path.parent / name for name in sorted(set(weight_map.values()))),
    )
    return Contents(entries=[entry])


class PyTorchFormat:
    """Files written by ``torch.save``."""

    name = "pytorch"
    description = (
        "torch.save files: a state dict, a dict that holds one, or a whole series in one file"
    )
    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt", ".bin", ".pth.tar", INDEX)
    extra = ""
    lazy = True
    safe = True
    remote = True

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether the file is a zip that begins with torch's pickle, or an older file."""
        if path.name.endswith(INDEX):
            return head.lstrip()[:1] == b"{"
        if head.startswith(_ZIP):
            length = int.from_bytes(head[26:28], "little")
            first = head[30 : 30 + length]
            return first.endswith((b"/data.pkl", b"/version", b"/byteorder", b"/.format_version"))
        return _LEGACY in head[:32]

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:
        """Return the checkpoints in `path`; see `Format.open`."""
        if path.name.endswith(INDEX):
            return _open_sharded(path, allow_pickle)
        local_copy(path)  # torch will want it: from here on it is read from there
        if _is_zip(path) and is_torchscript(archive := Archive(path)):
            return torchscript.open(archive.path, allow_pickle=allow_pickle)
        layout = _understood(path, allow_pickle)
        if not layout.states:
            raise NotACheckpointError(
                f"{path}: not a network's checkpoint, {layout.reason}; expected a state dict or "
                "a dict that holds one (model, state_dict, ...)"
            )
        count = len(layout.states)
        entries = [
            Entry(
                load=partial(_load, path, index, count, allow_pickle),
                specs=TorchMap(state.tensors, path).specs(),
                metadata=layout.metadata if count == 1 else {},
                steps=state.steps,
                member=state.member,
            )
            for index, state in enumerate(layout.states)
        ]
        return Contents(
            entries=entries,
            config=layout.config,
            curves=layout.curves,
            split=layout.split,
            notices=layout.notices,
        )


FORMAT = PyTorchFormat()
