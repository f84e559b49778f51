"""What watching costs, and whether there is still room for more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Clock", "Cost"]


@dataclass(frozen=True)
class Cost:
    """What watching has cost so far.

    Attributes
    ----------
    seconds : float
        Spent in the monitor.
    share : float
        Of the wall time since the monitor was made.
    measured, skipped : int
        Steps measured, and steps left out because the share was above `max_share`.
    """

    seconds: float
    share: float
    measured: int
    skipped: int

    def __str__(self) -> str:
        steps = "1 step" if self.measured == 1 else f"{self.measured} steps"
        text = f"{steps} measured in {self.seconds:.1f} s, {self.share:.1%} of the time"
        return text + (f"; {self.skipped} skipped to stay in the budget" if self.skipped else "")

    def attrs(self) -> dict[str, float | int]:
        """Return it as a result's attributes."""
        return {
            "live_seconds": round(self.seconds, 3),
            "live_share": round(self.share, 5),
            "live_measured": self.measured,
            "live_skipped": self.skipped,
        }


class Clock:
    """Counts the time spent in blocks of code, and steps.

    Parameters
    ----------
    max_share : float or None
        Share of the wall time that may be spent.
    """

    def __init__(self, max_share: float | None) -> None:
        self.max_share = max_share
        self.measured = self.skipped = 0
        self._began, self._spent = time.perf_counter(), 0.0
        self._inside = False

    @property
    def cost(self) -> Cost:
        """What was spent by now."""
        passed = max(time.perf_counter() - self._began, 1e-9)
        return Cost(self._spent, self._spent / passed, self.measured, self.skipped)

    def over_budget(self) -> bool:
        """Return whether more than the allowed share is spent; the first step is always free."""
        if self.max_share is None or not self.measured:
            return False
        return self.cost.share > self.max_share

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time spent in the outermost such block."""
        if self._inside:
            yield
            return
        self._inside, began = True, time.perf_counter()
        try:
            yield
        finally:
            self._inside = False
            self._spent += time.perf_counter() - began
