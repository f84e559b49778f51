"""Pickles looked at without running them: which globals they name, and why they are refused."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

__all__ = ["globals_of", "read_plain", "read_restricted"]

_MAKERS_TEXT = "dict list set frozenset tuple bytes bytearray complex int float str bool"
#: Globals that only build values: no file is accused for them.
_MAKERS = frozenset(
    [f"{home}.{name}" for home in ("builtins", "__builtin__") for name in _MAKERS_TEXT.split()]
    + [f"numpy{c}.multiarray.{n}" for c in (".core", "._core") for n in ("_reconstruct", "scalar")]
    + [f"numpy{core}.numeric._frombuffer" for core in (".core", "._core")]
    + ["numpy.ndarray", "numpy.dtype", "_codecs.encode"]
)


def globals_of(path: AnyPath, zipped: bool) -> list[str] | None:
    """Return the globals that a pickle names beyond torch's and collections'.

    Parameters
    ----------
    path : Path or RemotePath
        The file; nothing in it is executed.
    zipped : bool
        Whether it is one of torch's zip archives.

    Returns
    -------
    list of str or None
        None if the pickle is damaged.
    """
    try:
        if zipped:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                return _named(archive.read(name))
        return _named(path.read_bytes())
    except Exception:  # pickletools raises whatever it meets in a damaged file
        return None


def _named(data: bytes) -> list[str]:
    found: list[str] = []
    texts: list[str] = []  # strings in the order they are pushed
    memo: dict[int, str] = {}
    last: str | None = None
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "MEMOIZE" or name.endswith("PUT"):
            place = len(memo) if argument is None else int(argument)
            memo[place] = last if last is not None else ""
            continue
        last = None
        if name in ("GLOBAL", "INST"):
            found.append(str(argument).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            found.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            last = argument
        elif name.endswith("GET") and argument is not None:
            last = memo.get(int(argument)) or None
        if last is not None:
            texts.append(last)
    return [name for name in found if not name.startswith(("torch.", "collections."))]


def read_plain(path: AnyPath, allow_pickle: bool) -> Any:
    """Refuse a pickle that torch did not write, or unpickle it if that is allowed.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    allow_pickle : bool
        Whether the user trusts it.

    Returns
    -------
    object
        What it holds.

    Raises
    ------
    UnsafeCheckpointError
        If `allow_pickle` is False.
    CheckpointError
        If it is damaged or cannot be unpickled.
    """
    named = globals_of(path, zipped=False)
    if named is None:
        raise CheckpointError(
            f"{path}: cannot be read; a truncated or damaged pickle. Copy or save it again."
        )
    if not allow_pickle:
        worst = next((name for name in named if name not in _MAKERS), "")
        accused = f" (this one names {worst})" if worst else ""
        raise UnsafeCheckpointError(
            f"{path}: a plain pickle, not a torch.save file: not read, because reading a pickle "
            f"can run code{accused}. Save it again with torch.save(state_dict, path), as "
            "safetensors or with np.savez; or, if you trust its origin, allow it with "
            "--allow-pickle (allow_pickle=True)."
        )
    try:
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - allowed by the user
    except Exception as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{path}: cannot be unpickled here ({type(error).__name__}: {text}). The package that "
            "defines its classes must be installed; or save it again as a dict of plain arrays."
        ) from error


def _refuse_bytearray(_: Any) -> None:
    raise pickle.UnpicklingError("it holds a bytearray")  # made as long as the pickle says


class _Restricted(pickle._Unpickler):  # the C one allocates whatever a memo index says
    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse_bytearray}  # noqa: RUF012

    def __init__(
        self,
        data: bytes,
        find: Callable[[str], Any],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._find, self._persistent = find, persistent

    def find_class(self, module: str, name: str) -> Any:
        return self._find(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to things outside itself")
        return self._persistent(pid)

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"it names a copyreg extension ({code})")


def read_restricted(
    path: AnyPath,
    data: bytes,
    find: Callable[[str], Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Unpickle with stand-ins only: nothing is imported and nothing of the file's runs.

    Parameters
    ----------
    path : Path or RemotePath
        The file, for messages.
    data : bytes
        The pickle.
    find : callable
        Takes a global's dotted name and returns what stands for it, or raises `KeyError`.
    persistent : callable, optional
        Takes a persistent id and returns what stands for it.

    Returns
    -------
    object
        What it holds, made of plain values and stand-ins.

    Raises
    ------
    UnsafeCheckpointError
        If it names a global that `find` does not know.
    CheckpointError
        If it is damaged.
    """

    def known(name: str) -> Any:
        try:
            return find(name)
        except KeyError:
            raise UnsafeCheckpointError(
                f"{path}: it names {name}, which is no part of this format, so nothing was "
                "loaded: reading it could run code. Save the weights again with "
                "torch.save(model.state_dict(), path) or as safetensors."
            ) from None

    try:
        return _Restricted(data, known, persistent).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes of its stack
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); save or copy it again"
        ) from error
