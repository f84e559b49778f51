"""Whole objects in ``torch.save`` files, read with stand-ins: no class of the file is imported.

A module pickles as its class and its attributes. The class is replaced by an inert one, which
keeps the attributes; parameters and buffers are then found by their paths. What the pickle wants
called beyond the makers of tensors and containers is refused.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeGuard

from geomdiag.checkpoints.formats.archives import Archive
from geomdiag.checkpoints.formats.inert_numpy import NumPyType, new_array, scalar, set_array
from geomdiag.checkpoints.formats.legacy import read_mapped
from geomdiag.checkpoints.formats.unfolding import Unfolding

if TYPE_CHECKING:
    import torch

__all__ = ["CalledError", "Inert", "read_inert"]


class CalledError(Exception):
    """The pickle wants something called that is not known to be harmless; `args`: its name."""


class _Passive(type):
    """Of stand-in classes: they cannot be called."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise CalledError(cls.__qualname__)


class Inert(metaclass=_Passive):
    """Stands for an instance of a class that was not imported; its attributes are its ``vars``."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Make an instance, whatever the pickle passes."""
        return object.__new__(cls)

    def __setitem__(self, key: Any, value: Any) -> None:
        vars(self)[str(key)] = value  # of a class that extends dict: settings, mostly

    def append(self, value: Any) -> None:
        """Take an item of a class that extends list."""
        vars(self).setdefault("items", []).append(value)

    @property
    def state_dict(self) -> Any:
        """What a module's method of this name gives; no attribute where this is no module."""
        if not isinstance(vars(self).get("_parameters"), Mapping):
            raise AttributeError("state_dict")
        return lambda: dict(_tensors(self, "", 0, Unfolding()))


def _tensors(
    module: Inert, prefix: str, depth: int, seen: Unfolding
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers by path, in the order of a state dict."""
    import torch

    held = vars(module)
    homes = ("_parameters", "_buffers", "_modules")
    seen.enter(sum(len(held[home]) for home in homes if _is_mapping(held.get(home))), depth)
    passing = held.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, set) else set()
    for home in ("_parameters", "_buffers"):
        for name, value in _items(held, home):
            if isinstance(value, torch.Tensor) and not (home == "_buffers" and name in passing):
                yield f"{prefix}{name}", value
    for name, child in _items(held, "_modules"):
        if isinstance(child, Inert):
            yield from _tensors(child, f"{prefix}{name}.", depth + 1, seen)


def _items(held: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    inner = held.get(name)
    if _is_mapping(inner):
        yield from ((str(key), value) for key, value in inner.items())


def _is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _encode(text: Any, encoding: Any = "") -> bytes:
    if encoding != "latin1":  # how protocol 2 spells bytes
        raise CalledError("_codecs.encode")
    return str(text).encode("latin1")


def _no_bytes(*given: Any) -> bytes:
    if given:  # protocol 2 spells empty bytes so; else it could ask for any number of them
        raise CalledError("bytes")
    return b""


def _new(cls: Any, base: Any, _: Any) -> Any:
    if not (isinstance(cls, _Passive) and base is object):
        raise CalledError("copyreg._reconstructor")
    kind: Any = cls
    return object.__new__(kind)


def _builders() -> dict[str, Any]:
    """Return the globals that may be called, or be what they say; all only build values."""
    import torch

    names = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    paths = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    return {
        **{f"torch._utils.{name}": getattr(torch._utils, name) for name in names},
        **{f"torch.{name}": value for name, value in vars(torch).items() if _is_plain(value)},
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "collections.OrderedDict": OrderedDict,
        "collections.defaultdict": lambda *_: {},
        "collections.Counter": lambda *_: {},
        "collections.deque": lambda *_: [],
        **{
            f"{home}.{name}": kind
            for home in ("builtins", "__builtin__")
            for name, kind in (("set", set), ("frozenset", frozenset), ("object", object))
        },
        "_codecs.encode": _encode,
        **{f"{home}.bytes": _no_bytes for home in ("builtins", "__builtin__")},
        "copyreg._reconstructor": _new,
        "copy_reg._reconstructor": _new,
        **{
            f"{home}.{name}": lambda *parts: "/".join(map(str, parts))
            for home in ("pathlib", "pathlib._local")
            for name in paths
        },
        **{
            f"numpy.{core}.multiarray.{name}": maker
            for name, maker in (("_reconstruct", new_array), ("scalar", scalar))
            for core in ("core", "_core")
        },
        "numpy.dtype": NumPyType,
    }


def _is_plain(value: Any) -> bool:
    import torch

    return isinstance(value, torch.dtype | torch.layout | torch.memory_format)


def read_inert(path: Path, zipped: bool) -> Any:
    """Read what ``torch.save`` wrote without importing or calling what it names.

    Parameters
    ----------
    path : Path
        The file.
    zipped : bool
        Whether it is a zip archive, else one of torch's older files.

    Returns
    -------
    object
        Containers, numbers and tensors, which keep the file mapped, and `Inert` objects.

    Raises
    ------
    CalledError
        If something would have to be called that is not known to be harmless.
    CheckpointError
        If a member of the archive is not what it seems.
    Exception
        Whatever torch and pickle raise on a damaged file.
    """
    import torch

    if not zipped:  # never by torch itself, which unpacks a tar archive and follows its links
        return read_mapped(path, _unpickler())
    archive = Archive(path)
    # torch loads a program from such a file; its own reader says what torch will see.
    seen = torch._C.PyTorchFileReader(str(path)).get_all_records()
    if any(name.endswith("constants.pkl") for name in (*archive.members, *seen)):
        raise CalledError("a TorchScript program")
    if (pickled := archive.suffixed("/data.pkl")) is not None:
        archive.read(pickled)  # its size, checked
    unpickler = _unpickler()

    def load(file: Any, **how: Any) -> Any:
        return unpickler(file, **how).load()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what would be told to the makers of the file
        return torch.load(
            path,
            map_location="cpu",
            weights_only=False,
            mmap=True,
            pickle_module=SimpleNamespace(__name__="inert", Unpickler=unpickler, load=load),
        )


def _unpickler() -> type[Any]:
    """Return a class that unpickles with stand-ins."""
    import numpy as np

    storage_type: Any = import_module("torch.serialization").StorageType  # untyped
    builders = _builders()
    made: dict[str, Any] = {}

    def build(unpickler: Any) -> None:
        # An object's state may be set, not what hangs on a function or a class of ours.
        found = unpickler.stack[-2]
        if isinstance(found, np.ndarray):
            set_array(found, unpickler.stack.pop())
        elif isinstance(found, NumPyType):
            found.set_state(unpickler.stack.pop())
        elif isinstance(found, Inert | OrderedDict):
            pickle._Unpickler.load_build(unpickler)  # type: ignore[attr-defined]
        else:
            raise CalledError(f"{type(found).__module__}.{type(found).__qualname__}.__setstate__")

    def refuse_bytearray(_: Any) -> None:  # it would be made as long as the pickle says
        raise CalledError("bytearray")

    class Unpickler(pickle._Unpickler):  # the C one allocates whatever a memo index says
        dispatch = {  # noqa: RUF012
            **pickle._Unpickler.dispatch,
            pickle.BUILD[0]: build,
            pickle.BYTEARRAY8[0]: refuse_bytearray,
        }

        def find_class(self, module: str, name: str) -> Any:
            full = f"{module}.{name}"
            if full in builders:
                return builders[full]
            if module == "torch" and name.endswith("Storage"):
                with suppress(KeyError):
                    return storage_type(name)
            if full not in made:
                made[full] = _Passive(name, (Inert,), {"__qualname__": full})
            return made[full]

        def get_extension(self, code: int) -> Any:
            raise CalledError(f"a copyreg extension ({code})")

    return Unpickler
