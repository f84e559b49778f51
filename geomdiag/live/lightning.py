"""A callback that measures the network while Lightning trains it."""

from __future__ import annotations

from typing import Any

from geomdiag.errors import MissingExtraError
from geomdiag.live.callback import MonitorCallback

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingExtraError("lightning", "lightning") from error

__all__ = ["GeometryCallback"]


class GeometryCallback(MonitorCallback, Callback):
    """Measures the module that Lightning trains; parameters are those of `MonitorCallback`.

    Examples
    --------
    >>> Trainer(callbacks=[GeometryCallback("modadd", out="run.geomdiag.zarr")])  # doctest: +SKIP
    """

    def __init__(self, task: Any, **options: Any) -> None:
        super().__init__(task, **options)
        self._last = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network that the training starts from."""
        if trainer.is_global_zero:
            self._last = trainer.global_step
            self._begin(pl_module, self._last)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Measure if a step's turn has come; accumulated batches make one step."""
        if trainer.global_step != self._last:
            self._last = trainer.global_step
            self._see(self._last)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Measure the last step and write the result."""
        self._end(trainer.global_step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Write what was measured."""
        if self.monitor is not None:
            self.monitor.__exit__(type(exception), exception, exception.__traceback__)
