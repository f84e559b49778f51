"""One training alone writes a result."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from geomdiag.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock"]

#: Path of each lock that this process holds, its open file, and who took it last.
_held: dict[Path, tuple[int, object]] = {}


class Lock:
    """Keeps other processes, and this process's older monitors, from writing a result.

    The system lets go of it when the process ends, however that ends. Where it has no such
    locks (Windows, some network file systems) all may write.

    Parameters
    ----------
    target : Path
        The result.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name}.lock")
        self._taken = False

    def take(self) -> None:
        """Take the lock; within a process, from an earlier holder.

        Raises
        ------
        StoreError
            If another process has it, or a later monitor of this process.
        """
        held = _held.get(self._path)
        if held is not None and held[1] is self:
            return
        if self._taken and held is not None:
            raise StoreError(
                f"{self._target} is written by a later monitor of this process. Use that one, or "
                "another path for out."
            )
        file = self._acquire() if held is None else held[0]
        if file is not None:
            _held[self._path] = file, self
        self._taken = True

    def release(self) -> None:
        """Let go of it, if it is held."""
        held = _held.get(self._path)
        if held is None or held[1] is not self:
            return
        del _held[self._path]
        with suppress(OSError):
            self._path.unlink()
        os.close(held[0])

    def _acquire(self) -> int | None:
        """Return the open, locked file; None where there are no locks."""
        if fcntl is None:
            return None
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:
                return None  # what is wrong with the place is told when it is written
            try:
                # of the kind that a forked process does not inherit: a data loader may live on
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                who = os.pread(file, 20, 0).decode("ascii", "replace").strip()
                os.close(file)
                raise StoreError(
                    f"{self._target} is being written by another training"
                    f"{f' (process {who})' * bool(who)}. Choose another path for out, or end that "
                    "one first."
                ) from error
            except OSError:
                os.close(file)
                return None
            if self._is(file):
                with suppress(OSError):  # a full disk: then messages do not say who has it
                    os.truncate(file, 0)
                    os.pwrite(file, str(os.getpid()).encode(), 0)
                return file
            os.close(file)  # its holder removed it meanwhile

    def _is(self, file: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(file))
        except OSError:
            return False
