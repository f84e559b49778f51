"""A callback that measures the network while the `Trainer` of Hugging Face trains it."""

from __future__ import annotations

from typing import Any

from geomdiag.errors import MissingExtraError
from geomdiag.live.monitor import Monitor

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("transformers", "transformers") from error

__all__ = ["GeometryCallback"]


class GeometryCallback(TrainerCallback):
    """Measures the trained model every so many global steps, and at the end.

    Only the first process of a distributed training measures. Sharded models (FSDP) are refused.

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
    >>> callback = GeometryCallback("modadd:p=31", out="run.geomdiag.zarr")  # doctest: +SKIP
    >>> Trainer(model, callbacks=[callback], train_dataset=rows).train()  # doctest: +SKIP
    """

    def __init__(self, task: Any, **options: Any) -> None:
        self.monitor: Monitor | None = None
        self._task, self._options = task, options

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure the network that the training starts from."""
        if state.is_world_process_zero:
            self.monitor = Monitor(kwargs["model"], self._task, **self._options)
            self.monitor.step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure if the step's turn has come."""
        if self.monitor is not None:
            self.monitor.step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure the last step and write the result."""
        if self.monitor is not None:
            self.monitor.close(state.global_step)
