"""Files and folders replaced in one step, whatever happens on the way.

What is new is written beside its destination under a name that tells machine and process,
and exchanged with what lay there. A writer that died leaves either that temporary, which the
next one removes, or, where the system cannot exchange, the old result under another name,
which the next one brings back.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geomdiag.errors import DiskFullError, StoreError

__all__ = ["plain_errors", "recover", "replacing", "write_text"]

_active: set[Path] = set()  # temporaries of writings under way in this process


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, it takes the place of `target`."""
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{_machine()}-{os.getpid()}.tmp")
    _active.add(temporary)
    try:
        _remove(temporary)
        yield temporary
        _flush(temporary)
        _exchange(temporary, target)
    finally:
        with suppress(OSError):
            _remove(temporary)
        _active.discard(temporary)


@contextmanager
def plain_errors(target: Path) -> Iterator[None]:
    """Turn the system's errors into one that names the path and what to do."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "Free some space" if full else "Check the folder's permissions"
        raise (DiskFullError if full else StoreError)(
            f"cannot write {target}: {error.strerror or error}. {remedy}, or choose another "
            "output path. A result that was there before is untouched."
        ) from error


def write_text(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a text, replacing an earlier file in one step; return where it lies.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    target = Path(path).resolve()
    with plain_errors(target), replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return target


def _flush(path: Path) -> None:
    """Bring the bytes of a file, or of all files in a folder, to the disk."""
    entries = [path] if path.is_file() else [*path.rglob("*"), path]
    for entry in [*entries, path.parent]:
        if entry.is_dir() and sys.platform == "win32":
            continue  # a folder cannot be opened there
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchange(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`; the old result ends up in `temporary`."""
    if not target.exists():
        temporary.rename(target)
    elif temporary.is_file() and target.is_file():
        temporary.replace(target)
    elif not _swap(temporary, target):
        # Between the two renamings the result is missing under its name: `recover` mends that.
        backup = _backup(target)
        _remove(backup)
        target.rename(backup)
        temporary.rename(target)
        _remove(backup)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done = renameat2(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(exchange))
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _backup(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def recover(target: Path) -> None:
    """Bring back the old result if a writer died between the two renamings."""
    backup = _backup(target)
    if not backup.exists():
        return
    if target.exists():
        _remove(backup)
    else:
        backup.rename(target)


def _remove_leftovers(target: Path) -> None:
    """Remove temporaries whose writer is dead."""
    prefix, suffix = f".{target.name}.", ".tmp"
    for entry in target.parent.iterdir():
        if not (entry.name.startswith(prefix) and entry.name.endswith(suffix)):
            continue
        machine, _, pid = entry.name[len(prefix) : -len(suffix)].rpartition("-")
        if machine != _machine() or not pid.isdigit() or entry in _active:
            continue
        if int(pid) == os.getpid() or not _alive(int(pid)):
            _remove(entry)


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # no harmless way to ask: leave the file alone
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    """Return a short mark of this machine: process ids mean nothing on another one."""
    import platform

    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
