"""A callback that measures the network while Lightning trains it."""

from __future__ import annotations

from typing import Any

from geomdiag.errors import MissingExtraError
from geomdiag.live.monitor import Monitor

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingExtraError("lightning", "lightning") from error

__all__ = ["GeometryCallback"]


class GeometryCallback(Callback):
    """Measures the trained module every so many global steps, and at the end.

    Only the first process of a distributed training measures. Sharded modules (FSDP) are refused.

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

    Examples
    --------
    >>> Trainer(callbacks=[GeometryCallback("modadd", out="run.geomdiag.zarr")])  # doctest: +SKIP
    """

    def __init__(self, task: Any, **options: Any) -> None:
        self.monitor: Monitor | None = None
        self._task, self._options = task, options
        self._last = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network that the training starts from."""
        if trainer.is_global_zero:
            self.monitor = Monitor(pl_module, self._task, **self._options)
            self._see(trainer)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Measure if a step's turn has come; accumulated batches make one step."""
        self._see(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Measure the last step and write the result."""
        if self.monitor is not None:
            self.monitor.close(trainer.global_step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Write what was measured."""
        if self.monitor is not None:
            self.monitor.__exit__(type(exception), exception, exception.__traceback__)

    def _see(self, trainer: Any) -> None:
        if self.monitor is not None and trainer.global_step != self._last:
            self._last = trainer.global_step
            self.monitor.step(self._last)
