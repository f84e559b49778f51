"""Where a monitor's result lies, and when it is worth writing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geomdiag import store
from geomdiag._lock import Lock

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Place"]

#: Writing the result may take this share of the time that passes between two writings: what is
#: measured in between lies in the journal.
WRITING = 0.05


class Place:
    """A result's path, with the journal beside it.

    Parameters
    ----------
    path : path
        A Zarr folder, or a netCDF file if the name ends in ``.nc``.
    if_exists : {"continue", "replace"}
        What becomes of a result that lies there.

    Raises
    ------
    StoreError
        If it cannot be written, or something else lies there; from `open` and `write` also if
        another process writes there.
    """

    def __init__(
        self, path: str | os.PathLike[str], if_exists: Literal["continue", "replace"]
    ) -> None:
        self.path = store.check_target(path)
        self.journal = store.Journal.beside(self.path)
        self._continued = if_exists == "continue"
        self._lock = Lock(self.path, "monitor")
        self._took = 0.0
        self._written = -float("inf")

    def open(self) -> xr.DataTree | None:
        """Prepare the journal; return the result to be continued, if there is one."""
        self._lock.take()
        if not self._continued:
            self.journal.clear()
        self.journal.open()
        return store.load(self.path) if self._continued and self.holds_result() else None

    def holds_result(self) -> bool:
        """Return whether a result lies there (a folder without anything in it is none)."""
        path = self.path
        return path.is_file() or (path.is_dir() and any(path.iterdir()))

    def worth_writing(self) -> bool:
        """Return whether enough time has gone by since the last writing."""
        return time.perf_counter() - self._written >= self._took / WRITING

    def write(self, make: Callable[[], xr.DataTree]) -> None:
        """Make the result and replace what lies there; the journal has then done its duty.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        began = time.perf_counter()
        try:
            self._lock.take()
            store.save(make(), self.path, _format(self.path))
            self.journal.clear()
        finally:
            self._written = time.perf_counter()
            self._took = self._written - began

    def leave(self) -> None:
        """Let others write there."""
        self._lock.release()

    def set_aside(self, tree: xr.DataTree, word: str) -> Path:
        """Write a result beside this one, where nothing lies yet; return where."""
        return set_aside(self.path, tree, word)


def set_aside(path: Path, tree: xr.DataTree, word: str) -> Path:
    """Write a result beside the one at `path`, where nothing lies yet; return where."""
    stem, number = path.name.removesuffix(path.suffix), 1
    aside = path.with_name(f"{stem}.{word}{path.suffix}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{stem}.{word}~{number}{path.suffix}")
    return store.save(tree, aside, _format(aside))


def _format(path: Path) -> store.Format:
    return "netcdf" if path.suffix == ".nc" else "zarr"
