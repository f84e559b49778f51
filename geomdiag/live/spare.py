"""A journal that keeps in memory what cannot be written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from geomdiag.errors import DiskFullError, StoreError
from geomdiag.store import Journal

__all__ = ["SpareJournal"]


class SpareJournal(Journal):
    """Finished steps of an analysis, on disk where there is room and in memory where not.

    Attributes
    ----------
    patient : bool
        Whether the place was written before, so that any failure to write may pass.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self.patient = False
        self._spare: dict[str, tuple[Any, dict[str, NDArray[Any]]]] = {}

    def open(self) -> None:
        """Make the folder, or do without it for now.

        Raises
        ------
        StoreError
            If it cannot be written, and more room would not change that.
        """
        try:
            super().open()
        except DiskFullError:
            pass
        except StoreError:
            if not self.patient:
                raise

    def keys(self) -> set[str]:
        """Return the keys of the entries that are there."""
        return super().keys() | set(self._spare)

    def put(self, key: str, header: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep an entry, wherever that is possible."""
        try:
            super().put(key, header, arrays)
        except StoreError:
            # as it would come from the disk
            self._spare[key] = json.loads(json.dumps(header)), dict(arrays)

    def get(self, key: str) -> tuple[Any, dict[str, NDArray[Any]]] | None:
        """Return the header and arrays put under `key`, or None."""
        return self._spare.get(key) or super().get(key)

    def remove(self, key: str) -> None:
        """Remove the entry put under `key`, if there is one."""
        self._spare.pop(key, None)
        super().remove(key)

    def clear(self) -> None:
        """Remove the journal."""
        self._spare.clear()
        super().clear()

    def steps(self) -> dict[str, dict[int, str]]:
        """Return the steps of each run that are there, with their digests."""
        found: dict[str, dict[int, str]] = {}
        for entry in map(self.get, sorted(self.keys())):
            if entry is not None and "run" in entry[0]:
                step, digest, *_ = entry[0]["row"]
                found.setdefault(entry[0]["run"], {})[step] = digest
        return found
