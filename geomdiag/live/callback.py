"""What the callbacks of all trainers have in common."""

from __future__ import annotations

from typing import Any

from geomdiag.live.monitor import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback:
    """Measures the trained network every so many global steps, and at the end.

    Only the first process of a distributed training measures. Sharded networks (FSDP) are refused.

    Parameters
    ----------
    task : str or Task
        As in `geomdiag.live.Monitor`.
    **options
        Further arguments of `geomdiag.live.Monitor`: ``out``, ``every``, ``split``, ``sinks``, ...

    Attributes
    ----------
    monitor : Monitor or None
        From the start of the training on, in the first process.
    """

    def __init__(self, task: Any, **options: Any) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._task, self._options = task, options

    def _begin(self, network: Any, step: int) -> None:
        """Measure the network that the training starts from."""
        self.monitor = Monitor(network, self._task, **self._options)
        self.monitor.step(step)

    def _see(self, step: int) -> None:
        """Measure if the step's turn has come."""
        if self.monitor is not None:
            self.monitor.step(step)

    def _end(self, step: int) -> None:
        """Measure the last step and write the result."""
        if self.monitor is not None:
            self.monitor.close(step)
