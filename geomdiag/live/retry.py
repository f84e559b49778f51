"""Writing again what could not be written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from geomdiag.errors import DiskFullError, StoreError

__all__ = ["Retry"]

#: Seconds until it is tried again; twice as long after each failure.
FIRST, LONGEST = 2.0, 60.0


class Retry:
    """Attempts to write one thing.

    A full disk may pass at any time; what else the system says, once a writing has succeeded.

    Attributes
    ----------
    problem : str
        Why the last attempt failed; empty where it did not.
    worked : bool
        Whether any attempt has succeeded.
    """

    def __init__(self) -> None:
        self.problem, self.worked = "", False
        self._wait, self._again = FIRST, 0.0

    def due(self) -> bool:
        """Return whether enough time has gone by since the last failure, if there was one."""
        return time.monotonic() >= self._again

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Note whether a block that writes succeeds.

        Raises
        ------
        StoreError
            If it fails for what waiting does not mend.
        """
        try:
            yield
        except StoreError as error:
            passes = self.worked and isinstance(error.__cause__, OSError)
            if not isinstance(error, DiskFullError) and not passes:
                raise
            self.problem, self._again = str(error), time.monotonic() + self._wait
            self._wait = min(2 * self._wait, LONGEST)
        else:
            self.problem, self.worked = "", True
            self._wait, self._again = FIRST, 0.0
