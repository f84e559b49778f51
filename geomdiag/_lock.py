"""One process alone writes a result."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from geomdiag.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock"]


class _Held(NamedTuple):
    """A lock that this process holds."""

    file: int
    holder: weakref.ref[Lock]


_held: dict[Path, _Held] = {}
#: Locks are of a process: its threads must not find one free together.
_guard = threading.RLock()


class Lock:
    """Keeps others from writing a result.

    The system lets go of it when the process ends, however that ends. Where it has no such
    locks (Windows, some network file systems) all may write.

    Within a process `take` takes it from an earlier holder, which may be forgotten in a
    notebook; ``with`` takes it from nobody, and nobody takes it from a ``with``.

    Parameters
    ----------
    target : Path
        The result.
    what : str
        What writes there, in a word or two.
    """

    def __init__(self, target: Path, what: str) -> None:
        self._target, self._what = target, what
        self._taken = self._scoped = False
        self._let_go: weakref.finalize[..., Lock] | None = None

    @property
    def path(self) -> Path:
        """The file that is locked; it is there while the lock is held."""
        return self._target.with_name(f".{self._target.name}.lock")

    def take(self) -> None:
        """Take the lock.

        Raises
        ------
        StoreError
            If another process has it, or a later holder of this process.
        """
        self._take(from_others=True)

    def release(self) -> None:
        """Let go of it, if it is held."""
        self._scoped = False
        if self._let_go is not None:
            self._let_go()

    def __enter__(self) -> Self:
        self._take(from_others=False)
        self._scoped = True
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, *, from_others: bool) -> None:
        with _guard:
            held = _held.get(self.path)
            holder = None if held is None else held.holder()
            if holder is self:
                return
            if holder is not None and (self._taken or holder._scoped or not from_others):
                later = "a later" if self._taken else "another"
                raise StoreError(
                    f"{self._target} is written by {later} {holder._what} of this process. End "
                    "that one first, or choose another output path."
                )
            file = self._acquire() if held is None else held.file
            if file is not None:
                _held[self.path] = _Held(file, weakref.ref(self))
                self._let_go = weakref.finalize(self, _release, self.path, file, id(self))
            self._taken = True

    def _acquire(self) -> int | None:
        """Return the open, locked file; None where there are no locks."""
        if fcntl is None:
            return None
        while True:
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:
                return None  # what is wrong with the place is told when it is written
            try:
                # of the kind that a forked process does not inherit: a data loader may live on
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                who = _who(file)
                os.close(file)
                raise StoreError(
                    f"{self._target} is being written by another process{who}. End that one "
                    "first, or choose another output path."
                ) from error
            except OSError:
                os.close(file)
                return None
            if self._is(file):
                with suppress(OSError):  # a full disk: then messages do not say who has it
                    os.truncate(file, 0)
                    os.pwrite(file, self._about(), 0)
                return file
            os.close(file)  # its holder removed it meanwhile

    def _about(self) -> bytes:
        about = {
            "what": self._what,
            "process": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        return json.dumps(about).encode()

    def _is(self, file: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(file))
        except OSError:
            return False


def _who(file: int) -> str:
    """Return what is known of a lock's holder."""
    try:
        about = json.loads(os.pread(file, 1000, 0))
        return " ({what}, pid {process} on {host}, since {since})".format(**about)
    except (OSError, ValueError, TypeError, LookupError):
        return ""  # it has only just come, or could write nothing


def _release(path: Path, file: int, holder: int) -> None:
    with _guard:
        held = _held.get(path)
        if held is None or held.file != file:
            return
        now = held.holder()
        if now is not None and id(now) != holder:
            return  # a later one of this process has it
        del _held[path]
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            os.close(file)


def _forget() -> None:
    """Begin a forked process: it has none of its parent's locks."""
    global _guard
    _guard = threading.RLock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
