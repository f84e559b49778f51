"""The files of a folder that grows: what they are, and since when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Files", "Stamp"]

#: Names under which writers keep a file until it is whole.
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".writing")

#: Size and time of a file's last change.
Stamp = tuple[int, int]


class Files:
    """The files of a folder as they were at the last look.

    Parameters
    ----------
    path : Path
        The folder, or a file alone; it need not be there yet.
    settle : float
        Seconds after its last change until which a file is young.
    ignore : iterable of path
        Files that are passed over, as are those under temporary names.
    """

    def __init__(
        self, path: Path, settle: float, ignore: Iterable[str | os.PathLike[str]] = ()
    ) -> None:
        self._path, self._settle = path, settle
        self._passed_over = {Path(one).resolve() for one in ignore}
        self._names = {one.name.lower() for one in self._passed_over}
        self._seen: dict[Path, tuple[Stamp, float]] = {}  # with the moment it was first seen so
        self._looked = False

    def look(self) -> bool:
        """Note size and time of every file; return whether any differs from the last look."""
        now = time.monotonic()
        seen: dict[Path, tuple[Stamp, float]] = {}
        moved = not self._looked
        for path in self._listed():
            try:
                found = path.stat()
            except OSError:
                continue  # gone since it was listed
            stamp = (found.st_size, found.st_mtime_ns)
            known = self._seen.get(path)
            if known is not None and known[0] == stamp:
                seen[path] = known
                continue
            moved = True
            # what lies there from the start is as old as it says; later, our own clock counts
            age = 0.0 if self._looked else max(0.0, time.time() - found.st_mtime)
            seen[path] = (stamp, now - age)
        moved = moved or len(seen) != len(self._seen)
        self._seen, self._looked = seen, True
        return moved

    def _listed(self) -> list[Path]:
        found = [self._path] if self._path.is_file() else []
        for folder, folders, names in os.walk(self._path):
            folders[:] = [one for one in folders if not one.startswith(".")]
            folders[:] = [one for one in folders if not one.endswith(".zarr")]
            found += [Path(folder, name) for name in names]
        return [path for path in found if not self.ignored(path)]

    def ignored(self, path: Path) -> bool:
        """Return whether a file is passed over."""
        name = path.name.lower()
        return name.endswith(_TEMPORARY) or (
            name in self._names and path.resolve() in self._passed_over
        )

    def __contains__(self, path: Path) -> bool:
        return path in self._seen

    def young(self, path: Path) -> bool:
        """Return whether a file changed so lately that it may not be whole."""
        known = self._seen.get(path)
        return known is None or time.monotonic() - known[1] < self._settle

    def all_young(self) -> set[Path]:
        """Return the files that may not be whole."""
        return {path for path in self._seen if self.young(path)}

    def under(self, folder: Path) -> set[Path]:
        """Return the files that a folder and its folders hold."""
        return {path for path in self._seen if folder in path.parents}

    def stamp(self, path: Path) -> Stamp:
        """Return size and time of a file's last change; zeros for one that is not there."""
        return self._seen[path][0] if path in self._seen else (0, 0)

    def without(self, others: set[Path]) -> dict[Path, Stamp]:
        """Return size and time of the files that are not among others."""
        return {path: stamp for path, (stamp, _) in self._seen.items() if path not in others}

    def changed_since(self, files: set[Path]) -> bool:
        """Return whether files were written or removed since the last look."""
        for path in files:
            try:
                now = path.stat()
            except OSError:
                return True
            if path in self and self.stamp(path) != (now.st_size, now.st_mtime_ns):
                return True
        return False
