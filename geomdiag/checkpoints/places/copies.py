"""Whole copies of remote files, for readers that need a file of this machine.

They lie in a folder of their own among the system's temporary files, which the process that made
it removes when it ends, and which processes started by it may share. What was not used for the
longest time makes room when there are too many.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from geomdiag.checkpoints.places.paths import AnyPath, RemotePath
from geomdiag.errors import CheckpointError

__all__ = [
    "BUDGET",
    "local_copy",
    "room_for",
    "share_folder",
    "shared_folder",
    "temporary_file",
    "whole",
]

#: Bytes of copies beyond which old ones are dropped.
BUDGET = 4 << 30
#: Bytes of the disk that are left free.
_RESERVE = 256 << 20

_folder: Path | None = None
_unseen = 0  # bytes fetched since the folder was last looked through
_lock = threading.Lock()


def _home() -> Path:
    """Return the folder of the copies, made on first use."""
    global _folder
    with _lock:
        if _folder is None:
            _folder = Path(tempfile.mkdtemp(prefix="geomdiag-"))
            atexit.register(_remove, _folder, os.getpid())
    return _folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def shared_folder() -> Path | None:
    """Return the folder that other processes may use, None if there are no copies yet."""
    return _folder


def share_folder(folder: Path | None) -> None:
    """Use the folder of the process that started this one, which also removes it."""
    global _folder
    if folder is not None:
        _folder = folder


def whole(path: AnyPath) -> AnyPath:
    """Return what to read all of a file from: a copy where it is far, else the file itself.

    A file too large to be kept, or for the disk, is read where it is.

    Raises
    ------
    CheckpointError
        If it cannot be fetched.
    """
    if not isinstance(path, RemotePath) or path.source.near(path.inside):
        return path
    try:
        size = path.source.size(path.inside)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if size is not None and size > min(BUDGET, _free()):
        return path
    return local_copy(path)


def local_copy(path: AnyPath, beside: Iterable[AnyPath] = (), *, kept: bool = False) -> Path:
    """Return a file of this machine with the bytes of `path`.

    Parameters
    ----------
    path : Path or RemotePath
        A `pathlib.Path` is returned as it is.
    beside : iterable of Path or RemotePath
        Files that must lie in the same place relative to it: in its folder or below.
    kept : bool
        Whether it must stay until this process ends; else it may be dropped to make room when it
        was not used for a long time, so ask again before each use.

    Returns
    -------
    Path

    Raises
    ------
    CheckpointError
        If the bytes cannot be fetched, or there is no room for them.
    """
    if isinstance(path, Path):
        return path
    if not isinstance(path, RemotePath):
        raise TypeError(f"a {type(path).__name__} is neither a pathlib.Path nor a RemotePath")
    files = [path, *(each for each in beside if isinstance(each, RemotePath) and each != path)]
    places = [_place(file, path.parent) for file in files]
    try:
        told = "\n".join(f"{file}\0{file.source.stamp(file.inside)}" for file in files)
        name = hashlib.sha256(told.encode()).hexdigest()[:32]
        unit = _home() / (f"kept-{name}" if kept else name)
        if unit.is_dir():
            os.utime(unit)  # used just now
        else:
            _fetch(files, places, unit)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for file, place in zip(files, places, strict=True):
        file.source.copied[file.inside] = unit / place
    return unit / places[0]


def _place(file: RemotePath, folder: RemotePath) -> Path:
    """Return where a file is put: names from afar must not lead elsewhere."""
    parts = file.relative_to(folder).parts
    safe = [_safe(part) for part in (*parts[:-1], file.name)]
    return Path(*safe)


def _safe(name: str) -> str:
    plain = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name)
    if plain.strip(". ") == "" or len(plain.encode()) > 200:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        plain = f"{digest}{PurePosixPath(plain).suffix[:20]}"
    return plain


def _fetch(files: list[RemotePath], places: list[Path], unit: Path) -> None:
    """Fetch files into the new folder `unit`, which appears when it is complete."""
    sizes = [file.source.size(file.inside) for file in files]
    known = sum(size or 0 for size in sizes)
    free = room_for(known, files[0])
    _make_room(known)
    made = Path(tempfile.mkdtemp(prefix="part-", dir=_home()))
    try:
        for file, place, size in zip(files, places, sizes, strict=True):
            target = made / place
            target.parent.mkdir(parents=True, exist_ok=True)
            most = free if size is None else size
            count = 0
            with target.open("xb") as out:
                for chunk in file.source.chunks(file.inside):
                    count += len(chunk)
                    if count > most:
                        break
                    out.write(chunk)
            if count > most or (size is not None and count != size):
                raise CheckpointError(
                    f"{file}: {count} bytes came where {most} were expected"
                    f"{' at most' if size is None else ''}; try again, or copy the file to this "
                    "machine"
                )
        try:
            made.rename(unit)
        except OSError:
            if not unit.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def room_for(size: int, path: object) -> int:
    """Return the bytes that may be written among the copies.

    Raises
    ------
    CheckpointError
        If there is less room than `size`.
    """
    free = _free()
    if size > free:
        raise CheckpointError(
            f"{path}: reading it needs {size} bytes in {_home().parent}, which has "
            f"{free} to spare; set TMPDIR to a folder with more room, or copy what is "
            "wanted to this machine"
        )
    return free


def _free() -> int:
    home = _home()
    home.mkdir(exist_ok=True)
    return max(0, shutil.disk_usage(home).free - _RESERVE)


def temporary_file(name: str) -> Path:
    """Return a place for a new file that is kept until this process ends."""
    return Path(tempfile.mkdtemp(prefix="kept-", dir=_home())) / _safe(name)


def _make_room(size: int) -> None:
    """Drop the copies that were not used for the longest time."""
    global _unseen
    _unseen += size
    if _unseen < BUDGET // 16:  # looking through all of them each time would take long
        return
    _unseen = 0
    held: list[tuple[float, int, Path]] = []
    for unit in _home().iterdir():
        if not re.fullmatch(r"[0-9a-f]{32}", unit.name):
            continue
        try:
            total = sum(each.stat().st_size for each in unit.rglob("*") if each.is_file())
            held.append((unit.stat().st_mtime, total, unit))
        except OSError:  # another process dropped it
            continue
    total = size + sum(each for _, each, _ in held)
    for _, each, unit in sorted(held):
        if total <= BUDGET:
            return
        shutil.rmtree(unit, ignore_errors=True)
        total -= each
