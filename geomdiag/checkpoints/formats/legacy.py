"""Older, unzipped ``torch.save`` files, mapped into memory instead of read as a whole.

Such a file holds five pickles (magic number, version, system, the object, the keys of its
storages) and then each storage: its number of elements as eight bytes, and the elements. Where
a storage lies is known only once the keys are, so the object is unpickled twice: for the
storages' sizes, and with the file's own bytes behind them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

__all__ = ["read_mapped"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def read_mapped(path: Path, unpickler: Callable[[IO[bytes]], Any] | None = None) -> Any:
    """Read such a file without the values.

    Parameters
    ----------
    path : Path
        The file.
    unpickler : callable, optional
        Makes of the open file what unpickles its object, with the methods of
        `pickle.Unpickler`. Left out: what `torch.load` uses with ``weights_only=True``.

    Returns
    -------
    object
        As `torch.load` returns it, on the CPU; tensors keep the file mapped.

    Raises
    ------
    Exception
        Whatever torch raises on a damaged file, on one that asks for more than weights, or on
        one that is of another make; `torch.load` then says what is wrong, or reads it.
    """
    if unpickler is None:
        weights_only: Any = import_module("torch._weights_only_unpickler")
        unpickler = weights_only.Unpickler
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # it may fail, which is told
        return _read(file, path, unpickler)


def _read(file: IO[bytes], path: Path, unpickler: Callable[[IO[bytes]], Any]) -> Any:
    torch: Any = import_module("torch")  # untyped where this goes
    if unpickler(file).load() != _MAGIC or unpickler(file).load() != _VERSION:
        raise ValueError("not the older format of torch.save")
    unpickler(file).load()  # of the system: little-endian, like every machine torch runs on
    begin = file.tell()
    sizes: dict[str, tuple[int, int]] = {}

    def unpickle(storage_of: Callable[[str, int], Any]) -> Any:
        def persistent_load(saved: Any) -> Any:
            if saved[0] == "module":  # a class, and its source code
                return saved[1]
            kind, storage_type, key, _, count, view = saved
            item = torch._utils._element_size(storage_type.dtype)
            if kind != "storage" or sizes.setdefault(str(key), (count, item)) != (count, item):
                raise ValueError(f"{kind} {key!r} is there twice, or no storage")
            storage = storage_of(str(key), count * item)
            if view is not None:
                _, offset, length = view
                storage = storage[offset * item : (offset + length) * item]
            return torch.storage.TypedStorage(
                wrap_storage=storage, dtype=storage_type.dtype, _internal=True
            )

        file.seek(begin)
        reader = unpickler(file)
        reader.persistent_load = persistent_load
        return reader.load()

    unpickle(lambda _, length: torch.UntypedStorage(length, device="meta"))
    size = path.stat().st_size
    keys = [str(key) for key in unpickler(file).load()]
    places: dict[str, int] = {}
    at = file.tell()
    for key in keys:
        count, item = sizes[key]
        file.seek(at)
        if int.from_bytes(file.read(8), "little") != count or at + 8 + count * item > size:
            raise ValueError(f"the storage {key!r} does not lie where it should")
        places[key] = at + 8
        at += 8 + count * item
    mapped = torch.UntypedStorage.from_file(str(path), False, size)
    return unpickle(lambda key, length: mapped[places[key] : places[key] + length])
